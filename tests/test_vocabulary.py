"""The words of the code: names that may not be bound, first words of docstrings, one class name for one thing."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BANNED = {"told", "said", "asked", "met", "mine", "worth", "wanted", "knobs", "say", "owed"}
RIDDLE = re.compile(r"(What|Who|Whose|Whom|Whatever|How|Where|Which)\b")
SHARED_NAMES = {"TritonPythonModel"}
"""class names that a server looks for in every model"""
PRODUCT = sorted(file for room in ("recsys", "serving") for file in (ROOT / room).rglob("*.py"))
README_WORDS = 1_200
Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module


def bound_names(tree: ast.Module) -> Iterator[str]:
    """Names of functions, classes, arguments, variables, attributes and fields."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name


def words(name: str) -> set[str]:
    return set(re.split(r"_|(?<=[a-z])(?=[A-Z])", name)) | set(re.split(r"_|(?<=[a-z])(?=[A-Z])", name.lower()))


@pytest.mark.parametrize("file", PRODUCT, ids=lambda file: str(file.relative_to(ROOT)))
def test_names_and_docstrings_use_the_words_of_the_field(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    private = sorted({name for name in bound_names(tree) if BANNED & words(name)})
    assert not private, f"{private[0]} is a private word; take the term of the field"
    documented = [node for node in ast.walk(tree) if isinstance(node, Documented)]
    openings = [text for node in documented if RIDDLE.match(text := ast.get_docstring(node) or "")]
    assert not openings, f"begin with a verb or a noun: {openings[0][:80]!r}"


def test_no_public_class_name_stands_for_two_things() -> None:
    homes = defaultdict(list)
    for file in PRODUCT:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].append(str(file.relative_to(ROOT)))
    assert not {name: files for name, files in homes.items() if len(files) > 1 and name not in SHARED_NAMES}


def test_the_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= README_WORDS
