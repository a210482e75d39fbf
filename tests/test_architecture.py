"""Holds the table of rooms: who may import whom, where each library lives, how large a file may grow."""

import ast
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BASE = {
    "class_paths",
    "commands",
    "contracts",
    "errors",
    "expressions",
    "jit",
    "kept_positions",
    "progress",
    "schema",
    "stores",
    "strict_yaml",
    "tensors",
    "wheels",
}
MAY_IMPORT = {
    "class_paths": set(),
    "commands": set(),
    "errors": set(),
    "contracts": {"errors", "schema", "tensors"},
    "expressions": {"errors"},
    "jit": set(),
    "kept_positions": {"contracts", "jit"},
    "progress": set(),
    "schema": {"errors"},
    "stores": {"errors"},
    "strict_yaml": set(),
    "tensors": set(),
    "wheels": {"errors"},
    "bundle": {"encryption", "signatures"},
    "cache": set(),
    "encryption": set(),
    "signatures": set(),
    "pipeline": set(),
    "data": {"encryption"},
    "features": set(),
    "content": set(),
    "index": set(),
    "policy": {"signatures"},
    "user_seed": {"data", "features"},
    "nn": {"features"},
    "retrieval": {"features", "nn"},
    "ranking": {"features", "nn"},
    "candidates": {"features", "index"},
    "items": {"bundle", "content", "features", "index", "policy"},
    "stages": {"bundle", "candidates", "content", "features", "index", "items", "policy"},
    "metrics": set(),
    "replay": {"candidates", "data", "metrics", "pipeline", "policy"},
    "evaluation": {"cache", "candidates", "data", "features", "index", "metrics", "pipeline", "policy", "replay"},
    "graphs": {"content", "features", "ranking", "retrieval", "stages"},
    "export": {"bundle", "encryption", "features", "index", "pipeline", "signatures", "stages"},
    "experiments": {"data", "policy"},
    "measurement": {"bundle", "data", "features", "experiments", "items", "pipeline", "policy", "stages"},
    "serving": {
        "bundle",
        "candidates",
        "data",
        "encryption",
        "experiments",
        "export",
        "features",
        "index",
        "items",
        "measurement",
        "pipeline",
        "policy",
        "replay",
        "signatures",
        "stages",
        "user_seed",
    },
    "recommender": {"bundle", "index", "pipeline", "policy", "stages", "user_seed"},
    "click_model": {"bundle", "data", "features", "stages"},
    "run": {"data", "evaluation", "recommender", "replay", "stages"},
    "train.py": {"cli"},
    "export.py": {"cli"},
}
MAY_IMPORT["training"] = (
    set(MAY_IMPORT)
    - BASE
    - {"export", "experiments", "recommender", "run", "serving"}
    - {
        "train.py",
        "export.py",
    }
)
MAY_IMPORT["cli"] = set(MAY_IMPORT) - {"serving", "train.py", "export.py"}
MAY_IMPORT["__main__"] = {"cli"}
SERVING_BASE = {"disk", "endpoints", "layout", "private_folder", "process_tuning", "processes"}
SERVING_MAY_IMPORT = {
    "private_folder": set(),
    "endpoints": {"private_folder"},
    "layout": {"private_folder"},
    "process_tuning": set(),
    "processes": {"private_folder"},
    "disk": {"layout"},
    "stages": {"process_tuning"},
    "triton": SERVING_BASE,
    "events": SERVING_BASE,
    "state": {*SERVING_BASE, "events"},
    "gateway": {*SERVING_BASE, "events", "state", "triton"},
    "ops": {*SERVING_BASE, "events", "gateway", "state", "triton"},
    "wiring": {*SERVING_BASE, "events", "gateway", "ops", "state", "triton"},
    "cli": {*SERVING_BASE, "events", "gateway", "ops", "triton", "wiring"},
    "__main__": {"cli", "processes"},
    "__init__": set(),
}
HOMES = {
    "cryptography": {"encryption", "signatures"},
    "pytorch_lightning": {"training"},
    "wandb": {"training"},
    "mlflow": {"training"},
    "torchmetrics": {"evaluation", "training"},
    "matplotlib": {"evaluation"},
    "implicit": {"candidates"},
    "tokenizers": {"content"},
    "faiss": {"index"},
    "typer": {"cli", "serving"},
    "hydra": {"cli"},
    "omegaconf": {"cli"},
    "optuna": {"cli"},
    "lightgbm": {"ranking"},
    "tritonclient": {"serving/triton"},
    "prometheus_client": {"serving"},
    "jwt": {"serving"},
    "fastapi": {"serving"},
    "redis": {"serving"},
    "nats": {"serving"},
    "triton_python_backend_utils": {"serving/stages"},
}
WITHOUT_TORCH = (
    *(
        f"recsys.{name}"
        for name in ["contracts", "errors", "expressions", "bundle", "features.encode", "candidates.sources"]
    ),
    *(f"recsys.{name}" for name in ["index", "items", "policy.compose", "stages", "pipeline"]),
    "serving.triton.client",
    "recsys.recommender",
    "recsys.cli.train",
    "recsys.cli.main",
    "recsys.click_model",
    "recsys.run",
    "recsys.measurement.kpis",
    "recsys.measurement.gauges",
    "recsys.data.simulation.simulated_log",
)


def python_files(*places):
    found = [file for place in places for file in ([place] if place.is_file() else sorted(place.rglob("*.py")))]
    return [file for file in found if "__pycache__" not in file.parts]


