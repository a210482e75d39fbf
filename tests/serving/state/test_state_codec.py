"""States and their bytes: one to one, and readable under another feature spec."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.contracts import Event
from recsys.errors import ServingError
from recsys.features.spec import FeatureSpec, TableSpec
from serving.state.protocols import UserState
from serving.state.seen import SeenItems
from serving.state.state_codec import decode, encode

SPEC = FeatureSpec(
    items=TableSpec(name="items", columns=()),
    profile=TableSpec(name="profile", columns=()),
    context=TableSpec(name="context", columns=()),
    history_length=50,
    actions=("rating",),
    objectives={"watch": "1", "like": "rating >= 4"},
    target="watch",
)
NUMBERS = st.floats(allow_nan=False) | st.integers(-(10**6), 10**6).map(float)
EVENTS = st.builds(
    Event,
    user=st.just("u"),
    item=st.text(),
    timestamp=NUMBERS,
    actions=st.dictionaries(st.text(max_size=3), NUMBERS | st.text(), max_size=3),
    context=st.dictionaries(st.text(max_size=3), st.text() | st.booleans() | st.none(), max_size=2),
    request_id=st.none() | st.text(),
    position=st.none() | st.integers(0, 9),
    propensity=st.none() | st.floats(0, 1),
    bundle=st.none() | st.text(),
    rules=st.none() | st.text(),
)
SEEN = st.lists(EVENTS, max_size=6).map(lambda events: SeenItems().after(events, SPEC))
VALUES = st.dictionaries(
    st.text(max_size=3), st.none() | st.text() | NUMBERS | st.lists(st.text(), min_size=1), max_size=2
)
STATES = st.builds(
    UserState,
    seen=SEEN,
    hidden=st.dictionaries(st.text(max_size=3), st.lists(st.text(), min_size=1).map(tuple), max_size=2),
    profile=VALUES,
    seeded=VALUES,
    recent=st.lists(st.text(max_size=12), max_size=4).map(tuple),
    history=st.lists(EVENTS, max_size=4).map(tuple),
    shown=st.dictionaries(st.text(), NUMBERS, max_size=4),
    sequence=st.integers(0, 2**62),
    updated=NUMBERS,
)


def rated(item, rating, timestamp=8.9e8):
    return Event(user="u", item=item, timestamp=timestamp, actions={"rating": rating})


@given(STATES)
def test_a_state_is_read_as_it_was_written(state):
    data = encode(state, SPEC)
    read = decode("u", data, SPEC)
    assert read == state
    assert list(read.shown) == list(state.shown)
    assert encode(read, SPEC) == data


def test_equal_states_have_the_same_bytes_whatever_their_numbers_and_the_order_of_names():
    one = UserState(history=(Event(user="u", item="a", timestamp=1, actions={"x": 5, "rating": -0.0}),), updated=1)
    same = UserState(
        history=(Event(user="u", item="a", timestamp=1.0, actions={"rating": 0.0, "x": 5.0}),), updated=1.0
    )
    assert one == same
    assert encode(one, SPEC) == encode(same, SPEC)


def test_what_was_shown_last_is_part_of_the_state():
    assert encode(UserState(shown={"a": 1, "b": 1}), SPEC) != encode(UserState(shown={"b": 1, "a": 1}), SPEC)


def test_fifty_ratings_are_compact():
    history = tuple(rated(str(1_000 + place), 4.0, 893_286_638.0 + place) for place in range(50))
    assert len(encode(UserState(history=history, sequence=1_000, updated=893_286_700.0), SPEC)) < 1_500


def test_a_state_of_the_first_format_has_seen_what_is_in_its_history():
    data = b'{"actions":{"rating":[5,3]},"format":1,"item":["b","a"],"sequence":17,"spec":"%s","timestamp":[7.5,9]' % (
        SPEC.fingerprint.encode()
    )
    state = decode("u", data + b',"updated":9}', SPEC)
    assert [event.item for event in state.history] == ["b", "a"]
    assert state.seen == SeenItems().after(state.history, SPEC)
    assert state.seen.items == ("b", "a")
    last, reached = state.seen.times(("watch", "like"))
    assert last.tolist() == [7.0, 9.0]
    np.testing.assert_array_equal(reached, [[7.0, 7.0], [9.0, np.nan]])
    assert decode("u", encode(state, SPEC), SPEC) == state


def test_twenty_thousand_seen_items_take_few_bytes_each():
    events = [rated(str(1_000 + number), 1.0 + number % 5, 893_286_638.0 + 40 * number) for number in range(20_000)]
    with_seen, without = (
        len(encode(UserState(seen=seen), SPEC)) for seen in (SeenItems().after(events, SPEC), SeenItems())
    )
    assert (with_seen - without) / len(events) < 17


def test_under_another_spec_the_seen_items_stay():
    seen = SeenItems().after([rated("a", 5.0), rated("b", 2.0)], SPEC)
    strict = replace(SPEC, objectives={"like": "rating >= 4"}, target="like")
    assert decode("u", encode(UserState(seen=seen), SPEC), strict).seen == seen


def test_under_another_spec_the_raw_events_stay_as_far_as_it_remembers_them():
    state = UserState(history=(rated("a", 5.0), rated("b", 2.0), rated("c", 4.0)), sequence=3, updated=8.9e8)
    data = encode(state, SPEC)
    strict = replace(SPEC, objectives={"like": "rating >= 4"}, target="like")
    assert {event.item for event in decode("u", data, strict).history} == {"a", "c"}
    assert len(decode("u", data, replace(SPEC, history_length=1)).history) == 1
    assert decode("u", data, replace(SPEC, history_length=99)).sequence == 3
    assert encode(decode("u", data, strict), strict) != data


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "is damaged"),
        (b"\xff\x00", "is damaged"),
        (b"[]", "is damaged"),
        (b'{"format":1}', "is damaged"),
        (b'{"format":1,"spec":"s","sequence":1,"updated":1,"item":["a"]}', "is damaged"),
        (b'{"format":2}', "is damaged"),
        (b'{"format":2,"spec":"s","sequence":1,"updated":1,"seen":{"items":["a"],"last":[]}}', "is damaged"),
        (b'{"format":3}', "has format 3, this version reads 2"),
    ],
)
def test_what_is_no_state_is_refused_with_the_way_out(data, sentence):
    with pytest.raises(ServingError, match=rf"a user \(sha256 \w{{12}}…\) {sentence}.*python -m serving rebuild"):
        decode("u", data, SPEC)
