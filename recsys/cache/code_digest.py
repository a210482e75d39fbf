"""Digest of the sources that a module runs, so that a result of other code is not taken for one of this code."""

import ast
import hashlib
import importlib.util
import sys
import sysconfig
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
LIBRARIES = ("torch", "pytorch-lightning", "numpy", "scipy", "numba", "polars", "faiss-cpu", "lightgbm")
"""whose versions decide what a training computes, beside our own sources"""
INSTALLED = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))


@cache
def code_digest(module: str) -> str | None:
    """Return the digest of a module's source, of all modules that it imports from its own tree, and of the libraries.

    Modules of installed packages and of Python itself count by the versions alone. None where the source is not in a file.
    """
    if _source(module) is None:
        return libraries() if _installed(module.partition(".")[0]) else None
    digest = hashlib.sha256(libraries().encode())
    for file in sorted(_closure(module)):
        digest.update(file.read_bytes())
    return digest.hexdigest()


@cache
def libraries() -> str:
    """Return Python's version and those of LIBRARIES."""
    return " ".join([sys.version, *(f"{name} {_version(name)}" for name in LIBRARIES)])


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "-"


@cache
def _closure(module: str) -> frozenset[Path]:
    """Return the files of a module and of all that it imports, directly or not."""
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found or (file := _source(name)) is None:
            continue
        found[name] = file
        waiting += _imports(file)
    return frozenset(found.values())


@cache
def _source(module: str) -> Path | None:
    """Return the file of a module that is developed with this project; None for an installed or unknown one.

    `recsys` itself has none: its public names are imported when they are used, and nothing is computed there.
    """
    root, _, rest = module.partition(".")
    origin = _origin(root)
    if module == PACKAGE.name or _installed(root) or not origin.endswith(".py"):
        return None
    if not rest:
        return Path(origin)
    path = Path(origin).parent.joinpath(*rest.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


@cache
def _origin(root: str) -> str:
    """Return the file of a top-level module, "" where there is none; no module is imported for that."""
    if loaded := sys.modules.get(root):
        return getattr(loaded, "__file__", None) or ""
    spec = importlib.util.find_spec(root)
    return spec.origin or "" if spec else ""


@cache
def _installed(root: str) -> bool:
    """Return whether a top-level module belongs to Python or to another package that is installed."""
    if root == PACKAGE.name:
        return False
    origin = _origin(root)
    return root in sys.stdlib_module_names or "site-packages" in origin or origin.startswith(INSTALLED)


@cache
def _imports(file: Path) -> tuple[str, ...]:
    """Return the modules that a file may import, inside functions as well; some of the names are no modules."""
    names: list[str] = []
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(dict.fromkeys(names))
