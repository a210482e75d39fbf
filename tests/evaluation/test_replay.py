"""Logged moments asked again know nothing of what came after.

Shapes: R rows of the log, B queries, C candidates, T objectives.
"""

import dataclasses
import math

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.contracts import PAD, Event, Query
from recsys.data.amounts import expanded
from recsys.data.dataset import canonical
from recsys.data.description import Description
from recsys.data.splits import FIT, LATER, Split, whole
from recsys.replay.replay import Replay

ITEMS = ("a", "b", "c", "d")
DESCRIPTION = Description(
    actions=("click", "rating"),
    context={"device": "category"},
    items={},
    users={"age": "number"},
    objectives={"click": "click", "like": "rating >= 4"},
    target="like",
    title=None,
    order="time",
)
EVENTS = st.lists(
    st.tuples(
        st.sampled_from("uvw"),
        st.sampled_from(ITEMS),
        st.integers(0, 9),
        st.sampled_from([None, 0.0, 1.0]),
        st.sampled_from([None, 2.0, 5.0]),
        st.sampled_from([None, "phone"]),
    ),
    min_size=1,
    max_size=25,
    unique=True,
)


def replay_of(events):
    columns = ("user", "item", "timestamp", "click", "rating", "device")
    types = {"timestamp": pl.Float64, "click": pl.Float64, "rating": pl.Float64, "device": pl.String}
    frame = pl.DataFrame(dict(zip(columns, map(list, zip(*events, strict=True)), strict=True)), schema_overrides=types)
    ages = pl.DataFrame({"user": ["u", "z"], "age": [30.0, None]}, schema_overrides={"age": pl.Float64})
    catalogue = pl.DataFrame({"item": ITEMS})
    dataset = canonical(name="t", interactions=frame, items=catalogue, users=ages, description=DESCRIPTION)
    return Replay(dataset, whole(dataset))


@settings(deadline=None, max_examples=60)
@given(EVENTS)
def test_a_query_holds_the_rows_before_it_and_nothing_of_its_own(stream):
    replay = replay_of(stream)
    for row in range(len(replay.items)):
        query = replay.query(row, 3)
        before = [one for one in range(row) if replay.users[one] == replay.users[row]]
        assert query.history == tuple(replay.events[one] for one in before)
        assert replay.num_earlier[row] == len(before)
        assert all(event.timestamp <= query.now for event in query.history)
        assert (query.user, query.k) == (replay.events[row].user, 3)
        assert set(query.context) <= {"device"}
        assert query.request_id == f"{query.user}@{row}"


def test_a_query_known_answer_without_nulls():
    replay = replay_of(
        [("u", "a", 1, 1.0, None, None), ("u", "b", 2, None, 5.0, "phone"), ("v", "a", 3, 1.0, None, None)]
    )
    assert replay.query(1, 7) == Query(
        user="u",
        now=2.0,
        k=7,
        context={"device": "phone"},
        profile={"age": 30.0},
        history=(Event(user="u", item="a", timestamp=1.0, actions={"click": 1.0}),),
        request_id="u@1",
    )
    assert replay.queries(np.array([2]), 1)[0] == Query(user="v", now=3.0, k=1, request_id="v@2")


def test_the_latest_query_holds_everything_and_a_stranger_has_nothing():
    replay = replay_of([("u", "a", 1, 1.0, None, None), ("v", "b", 2, 1.0, None, None), ("u", "c", 3, None, 2.0, None)])
    assert [event.item for event in replay.latest("u", 9.0, 5).history] == ["a", "c"]
    assert replay.latest("u", 9.0, 5).profile == {"age": 30.0}
    assert [event.item for event in replay.latest("u", 2.0, 5).history] == ["a"]
    for stranger in ("a", "uu", "zz"):
        assert replay.latest(stranger, 9.0, 5) == Query(user=stranger, now=9.0, k=5)


@settings(deadline=None, max_examples=60)
@given(EVENTS, st.integers(0, 2**32 - 1))
def test_targets_and_first_rows_equal_their_slow_twins(stream, seed):
    replay = replay_of(stream)
    num = len(replay.items)
    period = np.random.default_rng(seed).random(num) < 0.6
    rows = replay.first_rows(period)
    users = replay.users[rows].tolist()
    assert len(set(users)) == len(users) == len(set(replay.users[period]))
    assert all(row == min(np.flatnonzero(period & (replay.users == replay.users[row]))) for row in rows)
    if len(rows):
        targets = replay.targets(rows, period)
        for place, row in enumerate(rows):
            later = (np.arange(num) >= row) & period & (replay.users == replay.users[row])
            found = targets.items[targets.indptr[place] : targets.indptr[place + 1]]
            assert found.tolist() == sorted(set(replay.items[later]))


def test_candidate_labels_known_answer():
    stream = [
        ("u", "a", 0, 1.0, 5.0, None),  # before the query
        ("u", "b", 1, 0.0, None, None),  # row of the query: what happens from here on counts
        ("v", "c", 2, 1.0, 5.0, None),  # somebody else
        ("u", "b", 3, 1.0, 2.0, None),  # the best of both
        ("u", "c", 4, None, 5.0, None),
        ("u", "d", 4, 1.0, 5.0, None),  # outside the period
        ("u", "a", 5, 1.0, 5.0, None),  # too late
    ]
    period = np.array([True, True, True, True, True, False, True])
    replay = replay_of(stream)
    candidates = np.array([[*(replay.rows_of_items[item] for item in "bacd"), PAD]])
    labels = replay.candidate_labels(np.array([1]), candidates, period, np.array([4.0]))
    expected = [[1, 0], [0, 0], [math.nan, 1], [0, 0], [0, 0]]
    np.testing.assert_array_equal(labels, np.float32([expected]))


