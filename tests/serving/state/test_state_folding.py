"""The log of one user -> the state, once, whatever the borders of the batches."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.contracts import Event, Query, Slate, SlateItem
from recsys.features.spec import FeatureSpec, TableSpec
from recsys.features.state import EMPTY_HISTORY, fold
from serving.events.record import Record, StoredRecord
from serving.state import apply_events, seen
from serving.state.apply_events import (
    MAX_HIDDEN,
    MAX_RECENT,
    MAX_SHOWN,
    apply_records,
    apply_stored_records,
    new_records,
    short_id,
)
from serving.state.protocols import UserState

SPEC = FeatureSpec(
    items=TableSpec(name="items", columns=()),
    profile=TableSpec(name="profile", columns=()),
    context=TableSpec(name="context", columns=()),
    history_length=3,
    actions=("click",),
    objectives={"watch": "click"},
    target="watch",
)


def feedback(item, timestamp, click=1.0):
    return Record.feedback(
        f"{item}{timestamp}", Event(user="u", item=item, timestamp=timestamp, actions={"click": click})
    )


def impression(items, timestamp=1.0):
    shown = tuple(SlateItem(item=item, utility=0.0, sources=(), probabilities={}) for item in items)
    slate = Slate(user="u", request_id="r", items=shown, degraded=(), bundle="b", rules="c")
    return Record.impression(Query(user="u", now=timestamp, request_id="r"), slate, "recommend")


def log(records):
    return [StoredRecord(sequence=place, record=record) for place, record in enumerate(records, start=1)]


def state_of(stored, state=None):
    state = state or UserState()
    return apply_stored_records(state, new_records(state, stored), SPEC)


def preference(kind, **body):
    return Record.preference(f"{kind} {sorted(body.items())}", kind, "u", 1.0, body)


VALUES = st.lists(st.sampled_from("xy"), max_size=2)
PREFERENCES = (
    st.builds(preference, st.sampled_from(["hide", "unhide"]), author=VALUES)
    | st.builds(preference, st.sampled_from(["hide", "unhide"]), item=VALUES)
    | st.builds(preference, st.just("profile"), age=st.none() | st.integers(0, 3))
)
RECORDS = st.lists(
    PREFERENCES
    | st.builds(feedback, st.sampled_from("abcd"), st.integers(0, 4).map(float), st.sampled_from([0.0, 1.0]))
    | st.builds(impression, st.lists(st.sampled_from("abcde"), max_size=4, unique=True), st.integers(0, 4).map(float)),
    max_size=12,
)


@given(RECORDS)
def test_the_history_is_what_fold_leaves_and_shown_counts_impressions(records):
    state, history = state_of(log(records)), EMPTY_HISTORY
    for record in records:
        history = fold(history, record.event(), SPEC) if record.kind == "feedback" else history
    assert state.history == history
    assert state.shown == Counter(
        item for record in records if record.kind == "impression" for item in record.shown_items()
    )
    assert (state.sequence, state.updated) == (len(records), records[-1].timestamp if records else 0.0)


@given(RECORDS, st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=5))
def test_batches_that_come_again_with_other_borders_change_nothing(records, ends):
    stored, state, reached = log(records), UserState(), 0
    for back, ahead in [*ends, (len(stored), len(stored))]:
        start, reached = max(0, reached - back), min(len(stored), reached + ahead)
        state = state_of(stored[start:reached], state)
        state = state_of([*stored[start:reached], *stored[start:reached]], state)
    state = state_of(stored, state)
    whole = state_of(stored)
    assert (state, list(state.shown)) == (whole, list(whole.shown))


@given(RECORDS, st.integers(0, 12))
def test_what_is_seen_is_each_item_with_its_newest_times(records, cut):
    state = apply_stored_records(state_of(log(records[:cut])), log(records)[cut:], SPEC)
    events = [record.event() for record in records if record.kind == "feedback"]
    last, reached = state.seen.times(("watch",))
    assert list(state.seen.items) == sorted({one.item for one in events}, key=lambda item: (newest(events, item), item))
    assert last.tolist() == [newest(events, item) for item in state.seen.items]
    clicked = [event for event in events if event.actions["click"]]
    assert [None if np.isnan(at) else at for at in reached[:, 0]] == [
        newest(clicked, item) for item in state.seen.items
    ]


def newest(events, item):
    return max((event.timestamp for event in events if event.item == item), default=None)


@given(RECORDS, st.integers(1, 3), st.integers(0, 12))
def test_of_too_many_seen_items_those_with_the_newest_events_stay_whatever_the_borders(records, most, cut):
    original, seen.MAX_SEEN = seen.MAX_SEEN, most
    try:
        stored = log(records)
        states = [state_of(stored[cut:], state_of(stored[:cut])), state_of(stored)]
    finally:
        seen.MAX_SEEN = original
    assert states[0] == states[1]
    everything = state_of(stored).seen
    assert states[0].seen.items == everything.items[-most:]
    assert states[0].seen.last.tolist() == everything.last[-most:].tolist()


@given(RECORDS, st.integers(0, 12))
def test_the_last_word_on_a_value_or_a_column_counts_and_to_repeat_it_changes_nothing(records, cut):
    state = state_of(log(records))
    hidden, profile = {}, {}
    for record in records:
        for name, values in record.body.items() if record.kind in ("hide", "unhide") else ():
            hidden |= dict.fromkeys([(name, value) for value in values], record.kind == "hide")
        profile |= record.body if record.kind == "profile" else {}
    assert {(name, value) for name, values in state.hidden.items() for value in values} == {
        name for name, is_hidden in hidden.items() if is_hidden
    }
    assert state.profile == profile
    again = apply_records(state, records[cut:], SPEC)
    assert replace(again, recent=()) == replace(state, recent=())


def test_of_too_many_hidden_values_the_newest_stay_and_what_is_no_list_is_no_fact():
    state = state_of(log([preference("hide", item=[str(number) for number in range(MAX_HIDDEN + 2)])]))
    assert (len(state.hidden["item"]), state.hidden["item"][0]) == (MAX_HIDDEN, "2")
    with pytest.raises(TypeError, match="is no list of values"):
        state_of(log([preference("hide", item="abc")]))


def test_a_state_knows_its_last_records():
    records = [feedback("a", float(number)) for number in range(20)]
    state = state_of(log([*records, impression(["b"])]))
    assert state.recent == tuple(short_id(record) for record in records[-MAX_RECENT:])


@given(RECORDS, st.integers(0, 12), st.integers(1, 3))
def test_the_items_shown_last_are_counted_and_one_that_fell_out_starts_anew(records, cut, most):
    original, apply_events.MAX_SHOWN = apply_events.MAX_SHOWN, most
    try:
        stored = log(records)
        state = state_of(stored[cut:], state_of(stored[:cut]))
    finally:
        apply_events.MAX_SHOWN = original
    assert list(state.shown.items()) == slow_shown(records, most)


def slow_shown(records, most):
    pairs = []
    for item in (item for record in records if record.kind == "impression" for item in record.shown_items()):
        times = sum(count for name, count in pairs if name == item)
        pairs = [*((name, count) for name, count in pairs if name != item), (item, times + 1)][-most:]
    return pairs


def test_a_thousand_items_are_counted():
    items = [str(number) for number in range(MAX_SHOWN + 5)]
    state = state_of(log([impression(items), impression(["2", "7"])]))
    assert len(state.shown) == MAX_SHOWN
    assert (state.shown["2"], state.shown["7"]) == (1.0, 2.0)
    assert list(state.shown)[-2:] == ["2", "7"]


def test_nothing_new_leaves_the_very_state():
    state = state_of(log([feedback("a", 1.0)]))
    assert state_of(log([feedback("b", 2.0)]), state) is state
    assert state_of(log([feedback("b", 2.0)]), replace(state, sequence=0)) != state
