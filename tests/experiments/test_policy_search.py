"""Numbers of a policy are found from an exploring log of known truth, within bounds, and judged by other users than chose."""

import numpy as np
import pytest

from recsys.errors import ConfigError, DataError
from recsys.experiments.policy_search import Bounds, search
from recsys.experiments.slate_off_policy import SlateEstimate, SlateLog, slate_value

R, ITEMS = 6_000, 5
EARNS = np.array([0.1, 0.2, 0.6, 0.2, 0.1])
"""chance of a click of each item"""


TODAY = {"weights.buy": 0.1}


def world(num=R, propensities=(0.2,) * ITEMS):
    """Requests that show one item each, and a policy that shows the item whose fifth of the bounds its number lies in."""
    rng = np.random.default_rng(0)
    shown = rng.choice(ITEMS, size=num, p=propensities)
    clicked = (rng.random(num) < EARNS[shown]).astype(float)
    users = rng.integers(num // 2, size=num)

    def logs(numbers):
        item = min(ITEMS - 1, int(numbers["weights.buy"] * ITEMS))
        return SlateLog(
            shown=shown[:, None],
            propensities=np.array(propensities)[shown][:, None],
            rewards=clicked[:, None],
            evaluated=np.full((num, 1), item),
            users=users,
        )

    return logs


def test_the_best_number_is_found_and_both_halves_hold_what_it_earns():
    found = search(world(), {"weights.buy": Bounds(low=0.0, high=1.0)}, TODAY, seed=0)
    assert 0.4 <= found.numbers["weights.buy"] < 0.6
    for one in (found.chosen, found.judged):
        low, high = one.interval
        assert low <= EARNS[2] <= high
        assert one.difference[0] > 0.3
    gain, (low, high) = found.gain
    assert low <= EARNS[2] - EARNS[0] <= high
    assert low < gain < high


def test_users_of_one_half_are_refused():
    def alone(numbers):
        log = world()(numbers)
        parts = {name: getattr(log, name) for name in SlateLog.__dataclass_fields__}
        return SlateLog(**{**parts, "users": np.zeros(R, dtype=np.int64)})

    with pytest.raises(DataError, match="has 1 users, half of whom choose"):
        search(alone, {"weights.buy": Bounds(low=0.0, high=1.0)}, TODAY, seed=0)


def test_the_users_that_judge_did_not_choose():
    """All clicks of an item come from the half that chooses; the other half says that it earns nothing."""
    logs = world()
    half = np.random.default_rng(0).random(R // 2)
    choosing = half[logs({"weights.buy": 0.0}).users[:, None]] < 0.5

    def planted(numbers):
        log = logs(numbers)
        rewards = np.where(log.shown == 4, choosing, 0.0)
        return SlateLog(**{**{name: getattr(log, name) for name in SlateLog.__dataclass_fields__}, "rewards": rewards})

    found = search(planted, {"weights.buy": Bounds(low=0.0, high=1.0)}, TODAY, seed=0)
    assert found.numbers["weights.buy"] >= 0.8
    assert found.chosen.value == pytest.approx(1.0)
    assert found.judged.value == 0.0


def test_numbers_that_the_log_says_too_little_of_lose():
    """The best item was shown in one request of a thousand."""
    rare = (0.3, 0.3, 0.001, 0.299, 0.1)
    found = search(world(propensities=rare), {"weights.buy": Bounds(low=0.0, high=1.0)}, TODAY, seed=0)
    assert not 0.4 <= found.numbers["weights.buy"] < 0.6
    assert found.refused > 0
    assert isinstance(found.judged, SlateEstimate)


def test_a_log_that_says_nothing_is_refused():
    with pytest.raises(DataError, match="says too little of all"):
        search(world(num=100), {"weights.buy": Bounds(low=0.0, high=1.0)}, TODAY, seed=0)


def test_the_same_seed_finds_the_same_and_tries_stay_within_the_bounds():
    tried = []
    bounds = {"weights.buy": Bounds(low=0.05, high=0.55), "discount": Bounds(low=0.001, high=10.0)}
    logs = world()

    def recorded(numbers):
        tried.append(dict(numbers))
        return logs(numbers)

    today = {"weights.buy": 0.1, "discount": 1.0}
    found = [search(recorded, bounds, today, seed=3).numbers for _ in range(2)]
    assert found[0] == found[1]
    assert all(bounds[key].low <= one <= bounds[key].high for numbers in tried for key, one in numbers.items())
    below = np.mean([numbers["discount"] < 0.1 for numbers in tried])
    assert below > 0.2  # by the logarithm half of the range, by the number one hundredth


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (2.0, 1.0), (0.0, float("inf")), (float("nan"), 1.0)])
def test_bounds_that_are_none_are_refused(low, high):
    with pytest.raises(ConfigError, match="the lower one first"):
        Bounds(low=low, high=high)


def test_a_log_of_some_requests_is_that_of_a_smaller_log():
    log, kept = world()({"weights.buy": 0.5}), np.arange(R) % 3 == 0
    parts = {name: getattr(log, name)[kept] for name in SlateLog.__dataclass_fields__}
    assert slate_value(log.only(kept)) == slate_value(SlateLog(**parts))
