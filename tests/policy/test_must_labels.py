"""A must holds for an item only where its condition is true whatever the labels are that the item lacks."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from slow_twin import objects

from recsys.expressions import compile_expression
from recsys.policy.rules import RuleSet
from recsys.policy.rules.compiled_rules import CompiledRules
from recsys.policy.rules.lint import CheckedCatalogue, check

TYPES = {"age": "number", "genre": "category", "tags": "categories"}
DOMAINS: dict[str, list[Any]] = {"age": [1.0, 5.0], "genre": ["a", "b"], "tags": [("a",), ("b",), ("a", "b")]}
MISSING: dict[str, Any] = {"age": None, "genre": None, "tags": ()}
ATOMS = ["age < 3", "age != 1", "3 < age", "genre == 'a'", "genre != 'a'", "genre in ('a', 'c')", "contains(tags, 'a')"]
NEGATIONS = [f"not {atom}" for atom in ATOMS]
ITEMS = [
    dict(zip(DOMAINS, values, strict=True))
    for values in itertools.product(*([*domain, MISSING[name]] for name, domain in DOMAINS.items()))
]


def columns(rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    found = {name: objects([row[name] for row in rows]) for name in ("genre", "tags")}
    return {**found, "age": np.array([row["age"] for row in rows], dtype=float)}


def holds(text: str, rows: list[dict[str, Any]], *, required: bool) -> list[bool]:
    names = TYPES if required else ()
    return compile_expression(text, TYPES, where="must", result_type="boolean", required=names)(columns(rows)).tolist()


def completions(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The item with every value that it could have."""
    values = (DOMAINS[name] if row[name] == MISSING[name] else [row[name]] for name in DOMAINS)
    return [dict(zip(DOMAINS, one, strict=True)) for one in itertools.product(*values)]


conditions = st.recursive(
    st.sampled_from(ATOMS),
    lambda parts: (
        st.builds("not ({})".format, parts)
        | st.builds("({}) and ({})".format, parts, parts)
        | st.builds("({}) or ({})".format, parts, parts)
    ),
    max_leaves=6,
)


@given(text=conditions)
def test_what_holds_would_hold_with_any_label(text: str) -> None:
    for row, found in zip(ITEMS, holds(text, ITEMS, required=True), strict=True):
        possible = holds(text, completions(row), required=False)
        assert not found or all(possible), row
        if all(row[name] != MISSING[name] for name in row):
            assert [found] == possible, "it lacks nothing"


@pytest.mark.parametrize("text", [*ATOMS, *NEGATIONS])
def test_a_comparison_with_a_label_that_an_item_lacks_forbids_it(text: str) -> None:
    name = next(name for name in TYPES if name in text)
    lacking = [row for row in ITEMS if row[name] == MISSING[name]]
    assert not any(holds(text, lacking, required=True))
    assert all(holds(f"{text} or missing({name})", lacking, required=True))


def test_another_label_may_decide_alone() -> None:
    row = {"age": None, "genre": "a", "tags": ()}
    assert holds("not age < 3 or genre == 'a'", [row], required=True) == [True]
    assert holds("not (age < 3 and genre == 'b')", [row], required=True) == [True]
    assert holds("not (age < 3 and genre == 'a')", [row], required=True) == [False]
    assert holds("abs(age) > -1 or min(age, 1) > 0", [row], required=True) == [False]


def test_only_a_must_needs_the_labels() -> None:
    document = {
        "rules": [
            {"name": "must", "must": "not genre == 'a' and not age < context.most"},
            {"name": "boost", "boost": 2, "where": "not genre == 'a'"},
        ]
    }
    rows = [{"age": 5.0, "genre": "b", "tags": ()}, {"age": 5.0, "genre": None, "tags": ()}]
    catalogue = {**columns(rows), "item": objects(["1", "2"])}
    rules = CompiledRules.compile(RuleSet.parse(document), catalogue, TYPES, {"context.most": "number"})
    assert rules.conditions.items.tolist() == [[True, True], [False, True]]


def test_lint_counts_what_a_label_forbids() -> None:
    rows = [{"age": 5.0, "genre": "b", "tags": ()}, {"age": 5.0, "genre": None, "tags": ()}]
    catalogue = CheckedCatalogue(
        columns={**columns(rows), "item": objects(["1", "2"])}, item_types=TYPES, request_types={}
    )
    text = "rules:\n  - {name: a, must: \"not genre == 'c'\"}\n"
    messages = [one.message for one in check(text.replace("'c'", "'b'").replace("not ", ""), catalogue, now=0)]
    assert messages == ["1 items lack genre, which forbids them; write `or missing(genre)` to show them"]
    allowing = "rules:\n  - {name: a, must: \"genre == 'b' or missing(genre)\"}\n"
    assert not any("lack" in one.message for one in check(allowing, catalogue, now=0))
