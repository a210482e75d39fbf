"""When an item may be shown again: known answers, an exact slow twin, and what a history and its newest end agree on."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.contracts import Event, Query
from recsys.errors import ConfigError
from recsys.policy.repeat import DAY_S, Repeat, SeenFilter, repeat_from_document

OBJECTIVES = ("view", "buy", "skip")
BARS = st.sampled_from(["never", "always", 1, 7.5, 30])
EVENTS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 60), st.sets(st.sampled_from(OBJECTIVES))), max_size=8
)
REPEATS = st.builds(
    lambda default, objectives: Repeat(default=default, objectives=objectives),
    BARS,
    st.dictionaries(st.sampled_from(OBJECTIVES), BARS),
)


def labels(events):
    return np.array([[float(name in event.actions) for name in OBJECTIVES] for event in events]).reshape(-1, 3)


def seen_filter(repeat):
    return SeenFilter(repeat=repeat.compile(OBJECTIVES, clock=True), labels=labels)


def query(events, now=60, exclude=()):
    history = tuple(
        Event(user="u", item=item, timestamp=day * DAY_S, actions=dict.fromkeys(reached, 1.0))
        for item, day, reached in sorted(events, key=lambda one: one[1])
    )
    return Query(user="u", now=now * DAY_S, history=history, exclude=tuple(exclude))


def holds(bar, age_days):
    return bar == "never" or (bar != "always" and age_days < bar)


def slowly_barred(repeat, events, now):
    """Item by item, event by event."""
    barred = set()
    for item in {item for item, _, _ in events}:
        own = [(day, reached & repeat.objectives.keys()) for one, day, reached in events if one == item]
        newest = max(day for day, _ in own)
        if not any(day == newest and reached for day, reached in own) and holds(repeat.default, now - newest):
            barred.add(item)
        for name, bar in repeat.objectives.items():
            days = [day for day, reached in own if name in reached]
            if days and holds(bar, now - max(days)):
                barred.add(item)
    return barred


@given(REPEATS, EVENTS, st.integers(0, 100))
def test_bars_are_those_of_the_slow_twin(repeat, events, now):
    rows = seen_filter(repeat).rows([query(events, now)], {"a": 0, "b": 1, "c": 2})
    assert {"abc"[row] for row in rows[0]} == slowly_barred(repeat, events, now)


@given(REPEATS, EVENTS, st.integers(0, 8))
def test_the_newest_events_bar_nothing_that_the_whole_history_does_not(repeat, events, kept):
    """So whoever keeps the newest events and excludes what the whole history bars has the bars of the whole history."""
    whole, row_of = query(events), {"a": 0, "b": 1, "c": 2}
    newest = Query(user="u", now=whole.now, history=whole.history[len(whole.history) - kept :])
    everything, end = seen_filter(repeat).rows([whole, newest], row_of)
    assert set(end) <= set(everything)


@given(st.lists(st.tuples(REPEATS, EVENTS), min_size=1, max_size=3))
def test_a_query_is_barred_the_same_in_any_batch(cases):
    repeat, row_of = cases[0][0], {"a": 0, "c": 1}
    queries = [query(events) for _, events in cases]
    together = seen_filter(repeat).rows(queries, row_of)
    assert together == [seen_filter(repeat).rows([one], row_of)[0] for one in queries]


@pytest.mark.parametrize(
    ("default", "objectives", "barred"),
    [
        ("never", {}, "abc"),
        ("always", {}, ""),
        (10, {}, "bc"),
        ("never", {"buy": 30}, "abc"),
        ("never", {"buy": 5}, "ab"),
        ("never", {"buy": 30, "view": 10}, "bc"),
        ("always", {"buy": 30}, "c"),
        ("always", {"skip": "never"}, "b"),
        ("never", {"buy": "always", "skip": "always", "view": "always"}, ""),
    ],
)
def test_known_answers(default, objectives, barred):
    """Day 60: a was bought on day 20 and viewed on day 45, b skipped on day 10 and viewed on day 55, c bought twice."""
    events = [
        *[("a", 20, {"buy"}), ("a", 45, {"view"})],
        *[("b", 10, {"skip"}), ("b", 55, {"view"})],
        *[("c", 25, {"buy"}), ("c", 52, {"buy"})],
    ]
    rows = seen_filter(Repeat(default=default, objectives=objectives)).rows([query(events)], {"a": 0, "b": 1, "c": 2})
    assert "".join("abc"[row] for row in rows[0]) == barred


def test_a_bar_ends_with_its_last_moment():
    bars = Repeat(default=7, objectives={}).compile((), clock=True)
    last, none = np.array([0.0, 0.0]), np.empty((2, 0))
    assert bars.barred(last, none, np.array([7 * DAY_S - 1, 7 * DAY_S])).tolist() == [True, False]


def test_excluded_items_are_barred_whatever_may_be_repeated():
    seen = seen_filter(Repeat(default="always", objectives={}))
    assert seen.rows([query([("a", 1, set())], exclude=["b", "unknown"])], {"a": 0, "b": 1}) == [[1]]


def test_without_a_policy_nothing_is_shown_again():
    assert SeenFilter.never().rows([query([("a", 1, {"buy"}), ("x", 2, set())])], {"a": 0, "b": 1}) == [[0]]


def test_equal_times_let_the_objective_decide():
    """Where nothing orders the events all of them have one time."""
    bars = Repeat(default="never", objectives={"buy": "always"}).compile(OBJECTIVES, clock=False)
    keys, reached = np.array([5, 5, 3]), np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0]])
    assert bars.barred_keys(keys, np.zeros(3), reached, np.zeros(3)).tolist() == [3]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("never", "policy.repeat is 'never'; write a mapping with default and objectives"),
        ({"default": "never"}, "policy.repeat lacks the key 'objectives'"),
        ({"defalt": "never"}, "unknown key 'defalt'; did you mean 'default'?"),
        ({"default": "often", "objectives": {}}, "policy.repeat.default is 'often'; write never, always or a number"),
        ({"default": 0, "objectives": {}}, "policy.repeat.default is 0"),
        ({"default": True, "objectives": {}}, "policy.repeat.default is True"),
        ({"default": math.nan, "objectives": {}}, "policy.repeat.default is nan"),
        ({"default": "never", "objectives": {"buy": -1}}, "policy.repeat.objectives.buy is -1"),
        ({"default": "never", "objectives": ["buy"]}, r"policy.repeat.objectives is \['buy'\]"),
    ],
)
def test_a_wrong_document_is_refused(document, message):
    with pytest.raises(ConfigError, match=message):
        repeat_from_document(document)


def test_what_does_not_fit_the_data_is_refused():
    with pytest.raises(ConfigError, match="unknown objective 'bye'; did you mean 'buy'"):
        Repeat(default="never", objectives={"bye": 3}).compile(OBJECTIVES, clock=True)
    with pytest.raises(ConfigError, match="a bar of 3 days, but the events have no time"):
        Repeat(default="never", objectives={"buy": 3}).compile(OBJECTIVES, clock=False)
