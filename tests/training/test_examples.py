"""Point-in-time examples against folding the events one by one, as serving does.

Shapes: M remembered events, L history length, W windows, P = L + 1 positions.
"""

from dataclasses import replace

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.contracts import PAD, Query
from recsys.data.dataset import canonical
from recsys.data.description import Description
from recsys.data.splits import whole
from recsys.features.encode import ItemTable, encode_queries
from recsys.features.history import EventSequences
from recsys.features.spec import Column, FeatureSpec, TableSpec
from recsys.features.state import EMPTY_HISTORY, fold, item_key
from recsys.replay.replay import Replay
from recsys.training.examples import (
    encode_log,
    encode_users,
    event_sequences,
    history_windows,
)

ITEMS = tuple(sorted("abcd", key=item_key))
"""in the order of the catalogue"""
DESCRIPTION = Description(
    actions=("click", "rating"),
    context={"device": "category"},
    items={},
    users={"age": "number"},
    objectives={"like": "rating >= 4", "click": "click"},
    target="like",
    title=None,
    order="time",
)
EVENTS = st.lists(
    st.tuples(
        st.sampled_from("uvw"),
        st.sampled_from(ITEMS),
        st.integers(0, 6),
        st.sampled_from([None, 0.0, 1.0]),
        st.sampled_from([None, 2.0, 4.0]),
    ),
    min_size=1,
    max_size=30,
    unique=True,
)


def dataset_of(events, order="time"):
    users, items, timestamps, clicks, ratings = (list(column) for column in zip(*events, strict=True))
    interactions = pl.DataFrame(
        {"user": users, "item": items, "timestamp": timestamps, "click": clicks, "rating": ratings, "device": "phone"},
        schema_overrides={"timestamp": pl.Float64, "click": pl.Float64, "rating": pl.Float64, "device": pl.String},
    )
    catalogue = pl.DataFrame({"item": ITEMS})
    ages = pl.DataFrame({"user": ["u"], "age": [30.0]})
    return canonical(
        name="tiny",
        interactions=interactions,
        items=catalogue,
        users=ages,
        description=replace(DESCRIPTION, order=order),
    )


def replay_of(events, order="time"):
    dataset = dataset_of(events, order)
    return Replay(dataset, whole(dataset))


def spec_of(length):
    return FeatureSpec(
        items=TableSpec(name="items", columns=(Column(name="item", kind="category", vocabulary=ITEMS),)),
        profile=TableSpec(name="profile", columns=(Column(name="age", kind="number", mean=20.0, scale=5.0),)),
        context=TableSpec(name="context", columns=(Column(name="device", kind="category", vocabulary=("phone",)),)),
        history_length=length,
        actions=DESCRIPTION.actions,
        objectives=DESCRIPTION.objectives,
        target=DESCRIPTION.target,
    )


def catalogue_of(spec):
    return ItemTable.encode(spec.items, ITEMS, {"item": np.array(ITEMS, dtype=object)})


def folded(events, order, spec):
    history = EMPTY_HISTORY
    for place in order:
        history = fold(history, events[place], spec)
    return history


def padded(events, indices):
    """What the arrays say of a history: rows, labels, gaps, as encode_queries gives them."""
    present = indices != PAD
    rows = np.where(present, events.items[indices], PAD)
    labels = np.where(present[..., None], events.labels[indices], 0)
    return rows, labels, np.where(present, events.gaps[indices], 0)


@settings(deadline=None, max_examples=150)
@given(EVENTS, st.integers(1, 5), st.sampled_from(["time", "user"]), st.randoms(use_true_random=False))
def test_folding_events_in_any_order_equals_the_arrays(stream, length, order, random):
    spec, replay = replace(spec_of(length), clock=order == "time"), replay_of(stream, order)
    events = event_sequences(replay, np.ones(len(replay.items), dtype=bool))
    queries = []
    for row in events.rows:
        before = replay.rows_of_user[replay.users[row]][: replay.num_earlier[row]].tolist()
        random.shuffle(before)
        history = folded(replay.events, before, spec)
        queries.append(Query(user="-", now=float(replay.timestamps[row]), history=history))
    if not queries:
        return
    request, rows = encode_queries(spec, catalogue_of(spec), queries)
    expected = padded(events, events.before(np.arange(len(events.rows)), events.users, length))
    np.testing.assert_array_equal(rows, expected[0])
    np.testing.assert_array_equal(request.labels, expected[1])
    np.testing.assert_array_equal(request.gaps, expected[2])
    np.testing.assert_array_equal(request.history["ids"][..., 0], np.where(rows == PAD, 0, rows + 2))


