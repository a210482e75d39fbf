"""Grades and amounts as they are written, and the objectives and means that they stand for."""

from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.amounts import expanded
from recsys.data.dataset import DESCRIPTION_FILE
from recsys.data.sources.tables import Tables
from recsys.errors import ConfigError, DataError
from recsys.expressions import compile_expression
from recsys.policy.value import ValueFormula


def test_known_answer() -> None:
    plain, means, first = expanded(
        {
            "click": "clicked",
            "stars": {"grade": "rating", "levels": [1, 2, 5]},
            "minutes": {"amount": "seconds / 60", "steps": [0, 0.5, 15]},
        }
    )
    assert plain == {
        "click": "clicked",
        "stars_from_1": "(rating) >= 1",
        "stars_from_2": "(rating) >= 2",
        "stars_from_5": "(rating) >= 5",
        "minutes_over_0": "(seconds / 60) > 0",
        "minutes_over_0_5": "(seconds / 60) > 0.5",
        "minutes_over_15": "(seconds / 60) > 15",
    }
    assert means == {
        "stars": "1 * stars_from_1 + 1 * stars_from_2 + 3 * stars_from_5",
        "minutes": "0.25 * minutes_over_0 + 7.5 * minutes_over_0_5 + 7.25 * minutes_over_15",
    }
    assert first == {"stars": "stars_from_1", "minutes": "minutes_over_0"}


def test_amounts_of_one_kind_and_counts() -> None:
    plain, means, first = expanded(
        {
            "revenue": {"amount": "price", "steps": [0, 10], "where": "kind == 'buy'"},
            "views": {"count": "kind == 'view'", "steps": [1, 2, 5]},
        }
    )
    assert plain == {
        "revenue_over_0": "where(kind == 'buy', price) > 0",
        "revenue_over_10": "where(kind == 'buy', price) > 10",
        "views_from_1": "kind == 'view'",
        "views_from_2": "count(kind == 'view') >= 2",
        "views_from_5": "count(kind == 'view') >= 5",
    }
    assert means["views"] == "1 * views_from_1 + 1 * views_from_2 + 3 * views_from_5"
    assert first == {"revenue": "revenue_over_0", "views": "views_from_1"}


def test_every_digit_of_a_cut_counts() -> None:
    plain, _, _ = expanded({"x": {"amount": "a", "steps": [0, 1e-7, 1000001, 1000002]}})
    assert list(plain) == ["x_over_0", "x_over_1eminus07", "x_over_1000001", "x_over_1000002"]
    assert all(name.isidentifier() for name in plain)
    values = {"a": np.array([5e-8, 1000002.0])}
    reached = [
        compile_expression(text, {"a": "number"}, where="", result_type="label").labels(values)
        for text in plain.values()
    ]
    assert np.array(reached).T.tolist() == [[1, 0, 0, 0], [1, 1, 1, 0]]


def mean_of(written: dict[str, Any], values: np.ndarray) -> np.ndarray:
    """The mean as a sum over what was reached, for values [R] that are known."""
    plain, means, _ = expanded({"x": written})
    reached = {
        name: np.nan_to_num(
            compile_expression(text, {"a": "number"}, where="", result_type="label").labels({"a": values})
        )
        for name, text in plain.items()
    }
    return compile_expression(means["x"], dict.fromkeys(plain, "number"), where="", result_type="number")(reached)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20))
def test_the_mean_of_known_grades_is_the_grade(grades: list[int]) -> None:
    values = np.array(grades, dtype=float)
    assert mean_of({"grade": "a", "levels": [1, 2, 3, 4, 5]}, values).tolist() == grades


