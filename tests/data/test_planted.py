"""The planted world: the log follows its truth, every effect is there alone, nothing depends on what it should not."""

from dataclasses import replace

import numpy as np
import pytest

from recsys.data.sources.planted import EFFECTS, OBJECTIVES, RATES, ROUND, START, Planted, plackett_luce
from recsys.errors import ConfigError

WORLD = Planted(users=400, items=200, rounds=8, slate=6, seed=3, strength=2.0, effects=tuple(EFFECTS))
ALONE = {name: replace(WORLD, effects=(name,), strength=3.0) for name in EFFECTS}


@pytest.fixture(scope="module")
def logged():
    return WORLD.logged()


@pytest.fixture(scope="module", params=sorted(EFFECTS))
def alone(request):
    return request.param, *ALONE[request.param].logged()


def entropy(p):
    return -(p * np.log(p) + (1 - p) * np.log(1 - p))


def gain(truth):
    """[T] how much lower the log loss of the truth is than that of the best constant, as a share."""
    p = truth.probabilities
    return 1 - entropy(p).mean(axis=0) / entropy(p.mean(axis=0))


def test_the_same_arguments_give_the_same_log(logged):
    again, other = WORLD.load(), replace(WORLD, seed=4).load()
    assert again.hash() == logged[0].hash() != other.hash()
    assert logged[0].num_events == 400 * 8 * 6


def test_labels_follow_the_probabilities_of_their_rows(logged):
    dataset, truth = logged
    labels = dataset.labels()
    for objective in range(len(OBJECTIVES)):
        p = truth.probabilities[:, objective]
        for own in np.array_split(np.argsort(p), 6):
            spread = np.sqrt((p[own] * (1 - p[own])).sum())
            assert abs(labels[own, objective].sum() - p[own].sum()) < 4 * spread + 1


def test_rates_are_about_as_planned_and_nothing_happens_without_a_click(logged):
    dataset, truth = logged
    np.testing.assert_allclose(truth.probabilities.mean(axis=0), RATES, rtol=0.35)
    labels = dataset.labels()
    assert (labels[:, 1:] <= labels[:, :1]).all()
    assert (truth.probabilities[:, 1:] <= truth.probabilities[:, :1]).all()


def test_the_truth_is_worth_learning(logged):
    assert (gain(logged[1]) > 0.15).all()


def test_every_effect_alone_says_something_of_every_objective(alone):
    name, dataset, truth = alone
    assert (gain(truth) > 0.06).all(), name
    assert dataset.positives().any()


def test_only_places_make_a_difference_between_where_an_item_stood_and_the_first_place(alone):
    name, dataset, truth = alone
    same = truth.probabilities == truth.unbiased
    if name == "position":
        first = dataset.interactions["position"].to_numpy() == 0
        assert same[first].all()
        assert (truth.probabilities[~first] < truth.unbiased[~first]).all()
    else:
        assert same.all()


def test_history_and_age_matter_only_where_something_is_remembered(alone):
    name, dataset, truth = alone
    if name in ("history", "decay"):
        first_round = dataset.interactions["timestamp"].to_numpy() < START + ROUND
        assert np.ptp(truth.probabilities[first_round], axis=0).max() < 1e-12
        assert np.ptp(truth.probabilities[~first_round], axis=0).min() > 0.01


def test_propensities_ofplackett_luce_by_enumeration():
    """Three items, two places: how often each ordered pair is drawn, and the chance that the log says it had."""
    scores = np.tile(np.log([4.0, 2.0, 1.0]), (70_000, 1))
    drawn, propensity = plackett_luce(np.random.default_rng(0), scores, 2)
    for one, other in [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]:
        mine = (drawn == (one, other)).all(axis=1)
        weights = np.array([4.0, 2.0, 1.0])
        chance = weights[one] / 7, weights[other] / (7 - weights[one])
        np.testing.assert_allclose(propensity[mine], np.tile(chance, (mine.sum(), 1)))
        assert abs(mine.mean() - np.prod(chance)) < 0.01


def test_a_slate_never_shows_an_item_twice(logged):
    events = logged[0].interactions
    assert events.select("user", "timestamp", "item").is_unique().all()


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"effects": ("magic",)}, "magic"),
        ({"effects": ()}, "effects"),
        ({"slate": 31}, "slate"),
        ({"users": 3}, "users"),
    ],
)
def test_what_no_world_can_be_is_refused_by_name(knobs, message):
    with pytest.raises(ConfigError, match=message):
        replace(WORLD, **knobs)
