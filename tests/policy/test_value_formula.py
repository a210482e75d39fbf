"""The value formula: known answers and everything a person can get wrong."""

import math

import numpy as np
import pytest

from recsys.errors import ConfigError
from recsys.policy.value import ValueFormula

# shapes: B 2, C 3, T 2
PROBABILITIES = np.array([[[0.5, 0.25], [1, 0], [0, 1]], [[0.125, 0.5], [0.75, 0.75], [0, 0]]], dtype=np.float32)


def test_known_answer():
    utility = ValueFormula(formula="watch + like_weight * like", weights={"like_weight": 2}).compile(["watch", "like"])
    want = np.array([[1.0, 1.0, 2.0], [1.125, 2.25, 0.0]], dtype=np.float32)
    got = utility(PROBABILITIES)
    np.testing.assert_array_equal(got, want)
    assert got.dtype == np.float32


def test_a_constant_formula_has_the_shape_of_the_candidates():
    assert (
        ValueFormula(formula="w", weights={"w": 3}).compile(["watch", "like"])(PROBABILITIES).tolist()
        == [[3.0] * 3] * 2
    )


def test_no_formula_is_the_sum_of_the_objectives():
    utility = ValueFormula(formula=None, weights={}).compile(["watch", "like"])
    np.testing.assert_array_equal(utility(PROBABILITIES), PROBABILITIES.sum(axis=2))


def test_no_finite_value_is_nan():
    formula = ValueFormula(formula="watch / like", weights={}).compile(["watch", "like"])
    assert np.isnan(formula(PROBABILITIES)).tolist() == [[False, True, False], [False, False, True]]
    overflow = ValueFormula(formula="watch * w * w", weights={"w": 1e30}).compile(["watch", "like"])
    assert np.isnan(overflow(PROBABILITIES[:, :1])).all()


def test_the_number_of_probabilities_is_checked():
    formula = ValueFormula(formula="watch", weights={}).compile(["watch"])
    with pytest.raises(ValueError, match="2 probabilities"):
        formula(PROBABILITIES)


@pytest.mark.parametrize(
    ("formula", "weights", "message"),
    [
        ("watc", {}, "did you mean 'watch'"),
        ("watch", {"w": 1.0}, "value.weights.w is not used"),
        ("watch", {"like": 1.0}, "has the name of an objective"),
        ("watch > 0.5", {}, "write one that gives a number"),
        ("w", {"w": math.nan}, "value.weights.w is nan"),
        ("w", {"w": True}, "value.weights.w is True"),
        ("w", {"w": "2"}, "value.weights.w is '2'"),
        ("watch", [1], "value.weights is a list"),
    ],
)
def test_refuses(formula, weights, message):
    with pytest.raises(ConfigError) as caught:
        ValueFormula(formula=formula, weights=weights).compile(["watch", "like"])
    assert message in str(caught.value)
