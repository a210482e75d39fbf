"""Shape of the code, of this tree or of earlier commits side by side: python -m benchmarks.claims.code.code_shape [COMMIT...]

Lengths of functions, files that exactly one other file imports, rooms that import each other in circles, private words,
docstrings that open with a pronoun, comments in kernels, words of the README, class names with two meanings.
"""

import ast
import re
import statistics
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from rich import box
from rich.table import Table

from benchmarks.lib.result_file import ROOT, console

BANNED = {"told", "said", "asked", "met", "mine", "worth", "wanted", "knobs", "say", "owed"}
RIDDLE = re.compile(r"(What|Who|Whose|Whom|Whatever|How|Where|Which)\b")
SHARED_NAMES = {"TritonPythonModel"}
"""class names that a server looks for in every model"""
KERNELS = ("numba", "triton")
ENTRY_POINTS = {"__init__", "__main__", "main", "model"}
Functions = ast.FunctionDef | ast.AsyncFunctionDef
Documented = Functions | ast.ClassDef | ast.Module


def shape(root: Path) -> dict[str, str]:
    """Row name -> figure of one source tree."""
    files = [file for room in ("recsys", "serving") for file in sorted((root / room).rglob("*.py"))]
    trees = {file: ast.parse(file.read_text(encoding="utf-8")) for file in files}
    nodes = [node for tree in trees.values() for node in ast.walk(tree)]
    lengths = sorted(
        node.end_lineno - node.lineno + 1 for node in nodes if isinstance(node, Functions) and node.end_lineno
    )
    docstrings = [text for node in nodes if isinstance(node, Documented) and (text := ast.get_docstring(node))]
    readme = len((root / "README.md").read_text(encoding="utf-8").split())
    return {
        "files": f"{len(files):,}",
        "lines": f"{sum(len(file.read_text(encoding='utf-8').splitlines()) for file in files):,}",
        "function lines: median": f"{statistics.median(lengths):g}",
        "function lines: p90": f"{lengths[len(lengths) * 9 // 10]}",
        "function lines: longest": f"{lengths[-1]}",
        "files imported by exactly one file": str(sum(num == 1 for num in importers(root, trees).values())),
        "rooms in circles": str(len(circles(root, trees))),
        "private words bound": str(sum(bool(BANNED & words(name)) for tree in trees.values() for name in bound(tree))),
        "docstrings that open with a pronoun": f"{sum(map(bool, map(RIDDLE.match, docstrings)))} of {len(docstrings):,}",
        "comment lines per 1,000 in kernels": f"{comments(trees):.0f}",
        "words of README": f"{readme:,}",
        "class names with two homes": str(len(doubles(trees))),
    }


def module_of(root: Path, file: Path) -> str:
    return ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def imported(tree: ast.Module) -> Iterator[str]:
    """Full names of imported modules, and of imported names as if they were modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{one.name}" for one in node.names)


def importers(root: Path, trees: Mapping[Path, ast.Module]) -> Counter[str]:
    """Module -> number of files that import it; entry points, which nothing imports, are left out."""
    modules = {module_of(root, file) for file in trees if file.stem not in ENTRY_POINTS}
    return Counter(name for tree in trees.values() for name in modules & set(imported(tree)))


def circles(root: Path, trees: Mapping[Path, ast.Module]) -> set[frozenset[str]]:
    """Pairs of rooms of recsys that reach each other by imports."""
    reached: dict[str, set[str]] = defaultdict(set)
    for file, tree in trees.items():
        own = module_of(root, file).split(".")
        if own[0] == "recsys" and len(own) > 1:
            others = {name.split(".")[1] for name in imported(tree) if name.startswith("recsys.")}
            reached[own[1]] |= others - {own[1]}
    for middle in list(reached):
        for room in list(reached):
            if middle in reached[room]:
                reached[room] |= reached[middle]
    return {frozenset((a, b)) for a in reached for b in reached[a] if a != b and a in reached.get(b, ())}


def bound(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name


def words(name: str) -> set[str]:
    return {part.lower() for part in re.split(r"_|(?<=[a-z])(?=[A-Z])", name)}


def comments(trees: Mapping[Path, ast.Module]) -> float:
    """Whole-line comments per 1,000 lines of the files with kernels."""
    texts = [file.read_text(encoding="utf-8") for file in trees]
    kernels = [text for text in texts if "@compiled" in text or any(f"import {name}" in text for name in KERNELS)]
    lines = [line for text in kernels for line in text.splitlines()]
    return 1_000 * sum(line.lstrip().startswith("#") for line in lines) / max(1, len(lines))


def doubles(trees: Mapping[Path, ast.Module]) -> list[str]:
    names = Counter(
        node.name
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and node.name not in SHARED_NAMES
    )
    return [name for name, num in names.items() if num > 1]


def main() -> None:
    columns = {}
    for commit in sys.argv[1:]:
        with TemporaryDirectory() as folder:
            archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
            subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
            columns[commit] = shape(Path(folder))
    columns["now"] = shape(ROOT)
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("", *columns):
        table.add_column(heading, justify="right" if heading else "left")
    for row in columns["now"]:
        table.add_row(row, *(found[row] for found in columns.values()))
    console.print(table)


if __name__ == "__main__":
    main()
