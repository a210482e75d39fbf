"""The words of the code: names that may not be bound, first words of docstrings, one class name for one thing."""

import ast
from pathlib import Path

import pytest

from benchmarks.claims.code.code_shape import BANNED, RIDDLE, Documented, bound, doubles, words

ROOT = Path(__file__).parents[1]
PRODUCT = sorted(file for room in ("recsys", "serving") for file in (ROOT / room).rglob("*.py"))
README_WORDS = 1_200


@pytest.mark.parametrize("file", PRODUCT, ids=lambda file: str(file.relative_to(ROOT)))
def test_names_and_docstrings_use_the_words_of_the_field(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    private = sorted({name for name in bound(tree) if BANNED & words(name)})
    assert not private, f"{private[0]} is a private word; take the term of the field"
    documented = [node for node in ast.walk(tree) if isinstance(node, Documented)]
    openings = [text for node in documented if RIDDLE.match(text := ast.get_docstring(node) or "")]
    assert not openings, f"begin with a verb or a noun: {openings[0][:80]!r}"


def test_no_public_class_name_stands_for_two_things() -> None:
    assert doubles({file: ast.parse(file.read_text(encoding="utf-8")) for file in PRODUCT}) == []


def test_the_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= README_WORDS
