"""Writer of Triton model repositories.

<path>/bundle/                      a copy of the bundle, verified again by every stage that loads it
<path>/models/{retrieve,rank,rules,explain}/{config.pbtxt, 1/}
<path>/models/{recommend,recommend_light,recommend_explained}/{config.pbtxt, 1/}
<path>/rules/                       published rules, see recsys.policy.rules.store; an export never touches it
<path>/items/                       changed items, see recsys.items.store; nor this
<path>/exposure/                    exposure shares, see recsys.policy.exposure.exposure_file; nor this
"""

import shutil
from pathlib import Path
from typing import Any

from recsys.bundle import Bundle, replace_folder
from recsys.errors import ConfigError
from recsys.export.configuration import (
    PROFILES,
    DeclaredStage,
    Profile,
    ensemble_configuration,
    pbtxt,
    stage_configuration,
)
from recsys.pipeline import light
from recsys.stages import RANKER, load_explain, load_stages

WRITTEN = ("bundle", "models")
CONTENT = {*WRITTEN, *(f"{name}.old" for name in WRITTEN), "rules", "items", "exposure"}
"""allowed entries: output of an export, leftovers of a killed one, and stores that change between exports"""
MODEL = """from serving.stages.{name}.model import TritonPythonModel

__all__ = ["TritonPythonModel"]
"""


def write_repository(bundle: Bundle, path: Path, profile: Profile) -> list[str]:
    """Write bundle and models to a draft, then rename; rule and item stores stay. Returns the model names."""
    if profile not in PROFILES:
        raise ConfigError(f"profile is {profile!r}; choose one of {', '.join(PROFILES)}")
    if path.exists() and not (path.is_dir() and {one.name for one in path.iterdir()} <= CONTENT):
        raise ConfigError(f"{path} holds other things than an exported bundle; give a new or an empty folder")
    stages: Any = load_stages(bundle)
    draft = path.with_name(path.name + ".draft")
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(bundle.path, draft / "bundle")
    ensembles = {"recommend": stages, "recommend_light": light(stages)}
    if bundle.has(RANKER):
        ensembles["recommend_explained"] = stages = (*stages, load_explain(bundle))
    for stage in stages:
        _write_stage(draft, stage, profile)
    for name, members in ensembles.items():
        _write_model(draft, name, ensemble_configuration(name, members))
    _replace(draft, path)
    return [*(stage.name for stage in stages), *ensembles]


def _replace(draft: Path, path: Path) -> None:
    """Move the draft into place. The stores are not moved: another process may be writing to them."""
    path.mkdir(exist_ok=True)
    for name in WRITTEN:
        replace_folder(draft / name, path / name)
    draft.rmdir()


def _write_stage(draft: Path, stage: DeclaredStage, profile: Profile) -> None:
    configuration = stage_configuration(stage, profile)
    version = _write_model(draft, stage.name, configuration)
    if configuration["backend"] == "onnxruntime":
        shutil.copy(draft / "bundle" / RANKER, version / "model.onnx")
    else:
        (version / "model.py").write_text(MODEL.format(name=stage.name), encoding="utf-8")


def _write_model(draft: Path, name: str, configuration: dict[str, Any]) -> Path:
    version = draft / "models" / name / "1"
    version.mkdir(parents=True)
    (version.parent / "config.pbtxt").write_text(pbtxt(configuration), encoding="utf-8")
    return version