PRODUCT = python_files(ROOT / "recsys", ROOT / "serving", ROOT / "train.py", ROOT / "export.py")
ALL = [*PRODUCT, *python_files(ROOT / "tests", *(ROOT / name for name in ("benchmarks",) if (ROOT / name).exists()))]


@cache
def imports(source):
    """Full names of all that a text imports, inside functions and by import_module as well; relative ones begin '.'."""
    names = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=aliases):
                names += [alias.name for alias in aliases]
            case ast.ImportFrom(module=module, names=aliases, level=level):
                names += ["." * level + f"{module or ''}.{alias.name}".lstrip(".") for alias in aliases]
            case ast.Call(func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__")):
                names += [one.value for one in node.args[:1] if isinstance(one, ast.Constant)]
    return names


def room_of(file):
    parts = file.relative_to(ROOT).parts
    return Path(parts[1]).stem if parts[0] == "recsys" and len(parts) > 1 else parts[0]


def rooms_of(file):
    """Rooms of recsys that a file imports, its own aside."""
    parts = (name.split(".") for name in imports(file.read_text(encoding="utf-8")))
    return {one[1] for one in parts if one[0] == "recsys" and len(one) > 1} - {room_of(file)}


def relative(file):
    return str(file.relative_to(ROOT))


def test_the_reader_of_imports_sees_them_all():
    source = "import a.b\nfrom . import c\nfrom recsys import d\ndef f():\n    from e import g\n    import_module('h')"
    assert sorted(imports(source)) == [".c", "a.b", "e.g", "h", "recsys.d"]


@pytest.mark.parametrize("file", PRODUCT, ids=relative)
def test_a_room_imports_only_what_it_may(file):
    room = room_of(file)
    if relative(file) == "recsys/__init__.py":
        return  # names for callers, imported when they are used
    assert room in MAY_IMPORT, f"{relative(file)} is in no known room"
    base = set() if room in BASE else BASE
    assert rooms_of(file) <= MAY_IMPORT[room] | base, f"{relative(file)} may not import all of this"


@pytest.mark.parametrize("file", [file for file in PRODUCT if room_of(file) == "serving"], ids=relative)
def test_a_room_of_serving_imports_only_what_it_may(file):
    room = Path(file.relative_to(ROOT).parts[1]).stem
    names = (name.split(".") for name in imports(file.read_text(encoding="utf-8")))
    used = {parts[1] for parts in names if parts[0] == "serving" and len(parts) > 1} - {room}
    assert used <= SERVING_MAY_IMPORT[room], f"{relative(file)} may not import all of this"


def test_nobody_but_its_entry_imports_the_cli():
    assert [relative(file) for file in PRODUCT if "cli" in rooms_of(file)] == [
        "recsys/__main__.py",
        "train.py",
        "export.py",
    ]


@pytest.mark.parametrize("file", [file for file in PRODUCT if room_of(file) != "serving"], ids=relative)
def test_nobody_imports_serving_or_an_entry_point(file):
    first = {name.split(".")[0] for name in imports(file.read_text(encoding="utf-8"))}
    assert not first & {"serving", "train", "export", "tests", "benchmarks"}


@pytest.mark.parametrize(("library", "homes"), HOMES.items(), ids=list(HOMES))
def test_one_library_one_room(library, homes):
    users = [file for file in PRODUCT if library in {name.split(".")[0] for name in imports(file.read_text("utf-8"))}]
    strangers = [relative(file) for file in users if room_of(file) not in homes and not in_folder(file, homes)]
    assert not strangers


def in_folder(file, folders):
    return any(relative(file).startswith(f"{folder}/") for folder in folders)


@pytest.mark.parametrize("file", ALL, ids=relative)
def test_size_names_and_absolute_imports(file):
    source = file.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 600
    assert not {"utils", "helpers", "common", "misc"} & {Path(part).stem for part in file.relative_to(ROOT).parts}
    assert not [name for name in imports(source) if name.startswith(".")]


@pytest.mark.parametrize(
    ("file", "most"),
    [(ROOT / "train.py", 20), (ROOT / "export.py", 20)]
    + [(file, 60) for file in sorted((ROOT / "serving" / "stages").glob("*/model.py"))],
    ids=lambda value: relative(value) if isinstance(value, Path) else str(value),
)
def test_entry_points_and_triton_models_stay_short(file, most):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= most


def test_there_is_a_triton_model_for_every_stage():
    assert {file.parent.name for file in (ROOT / "serving" / "stages").glob("*/model.py")} == {
        "retrieve",
        "rank",
        "rules",
        "explain",
    }


def runs(lines):
    script = "import sys\n" + "\n".join(lines)
    answer = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stderr


def test_serving_and_commands_need_no_torch():
    runs(f"import {name}; assert 'torch' not in sys.modules, {name!r}" for name in WITHOUT_TORCH)


def test_a_training_with_csv_files_imports_no_other_tracker():
    trackers = {"wandb", "mlflow", "tensorboard"}
    runs(["import recsys.cli.sweep, recsys.training.tracking", f"assert not {trackers} & sys.modules.keys()"])


def test_every_test_file_has_its_own_name():
    names = Counter(file.name for file in python_files(ROOT / "tests") if file.name != "conftest.py")
    assert [name for name, count in names.items() if count > 1] == []
    assert not list((ROOT / "tests").rglob("__init__.py"))
