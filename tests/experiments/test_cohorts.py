"""Effects by cohort: a published example, and nearer to the truth than they were on simulated ones."""

import numpy as np
import pytest

from recsys.errors import DataError
from recsys.experiments.cohorts import shrunk_effects
from recsys.experiments.effects import Effect


def effect(difference, error):
    side = error / 2**0.5
    return Effect(control=0.0, treatment=difference, control_error=side, treatment_error=side, users=100)


def test_the_eight_schools_have_their_published_posterior():
    """Means of Gelman et al. for the coaching of eight schools, from about 5 to 11 where the schools measured -3 to 28."""
    measured = [(28, 15), (8, 10), (-3, 16), (7, 11), (-1, 9), (1, 11), (18, 10), (12, 18)]
    found = [*shrunk_effects({str(i): effect(*pair) for i, pair in enumerate(measured)}).values()]
    wanted = [11.4, 7.9, 6.2, 7.7, 5.2, 6.2, 10.7, 8.5]
    assert [one.difference for one in found] == pytest.approx(wanted, abs=0.6)
    assert found[0].error == pytest.approx(8.3, abs=0.6)


def test_cohorts_that_differ_far_beyond_their_errors_stay_where_they_are():
    found = shrunk_effects({"a": effect(0.0, 0.1), "b": effect(100.0, 0.1), "c": effect(300.0, 0.1)})
    assert [one.difference for one in found.values()] == pytest.approx([0, 100, 300], abs=0.01)
    assert [one.error for one in found.values()] == pytest.approx([0.1] * 3, rel=0.01)


def test_shrunk_effects_are_nearer_to_the_truth_and_their_intervals_hold_it():
    rng = np.random.default_rng(0)
    errors, truths, raw, shrunk, inside = rng.uniform(0.5, 2, 12), [], [], [], []
    for _ in range(200):
        truth = rng.normal(0.3, 0.5, 12)
        measured = truth + errors * rng.normal(size=12)
        found = shrunk_effects({str(i): effect(*pair) for i, pair in enumerate(zip(measured, errors, strict=True))})
        ends = np.array([one.interval for one in found.values()])
        truths.append(truth)
        raw.append(measured)
        shrunk.append([one.difference for one in found.values()])
        inside.append((ends[:, 0] <= truth) & (truth <= ends[:, 1]))
    losses = [np.mean((np.array(one) - truths) ** 2) for one in (raw, shrunk)]
    assert losses[1] < 0.4 * losses[0]
    assert 0.93 < np.mean(inside) < 0.98


def test_two_cohorts_are_refused():
    with pytest.raises(DataError, match="at least 3"):
        shrunk_effects({"a": effect(1.0, 1.0), "b": effect(1.0, 1.0)})
