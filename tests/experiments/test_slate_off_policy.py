"""Rewards of slates that were never logged, in worlds whose truth is known, and where nothing can be said."""

import numpy as np
import pytest

from benchmarks.lib.slate_world import ITEMS, SlateWorld
from recsys.errors import DataError
from recsys.experiments.slate_off_policy import CASCADE, NO_ITEM, POSITION, SlateLog, slate_value, slate_values

REQUESTS = 6_000


def world(seed, *, cascade, requests=REQUESTS):
    return SlateWorld(seed=seed, cascade=cascade).log(0, requests)


@pytest.mark.parametrize(("assumption", "cascade"), [(POSITION, False), (CASCADE, True)])
def test_intervals_hold_the_truth(assumption, cascade):
    """40 worlds: by 95% intervals 33 or fewer are a chance of 1 in 100."""
    inside = errors = 0
    for seed in range(40):
        log, truth = world(seed, cascade=cascade)
        found = slate_value(log, assumption)
        inside += found.interval[0] <= truth <= found.interval[1]
        errors += (found.value - truth) / truth
        assert found.difference[0] < found.value - found.logged < found.difference[1]
    assert inside > 33
    assert abs(errors / 40) < 0.02


def test_the_policy_of_the_log_earns_what_was_logged():
    log, _ = world(3, cascade=False)
    found = slate_value(SlateLog(**{**vars(log), "evaluated": log.shown, "propensities": np.ones_like(log.rewards)}))
    assert found.value == pytest.approx(found.logged)
    assert found.difference == pytest.approx((0.0, 0.0), abs=1e-9)
    assert (found.support, found.effective) == (1.0, REQUESTS)


def test_a_log_that_never_tried_it_is_refused():
    """A greedy log, and one that could show half of what the policy shows."""
    log, _ = world(5, cascade=False)
    greedy = SlateLog(**{**vars(log), "propensities": np.ones_like(log.rewards), "evaluated": (log.shown + 1) % ITEMS})
    assert all(isinstance(one, DataError) for one in slate_values(greedy).values())
    with pytest.raises(DataError, match="effective requests at position"):
        slate_value(greedy)
    never = np.random.default_rng(0).random(REQUESTS) < 0.5
    half = SlateLog(**{**vars(log), "evaluated": np.where(never[:, None], ITEMS + 1, log.evaluated)})
    with pytest.raises(DataError, match=r"could show \d\d% of what the policy shows"):
        slate_value(half)


def test_few_requests_are_refused():
    log, _ = world(7, cascade=False, requests=120)
    with pytest.raises(DataError, match="are needed; log more"):
        slate_value(log)


def test_short_slates_count_where_they_have_items():
    """Both policies show two items: a third position without any changes nothing."""
    log, _ = world(9, cascade=False)
    cut = {name: np.array(getattr(log, name)) for name in ("shown", "evaluated", "rewards")}
    cut["shown"][:, 2] = cut["evaluated"][:, 2] = NO_ITEM
    cut["rewards"][:, 2] = 0
    short = slate_value(SlateLog(**{**vars(log), **cut}))
    two = {name: values[:, :2] for name, values in vars(log).items() if name != "users"}
    assert short == slate_value(SlateLog(**two, users=log.users))


def test_a_propensity_of_0_is_refused():
    log, _ = world(1, cascade=False, requests=400)
    with pytest.raises(DataError, match="a propensity is 0"):
        SlateLog(**{**vars(log), "propensities": log.propensities * (np.arange(400) > 0)[:, None]})
