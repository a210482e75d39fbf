"""What is remembered of a user, whatever the order in which the events arrive."""

import math
import zlib
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recsys.contracts import Event
from recsys.features.spec import FeatureSpec, TableSpec
from recsys.features.state import EMPTY_HISTORY, fold, fold_all, history_events, item_key

SPEC = FeatureSpec(
    items=TableSpec(name="items", columns=()),
    profile=TableSpec(name="profile", columns=()),
    context=TableSpec(name="context", columns=()),
    history_length=3,
    actions=("click", "rating"),
    objectives={"watch": "click", "like": "rating >= 4"},
    target="like",
)
ACTIONS = st.dictionaries(st.sampled_from(list(SPEC.actions)), st.sampled_from([0.0, 1.0, 4.0, 5.0]))
EVENTS = st.lists(
    st.builds(
        Event,
        user=st.just("u"),
        item=st.sampled_from(["a", "b", "plumless", "buckeroo"]),
        timestamp=st.integers(0, 3).map(float),
        actions=ACTIONS,
    ),
    max_size=12,
)


def event(item, timestamp, **actions):
    return Event(user="u", item=item, timestamp=timestamp, actions=actions or {"click": 1.0})


def folded(events):
    history = EMPTY_HISTORY
    for one in events:
        history = fold(history, one, SPEC)
    return history


@given(EVENTS, st.randoms(use_true_random=False))
def test_every_order_of_arrival_gives_the_same_history(events, random):
    shuffled = list(events)
    random.shuffle(shuffled)
    assert folded(shuffled) == folded(events) == slow_remembered(events)[-3:]


@given(EVENTS, st.integers(0, 12))
def test_many_events_at_once_leave_what_they_leave_one_by_one(events, cut):
    numbered = [replace(one, position=place) for place, one in enumerate(events)]
    assert fold_all(folded(numbered[:cut]), numbered[cut:], SPEC) == folded(numbered)


def slow_remembered(events):
    """Event by event: one key holds the whole canonical order; of copies, as in a data set, there is one."""

    def key(event):
        actions = (event.actions.get(name, -math.inf) for name in SPEC.actions)
        return event.timestamp, zlib.crc32(event.item.encode()), event.item, *actions

    once = [event for number, event in enumerate(events) if event not in events[:number]]
    reached = [event for event in once if event.actions.get("click", 0) > 0 or event.actions.get("rating", 0) >= 4]
    return tuple(sorted(reached, key=key))


def test_words_reach_objectives_and_order_as_in_a_data_set():
    objectives = {"buy": "kind == 'buy'", "look": "kind in ['buy', 'view', 'b']"}
    spec = replace(
        SPEC, actions={"kind": "word", "price": "number"}, objectives=objectives, target="buy", history_length=9
    )
    kinds = ["view", "buy", "b", "other", None, 4.0]
    events = [Event(user="u", item="i", timestamp=1.0, actions={"kind": one} if one else {}) for one in kinds]
    events.append(Event(user="u", item="i", timestamp=1.0, actions={"kind": "buy", "price": "much"}))
    kept = fold_all(EMPTY_HISTORY, events, spec)
    assert [one.actions["kind"] for one in kept] == sorted(["view", "buy", "b", "buy"])
    _, labels, _ = history_events(events, np.zeros(7), np.zeros(7), spec)
    assert labels.tolist() == [[0, 1], [1, 1], [1, 1], [0, 1]]


def test_mere_impressions_are_not_remembered():
    shown = [event("a", 1.0, click=0.0), event("b", 2.0, rating=3.0), event("c", 3.0, other=1.0)]
    assert folded(shown) == EMPTY_HISTORY
    assert folded([*shown, event("d", 0.0, click=0.0, rating=4.0)]) == (event("d", 0.0, click=0.0, rating=4.0),)


def test_a_copy_counts_once_and_the_later_one_stays_which_may_know_more():
    copy = replace(event("a", 1.0), request_id="r", position=3)
    assert folded([event("a", 1.0), copy]) == (copy,)
    assert folded([copy, event("a", 1.0)]) == (event("a", 1.0),)
    others = [event("a", 2.0), event("a", 1.0, click=2.0), replace(event("a", 1.0), context={"tags": ["x"]})]
    assert len(folded([event("a", 1.0), *others[:2]])) == 3
    assert len(folded([event("a", 1.0), others[2]])) == 2


def test_the_newest_are_kept_and_a_late_arrival_falls_out():
    history = folded([event(name, float(place)) for place, name in enumerate("abcd")])
    assert [one.item for one in history] == ["b", "c", "d"]
    assert fold(history, event("late", 0.5), SPEC) == history
    assert [one.item for one in fold(history, event("late", 1.5), SPEC)] == ["late", "c", "d"]


def test_events_of_one_second_stand_in_the_order_of_a_hash_and_collisions_in_that_of_their_names():
    assert item_key("plumless")[0] == item_key("buckeroo")[0], "a known collision of crc32"
    assert [one.item for one in folded([event("plumless", 1.0), event("buckeroo", 1.0)])] == ["buckeroo", "plumless"]
    by_hash = sorted("abc", key=item_key)
    assert [one.item for one in folded([event(item, 1.0) for item in "abc"])] == by_hash
    assert by_hash != ["a", "b", "c"]


def test_histories_stay_apart_and_labels_know_what_was_not_sent():
    events = [event("a", 1.0, click=1.0), event("a", 5.0, click=0.0), event("a", 1.0, rating=4.0), event("b", 0.0)]
    places, labels, timestamps = history_events(events, np.array([1, 0, 0, 1]), np.array([0, 0, 0, 1]), SPEC)
    assert places.tolist() == [2, 3, 0]
    np.testing.assert_array_equal(labels, np.float32([[math.nan, 1], [1, math.nan], [1, math.nan]]))
    assert timestamps.tolist() == [1, 0, 1]
    nothing = history_events([], np.array([]), np.array([]), SPEC)
    assert [part.shape for part in nothing] == [(0,), (0, 2), (0,)]