@settings(deadline=None, max_examples=60)
@given(EVENTS, st.integers(0, 2**32 - 1))
def test_candidate_labels_equal_their_slow_twin(stream, seed):
    replay, generator = replay_of(stream), np.random.default_rng(seed)
    num = len(replay.items)
    period, rows = generator.random(num) < 0.6, generator.integers(0, num, 5)
    candidates = generator.integers(PAD, len(ITEMS), (5, 6))
    until = replay.now[rows] + generator.choice([0, 1, 3, np.inf], 5)
    labels = replay.candidate_labels(rows, candidates, period, until)
    for query, row in enumerate(rows):
        mine = [one for one in range(row, num) if period[one] and replay.users[one] == replay.users[row]]
        later = [one for one in mine if replay.timestamps[one] <= until[query]]
        for column, item in enumerate(candidates[query]):
            met = [replay.labels[one] for one in later if replay.items[one] == item]
            expected = np.fmax.reduce(met) if met else np.zeros(2)
            np.testing.assert_array_equal(labels[query, column], expected)


def test_candidate_labels_count_the_events_of_an_item_within_the_horizon():
    rows = [("u", "a", time, kind) for time, kind in enumerate(["view", "view", "view", "buy", "view"])]
    rows += [("u", "b", 3, "view"), ("v", "a", 3, "view")]
    frame = pl.DataFrame(rows, schema=["user", "item", "timestamp", "kind"], orient="row").cast(
        {"timestamp": pl.Float64}
    )
    views, _, _ = expanded({"views": {"count": "kind == 'view'", "steps": [1, 2, 3]}})
    described = dataclasses.replace(
        DESCRIPTION, actions={"kind": "word"}, context={}, users={}, objectives=views, target="views_from_1"
    )
    dataset = canonical(name="t", interactions=frame, items=None, users=None, description=described)
    replay = Replay(dataset, whole(dataset))
    first = int(np.flatnonzero(replay.timestamps == 0)[0])
    candidates = np.array([[replay.rows_of_items["a"], replay.rows_of_items["b"], PAD]])
    everything = np.ones(len(rows), dtype=bool)
    for until, expected in [
        (1.0, [[1, 1, 0], [0, 0, 0]]),
        (3.0, [[1, 1, 1], [1, 0, 0]]),
        (0.0, [[1, 0, 0], [0, 0, 0]]),
    ]:
        labels = replay.candidate_labels(np.array([first]), candidates, everything, np.array([until]))
        assert labels[0].tolist() == [*expected, [0, 0, 0]]
    assert replay.labels.max(axis=0).tolist() == [1, 0, 0], "one event is one view"


def split_of(periods):
    return Split(
        name="any", periods=np.array(periods, dtype=np.int8), cuts=None, horizon=np.inf, strict=False, ordered=True
    )


@settings(deadline=None, max_examples=60)
@given(EVENTS, st.lists(st.integers(FIT, LATER), min_size=25, max_size=25))
def test_under_any_split_a_query_knows_earlier_periods_and_what_stood_before_it_in_its_own(stream, drawn):
    whole_log = replay_of(stream)
    num = len(whole_log.items)
    periods = drawn[:num]
    replay = Replay(whole_log.dataset, split_of(periods))
    for row, query in enumerate(replay.queries(np.arange(num), 3)):
        mine = [one for one in range(num) if replay.users[one] == replay.users[row]]
        before = [one for one in mine if (periods[one], one) < (periods[row], row)]
        assert query.history == tuple(replay.events[one] for one in before), "newest last"
        assert replay.num_earlier[row] == len(before)
        assert query.now == max(replay.timestamps[[*before, row]]), "never before its own history"
        later, found = replay.later(np.array([row]))
        assert (later == 0).all()
        assert sorted(found) == sorted(set(mine) - set(before))
    for period in range(LATER + 1):
        inside = np.array(periods) == period
        first = replay.first_rows(inside)
        assert {len([r for r in replay.rows_of_user[replay.users[row]] if r in first]) for row in first} <= {1}
        assert all(row == min(np.flatnonzero(inside & (replay.users == replay.users[row]))) for row in first)


@settings(deadline=None, max_examples=60)
@given(EVENTS, st.lists(st.integers(0, 9), min_size=3, max_size=3).map(sorted))
def test_under_a_split_by_time_nothing_is_reordered(stream, cuts):
    replay = replay_of(stream)
    periods = np.searchsorted(cuts, replay.timestamps, side="right")
    other = Replay(replay.dataset, split_of(periods))
    for name in ("grouped", "num_earlier", "now"):
        np.testing.assert_array_equal(getattr(replay, name), getattr(other, name))
    np.testing.assert_array_equal(replay.now, replay.timestamps)


def test_where_there_is_no_clock_there_are_no_seconds():
    replay = replay_of([("u", "a", 0, 1.0, None, None), ("u", "b", 1, 1.0, None, None)])
    described = dataclasses.replace(replay.dataset.description, order="user")
    timeless = dataclasses.replace(replay.dataset, description=described)
    assert replay.seconds.tolist() == [0, 1]
    assert np.isnan(Replay(timeless, whole(timeless)).seconds).all()
    assert Replay(timeless, whole(timeless)).timestamps.tolist() == [0, 1], "they still order"


def test_profiles_leave_missing_values_out():
    replay = replay_of([("u", "a", 1, 1.0, None, None), ("v", "a", 1, 1.0, None, None)])
    assert replay.profiles == {"u": {"age": 30.0}, "v": {}, "z": {}}
