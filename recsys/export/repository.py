"""Writer of Triton model repositories, one release a bundle (`recsys.export.releases`).

<release>/bundle/                      a copy of the bundle, encrypted where a key is configured
<release>/models/{retrieve,rank,rules,explain}/{config.pbtxt, 1/}
<release>/models/{recommend,recommend_light,recommend_explained}/{config.pbtxt, 1/}
<release>/manifest.json, manifest.sig  of the models (`recsys.export.release_manifest`)
"""

from pathlib import Path
from typing import Any

from recsys.bundle import Bundle, copy_bundle
from recsys.encryption import configured_encryption_key
from recsys.errors import ConfigError
from recsys.export.configuration import (
    PROFILES,
    DeclaredStage,
    Profile,
    ensemble_configuration,
    pbtxt,
    stage_configuration,
)
from recsys.export.ranker_graph import write_ranker_graph
from recsys.export.release_manifest import sign_release, write_manifest
from recsys.export.releases import check_serve_folder, release_draft
from recsys.index import AS_TRAINED, IndexChoice
from recsys.pipeline import light
from recsys.stages import RANKER, load_explain, load_stages

MODEL = """from serving.stages.{name}.model import TritonPythonModel

__all__ = ["TritonPythonModel"]
"""


def write_repository(
    bundle: Bundle, path: Path, profile: Profile, sign_key: Path | None = None, index: IndexChoice | None = None
) -> list[str]:
    """Write bundle and models as a new release of a serve folder and publish it; older releases and all state stay.

    sign_key: file of the private key that signs the models. index: what the stage `retrieve` searches by; None for faiss as
    trained, and for `auto` in the profile gpu. Returns the model names. ConfigError for an unknown profile or a
    folder with other things in it.
    """
    if profile not in PROFILES:
        raise ConfigError(f"profile is {profile!r}; choose one of {', '.join(PROFILES)}")
    if profile != "cpu" and configured_encryption_key() is not None:
        raise ConfigError(
            "profile gpu has Triton read the ranker, which it cannot decrypt; export profile=cpu, or without a key"
        )
    if index is None:
        index = AS_TRAINED if profile == "cpu" else IndexChoice(kind="auto")
    check_serve_folder(path)
    stages: Any = load_stages(bundle)
    ensembles = {"recommend": stages, "recommend_light": light(stages)}
    if bundle.has(RANKER):
        ensembles["recommend_explained"] = stages = (*stages, load_explain(bundle))
    with release_draft(path, bundle.fingerprint) as draft:
        copy_bundle(bundle, draft / "bundle")
        for stage in stages:
            _write_stage(draft, stage, stage_configuration(stage, profile, index), bundle)
        for name, members in ensembles.items():
            _write_model(draft, name, ensemble_configuration(name, members))
        Bundle.open(draft / "bundle")  # the copy, before it can be published
        write_manifest(draft, bundle.fingerprint)
        if sign_key is not None:
            sign_release(draft, sign_key)
    return [*(stage.name for stage in stages), *ensembles]


def _write_stage(draft: Path, stage: DeclaredStage, configuration: dict[str, Any], bundle: Bundle) -> None:
    version = _write_model(draft, stage.name, configuration)
    if configuration["backend"] == "onnxruntime":
        write_ranker_graph(bundle.file(RANKER), version / "model.onnx", bundle.fingerprint)
    else:
        (version / "model.py").write_text(MODEL.format(name=stage.name), encoding="utf-8")


def _write_model(draft: Path, name: str, configuration: dict[str, Any]) -> Path:
    version = draft / "models" / name / "1"
    version.mkdir(parents=True)
    (version.parent / "config.pbtxt").write_text(pbtxt(configuration), encoding="utf-8")
    return version
