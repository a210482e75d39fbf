"""What a description refuses, and that it survives YAML."""

import pytest
import yaml

from recsys.data.description import Description
from recsys.errors import DataError

GOOD = {
    "actions": ["rating", "hours"],
    "context": {"device": "category"},
    "items": {"title": "text", "genres": "categories", "year": "number"},
    "users": {"age": "number"},
    "objectives": {"watch": "1", "like": "rating >= 4"},
    "target": "watch",
    "title": "title",
    "order": "time",
}


def test_survives_yaml_with_the_order_of_objectives() -> None:
    described = Description.from_document(GOOD)
    again = Description.from_document(yaml.safe_load(yaml.safe_dump(described.to_document(), sort_keys=False)))
    assert again == described
    assert list(again.objectives) == ["watch", "like"]
    assert again.actions == {"rating": "number", "hours": "number"}


def test_expressions_read_only_actions() -> None:
    expressions = Description.from_document(GOOD).expressions()
    assert expressions["like"].names == frozenset({"rating"})
    assert expressions["watch"].names == frozenset()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"items": {"title": "txt"}}, r"items: column 'title'.*kind 'txt' \(did you mean 'text'\?\)"),
        ({"users": {"age": ["number"]}}, "unknown kind"),
        ({"context": {"timestamp": "number"}}, "'timestamp', that name is reserved"),
        ({"items": {"item": "text"}}, "items: .*'item', that name is reserved"),
        ({"context": {"rating": "number"}}, "'rating' is both action and context"),
        ({"objectives": {}}, "objectives is empty"),
        ({"objectives": {"watch it": "1"}}, "'watch it' is no plain name"),
        ({"objectives": {"watch": 1}}, r'objectives.watch is 1; write an expression in quotes, for instance "1"'),
        ({"objectives": {"watch": "ratng > 3"}}, "objectives.watch.*ratng.*rating"),
        ({"objectives": {"watch": "year > 3"}}, "objectives.watch.*year"),
        ({"target": "wach"}, r"target is 'wach' \(did you mean 'watch'\?\)"),
        ({"target": ["watch"]}, "target is"),
        ({"title": "year"}, "title names 'year', which is no text or category column"),
        ({"order": "random"}, "order is 'random'"),
        ({"itmes": {}}, r"unknown key 'itmes' \(did you mean 'items'\?\)"),
    ],
)
def test_refuses_with_one_clear_sentence(change: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Description.from_document({**GOOD, **change})


def test_refuses_a_missing_key() -> None:
    with pytest.raises(DataError, match="no 'target'"):
        Description.from_document({key: value for key, value in GOOD.items() if key != "target"})
