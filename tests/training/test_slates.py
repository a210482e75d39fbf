"""Logged slates become the requests that a user would have sent, with what was shown as their candidates."""

import dataclasses

import numpy as np
import polars as pl
import pytest

from recsys.content.text import TextVectors
from recsys.contracts import PAD
from recsys.data.dataset import canonical
from recsys.data.sources.planted import EFFECTS, Planted
from recsys.data.sources.synthetic import Synthetic
from recsys.data.splits import RANK, TEST, GlobalTime, Random
from recsys.errors import DataError
from recsys.features.encode import encode_queries
from recsys.features.spec import Features
from recsys.training.prepare import prepare
from recsys.training.slates import Slates, logged_examples

SOURCES = {
    "planted": Planted(users=30, items=60, rounds=10, slate=4, seed=0, strength=2.0, effects=tuple(EFFECTS)),
    "synthetic": Synthetic(users=40, items=30, events=1_500, seed=0),
}


@pytest.fixture(scope="module", params=sorted(SOURCES))
def prepared(request):
    dataset = SOURCES[request.param].load()
    split = GlobalTime(rank=0.2, validation=0.1, test=0.2, cuts=1, later=0.0, horizon_days=None).splits(dataset)[0]
    left_out = [name for name in ("position", "propensity") if name in dataset.description.context]
    features = Features(history_length=6, max_values=3, min_count=2, leave_out=left_out)
    return prepare(dataset, split, features, TextVectors(dim=4, min_documents=1, seed=0))


@pytest.fixture(scope="module")
def slates(prepared):
    return Slates.of(prepared, prepared.split.periods == TEST)


@pytest.fixture(scope="module")
def examples(prepared, slates):
    spec, items = prepared.spec(prepared.split.known(TEST))
    return logged_examples(prepared, spec, items, slates, position="position")


def test_a_slate_is_what_one_user_met_at_one_moment(prepared, slates):
    rows, replay = slates.rows, prepared.replay
    shown = rows[rows != PAD]
    assert sorted(shown) == np.flatnonzero(prepared.split.periods == TEST).tolist()
    moments = set()
    for slate in rows:
        own = slate[slate != PAD]
        assert (np.diff(own) > 0).all()
        (moment,) = set(zip(replay.users[own], replay.timestamps[own], strict=True))
        assert moment not in moments
        moments.add(moment)
    assert (np.diff(slates.first) > 0).all()


def test_requests_equal_what_the_user_would_have_asked(prepared, slates, examples):
    spec, items = prepared.spec(prepared.split.known(TEST))
    request, _ = encode_queries(spec, items, prepared.replay.queries(slates.first, k=1))
    assert request.tensors().keys() == examples.request.keys()
    for name, array in request.tensors().items():
        np.testing.assert_array_equal(examples.request[name], array, err_msg=name)


def test_candidates_labels_and_places_are_those_of_the_log(prepared, slates, examples):
    shown = slates.rows != PAD
    rows = slates.rows[shown]
    np.testing.assert_array_equal(examples.candidate_rows[shown], prepared.replay.items[rows])
    np.testing.assert_array_equal(examples.labels[shown], prepared.replay.labels[rows])
    np.testing.assert_array_equal(
        examples.positions[shown], prepared.dataset.interactions["position"].to_numpy()[rows].astype(int)
    )
    assert (examples.candidate_rows[~shown] == PAD).all()
    assert np.isnan(examples.labels[~shown]).all()


def test_what_comes_later_changes_no_example(prepared):
    """Labels of the test period are turned around: the examples of the period before stay as they are."""
    spec, items = prepared.spec(prepared.split.known(RANK))
    slates = Slates.of(prepared, prepared.split.periods == RANK)
    before = logged_examples(prepared, spec, items, slates, position=None)
    later = prepared.split.periods == TEST
    kept = prepared.replay.labels[later].copy()
    try:
        prepared.replay.labels[later] = 1 - kept
        after = logged_examples(prepared, spec, items, slates, position=None)
    finally:
        prepared.replay.labels[later] = kept
    assert before.positions is None
    for name, array in before.request.items():
        np.testing.assert_array_equal(after.request[name], array, err_msg=name)
    np.testing.assert_array_equal(after.labels, before.labels)


LONGEST = 3


