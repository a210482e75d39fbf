"""How much worse the worst served group of users is than the best served one: known answers."""

import numpy as np
import polars as pl
import pytest

from recsys.data.dataset import canonical
from recsys.data.description import Description
from recsys.evaluation.user_groups import MIN_USERS, UserGroups, user_groups

DESCRIPTION = Description(
    actions=("met",),
    context={},
    items={},
    users={"club": "category", "age": "number", "name": "category"},
    objectives={"met": "met"},
    target="met",
    title=None,
    order="time",
)


def document(values, recall, exposure=None):
    found = UserGroups.of(np.array(values, dtype=object))
    return found.to_document({"recall@10": recall, "ndcg@10": recall if exposure is None else exposure})


def test_worst_over_best_known_answer():
    values = ["a"] * 100 + ["b"] * 50 + ["c"] * 50 + [None] * 10
    recall = np.concatenate([np.full(100, 0.5), np.tile([0.0, 0.4], 25), np.tile([0.2, 0.6], 25), np.ones(10)])
    found = document(values, recall)
    assert {name: one["users"] for name, one in found["groups"].items()} == {"a": 100, "b": 50, "c": 50}
    assert found["groups"]["c"]["recall@10"] == pytest.approx(0.4)
    ratio = found["ratios"]["recall@10"]
    assert (ratio["worst"], ratio["best"], ratio["ratio"]) == ("b", "a", pytest.approx(0.4))
    half = 1.96 * 0.2 / np.sqrt(50) / 0.5
    assert ratio["ci95"] == pytest.approx([0.4 - half, 0.4 + half], abs=0.03)


def test_a_small_group_is_named_and_not_judged():
    values = ["a"] * 60 + ["b"] * 60 + ["rare"] * (MIN_USERS - 1)
    recall = np.concatenate([np.full(60, 0.5), np.full(60, 0.4), np.zeros(MIN_USERS - 1)])
    found = document(values, recall)
    assert found["too_small"] == {"rare": MIN_USERS - 1}
    assert "rare" not in found["groups"]
    assert found["ratios"]["recall@10"]["ratio"] == pytest.approx(0.8)


def test_groups_without_a_difference_have_the_ratio_of_chance_and_equal_ones_none():
    rng = np.random.default_rng(0)
    values = rng.choice(["a", "b", "c", "d"], 2_000)
    recall = rng.random(2_000)
    ratio = document(values, recall)["ratios"]["recall@10"]
    assert ratio["ratio"] == pytest.approx(ratio["chance"], abs=0.03)
    assert ratio["chance"] < 1
    assert document(values, np.ones(2_000))["ratios"] == {}


def test_groups_come_from_category_columns_of_which_two_values_are_frequent():
    num = 2 * MIN_USERS
    people = [f"u{number:03}" for number in range(num)]
    users = pl.DataFrame(
        {"user": people, "club": [["x", "y"][at % 2] for at in range(num)], "age": [1.0] * num, "name": people}
    )
    log = pl.DataFrame({"user": people, "item": ["i"] * num, "timestamp": [0.0] * num, "met": [1.0] * num})
    dataset = canonical(
        name="clubs", interactions=log, items=pl.DataFrame({"item": ["i"]}), users=users, description=DESCRIPTION
    )
    found = user_groups(dataset, np.array([*people[::-1], "stranger"]))
    assert list(found) == ["club"]
    assert found["club"].names == ("x", "y")
    assert found["club"].index[:2].tolist() == [1, 0], "in the order of the users that were asked for"
    assert found["club"].index[-1] == -1