@settings(deadline=None, max_examples=50)
@given(EVENTS, st.lists(st.booleans(), min_size=30, max_size=30))
def test_sequences_keep_what_is_allowed_and_reaches_an_objective(stream, chosen):
    replay = replay_of(stream)
    allowed = np.array(chosen[: len(replay.items)])
    events = event_sequences(replay, allowed)
    expected = [
        row for mine in replay.rows_of_user for row in mine if allowed[row] and np.nanmax([0, *replay.labels[row]]) > 0
    ]
    assert events.rows.tolist() == expected
    np.testing.assert_array_equal(events.users, replay.users[events.rows])
    counts = [sum(replay.users[row] == user for row in expected) for user in range(len(replay.names))]
    assert np.diff(events.offsets).tolist() == counts
    assert events.positions.tolist() == [place for count in counts for place in range(count)]


def sequences_of(counts):
    num_events = sum(counts)
    return EventSequences(
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        rows=np.arange(num_events),
        items=np.zeros(num_events, dtype=np.int64),
        labels=np.zeros((num_events, 1), dtype=np.float32),
        timestamps=np.zeros(num_events),
    )


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(0, 25), min_size=1, max_size=5), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_windows_ask_for_every_positive_once_and_after_its_inputs(counts, length, seed):
    events = sequences_of(counts)
    positives = np.random.default_rng(seed).random(sum(counts)) < 0.7
    cut = history_windows(events, positives, length)
    assert cut.events.shape[1:] == (length,)
    assert cut.targets.shape == (len(cut.events), length + 1)
    asked = cut.targets[cut.targets != PAD]
    assert sorted(asked.tolist()) == np.flatnonzero(positives).tolist()
    for window, position in np.argwhere(cut.targets != PAD):
        target = cut.targets[window, position]
        context = cut.events[window, :position]
        context = context[context != PAD]
        available = events.positions[target]
        assert (events.users[context] == events.users[target]).all()
        assert context.tolist() == list(range(target - len(context), target)), "what stands directly before, no more"
        assert len(context) >= min(length // 2, available)


def test_windows_known_answer():
    cut = history_windows(sequences_of([5]), np.ones(5, dtype=bool), 2)
    assert cut.events.tolist() == [[0, 1], [1, 2], [2, 3]]
    assert cut.targets.tolist() == [[0, 1, 2], [PAD, PAD, 3], [PAD, PAD, 4]]


def test_histories_are_the_events_before_the_end_of_the_same_user():
    events = sequences_of([3, 2])
    assert events.before(np.array([0, 2, 3, 4]), np.array([0, 0, 1, 1]), 2).tolist() == [
        [PAD, PAD],
        [0, 1],
        [PAD, PAD],
        [PAD, 3],
    ]


def test_the_gap_of_the_last_event_is_unknown():
    replay = replay_of([("u", "a", 0, 1.0, None), ("u", "b", 6, 1.0, None), ("v", "a", 3, 1.0, None)])
    events = event_sequences(replay, np.ones(3, dtype=bool))
    np.testing.assert_allclose(events.gaps, [np.log(7), 0, 0], rtol=1e-6)


def test_without_a_clock_there_are_no_gaps():
    replay = replay_of([("u", "a", 0, 1.0, None), ("u", "b", 6, 1.0, None)], order="file")
    assert event_sequences(replay, np.ones(2, dtype=bool)).gaps.tolist() == [0, 0]


def test_the_context_of_every_row_and_the_profile_of_every_user():
    spec, dataset = spec_of(2), dataset_of([("u", "a", 0, 1.0, None), ("w", "b", 43_200, 1.0, None)])
    replay = Replay(dataset, whole(dataset))
    timed = TableSpec(name="context", columns=spec.context.columns, extra_numbers=("hour_sin", "hour_cos"))
    context = encode_log(timed, dataset, replay.timestamps)
    assert context["ids"].tolist() == [[2], [2]]
    np.testing.assert_allclose(context["numbers"], [[0, 1], [0, -1]], atol=1e-6)
    profile = encode_users(spec, dataset, replay.names)
    assert profile["numbers"].tolist() == [[2, 0], [0, 1]], "w has no age"