@pytest.fixture(scope="module")
def sets():
    """Timeless data whose test asks for one part of a set and tells the others."""
    dataset = SOURCES["synthetic"].load()
    timeless = dataset.interactions.with_columns(timestamp=pl.lit(0.0))
    dataset = canonical(
        name="sets",
        interactions=timeless,
        items=dataset.items,
        users=dataset.users,
        description=dataclasses.replace(dataset.description, order="none"),
    )
    split = Random(rank=0.2, validation=0.1, test=0.2, seed=0).splits(dataset)[0]
    features = Features(history_length=6, max_values=3, min_count=2, leave_out=["position"])
    return prepare(dataset, split, features, TextVectors(dim=4, min_documents=1, seed=0))


def test_parts_of_a_set_are_of_one_user_and_none_is_too_long(sets):
    asked = sets.split.periods == TEST
    slates = Slates.of_sets(sets, asked, LONGEST)
    shown = slates.rows != PAD
    assert slates.rows.shape[1] == LONGEST
    assert sorted(slates.rows[shown]) == np.flatnonzero(asked).tolist()
    users = sets.replay.users[slates.rows]
    assert (users[:, :1] == users)[shown].all()
    most = np.bincount(sets.replay.users[asked])
    assert (np.bincount(users[:, 0], minlength=len(most)) == -(-most // LONGEST)).all(), "as few parts as can be"


def test_the_history_of_a_set_is_all_that_is_told_and_nothing_that_is_asked(sets):
    asked = sets.split.periods == TEST
    told = sets.split.known(TEST)
    spec, items = sets.spec(told)
    whole = Slates.of_sets(sets, asked, sets.dataset.num_events)
    request, _ = encode_queries(spec, items, sets.replay.queries(whole.first, k=1))
    found = logged_examples(sets, spec, items, whole, position=None, history_rows=told)
    for name, array in request.tensors().items():
        np.testing.assert_array_equal(found.request[name], array, err_msg=name)
    with pytest.raises(AssertionError):
        logged_examples(sets, spec, items, whole, position=None, history_rows=told | asked)


def weighed(prepared, slates, column):
    spec, items = prepared.spec(prepared.split.known(TEST))
    return logged_examples(prepared, spec, items, slates, position=None, propensity=column)


def test_rows_count_by_the_inverse_of_their_chance_up_to_a_limit(prepared, slates, monkeypatch):
    if "propensity" not in prepared.dataset.interactions.columns:
        with pytest.raises(DataError, match="has no column 'propensity'"):
            weighed(prepared, slates, "propensity")
        return
    shown = slates.rows != PAD
    chances = prepared.dataset.interactions["propensity"].to_numpy()[slates.rows[shown]]
    monkeypatch.setattr("recsys.training.slates.MAX_WEIGHT", 1e9)
    whole = weighed(prepared, slates, "propensity").weights
    np.testing.assert_allclose(whole[shown] * chances, 1 / (1 / chances).mean(), rtol=1e-5)
    assert not whole[~shown].any()
    monkeypatch.setattr("recsys.training.slates.MAX_WEIGHT", 1.5)
    assert weighed(prepared, slates, "propensity").weights.max() == pytest.approx(1.5)


def test_a_chance_that_is_none_is_refused(prepared, slates):
    with pytest.raises(DataError, match="position holds numbers outside"):
        weighed(prepared, slates, "position")


def test_the_truth_of_a_policy_that_shows_all_alike_is_what_weights_aim_at():
    """The policy of the planted world prefers what is clicked; its inverse does not."""
    world = Planted(users=800, items=60, rounds=8, slate=4, seed=3, strength=2.0, effects=tuple(EFFECTS))
    dataset, truth = world.logged()
    split = GlobalTime(rank=0.2, validation=0.1, test=0.2, cuts=1, later=0.0, horizon_days=None).splits(dataset)[0]
    features = Features(history_length=2, max_values=1, min_count=2, leave_out=["position", "propensity"])
    prepared = prepare(dataset, split, features, TextVectors(dim=1, min_documents=1, seed=0))
    slates = Slates.of(prepared, split.periods == TEST)
    first = dataset.interactions["position"].to_numpy()[slates.rows] == 0
    clicks, inverse = truth.unbiased[slates.rows, 0], weighed(prepared, slates, "propensity").weights
    plain, weighed_mean = clicks[first].mean(), np.average(clicks[first], weights=inverse[first])
    everywhere = np.average(clicks, weights=inverse)
    assert abs(weighed_mean - everywhere) < abs(plain - everywhere)