@given(st.lists(st.floats(0, 100), min_size=1, max_size=20))
def test_the_mean_of_known_amounts_is_right_to_half_a_step(amounts: list[float]) -> None:
    values, steps = np.array(amounts), [0, 1, 2, 4, 8, 16]
    errors = np.abs(mean_of({"amount": "a", "steps": steps}, values) - np.minimum(values, 16))
    assert (errors <= 4).all()
    assert (errors[(values > 0) & (values <= 2)] <= 0.5).all()


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"grade": "rating"}, r"objectives\.x\.levels is None; write at least two numbers"),
        ({"grade": "rating", "levels": [3, 2]}, r"levels is \[3, 2\].*greater than the one before"),
        ({"amount": "m", "steps": [-1, 2]}, "from 0 on"),
        ({"amount": "m", "steps": [5, 10]}, r"steps begins with 5; begin with 0"),
        ({"amount": "m", "steps": [0, float("nan")]}, "write at least two numbers"),
        ({"amount": "m", "steps": [0, float("inf")]}, "write at least two numbers"),
        ({"amount": "m", "steps": [0, "2"]}, "write at least two numbers"),
        ({"amount": "m", "levels": [0, 2]}, "unknown key 'levels'"),
        ({"amount": "m", "grade": "m"}, "write an expression, "),
        ({}, "write an expression, "),
        ({"count": "a > 1", "steps": [0, 1]}, r"steps is \[0, 1\]; events are counted from 1"),
        ({"count": "a > 1", "steps": [1, 2.5]}, "write whole numbers"),
        ({"count": "a > 1", "steps": []}, "write at least one number"),
        ({"count": "a > 1", "steps": [1], "where": "a"}, "unknown key 'where'"),
    ],
)
def test_mistakes_are_said(written: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        expanded({"x": written})


def test_names_that_meet_are_refused() -> None:
    with pytest.raises(DataError, match="makes an objective 'x_from_1', which there is already"):
        expanded({"x_from_1": "a", "x": {"grade": "a", "levels": [1, 2]}})


def test_a_description_keeps_them_and_a_saved_data_set_reads_back(tmp_path: Any) -> None:
    events = {"user": list("uuvv"), "item": list("abab"), "timestamp": [1.0, 2.0, 3.0, 4.0], "rating": [1, 3, 5, None]}
    pl.DataFrame(events).write_csv(tmp_path / "events.csv")
    described = {
        "interactions": {
            "file": "events.csv",
            **{name: name for name in ("user", "item", "timestamp")},
            "actions": {"rating": "number"},
        },
        "objectives": {"stars": {"grade": "rating", "levels": [1, 3, 5]}},
        "target": "stars",
    }
    (tmp_path / "shop.yaml").write_text(yaml.safe_dump(described))
    dataset = Tables(description=str(tmp_path / "shop.yaml")).load()
    assert dataset.description.target == "stars_from_1"
    np.testing.assert_array_equal(dataset.labels(), [[1, 0, 0], [1, 1, 0], [1, 1, 1], [np.nan] * 3])
    dataset.save(tmp_path / "saved")
    again = Tables(description=str(tmp_path / "saved" / DESCRIPTION_FILE)).load()
    assert again.description == dataset.description
    assert again.description.means == {"stars": "1 * stars_from_1 + 2 * stars_from_3 + 2 * stars_from_5"}


def test_a_formula_reads_a_mean_by_its_name_and_keeps_to_objectives() -> None:
    means = {"stars": "1 * stars_from_1 + 2 * stars_from_3", "minutes": "stars_from_1"}
    value = ValueFormula(formula="click + weight * stars / (1 + minutes)", weights={"weight": 2}).expand_means(means)
    compiled = value.compile(("click", "stars_from_1", "stars_from_3"))
    assert compiled(np.array([[[0.5, 0.5, 0.25]]])).item() == pytest.approx(0.5 + 2 * (0.5 + 2 * 0.25) / 1.5)
    assert "stars_from_1" in ValueFormula(formula="stars_from_1 + stars", weights={}).expand_means(means).formula  # type: ignore[operator]
    assert ValueFormula(formula=None, weights={}).expand_means(means).formula is None
    assert ValueFormula(formula="max(click, max)", weights={}).expand_means({"max": "a"}).formula == "max(click, (a))"
    with pytest.raises(ConfigError, match=r"value\.weights\.stars has the name of a mean"):
        ValueFormula(formula="stars", weights={"stars": 1}).expand_means(means)
