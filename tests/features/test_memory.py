"""The memory of a long history: what is older than the history is one entry an item, wherever it is compressed."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.contracts import PAD, Event, Query, query_from_dict
from recsys.errors import QueryError
from recsys.features import memory
from recsys.features.encode import ItemTable, encode_queries
from recsys.features.memory import MAX_REPEATS, NO_MEMORY, Memory, fold_with_memory, remember, united
from recsys.features.spec import Column, FeatureSpec, TableSpec
from recsys.features.state import EMPTY_HISTORY, History, fold_out

NAMES = ("a", "b", "c", "d", "e")
ITEMS = TableSpec(name="items", columns=(Column(name="item", kind="category", vocabulary=NAMES),))
SPEC = FeatureSpec(
    items=ITEMS,
    profile=TableSpec(name="profile", columns=()),
    context=TableSpec(name="context", columns=()),
    history_length=3,
    actions=("click",),
    objectives={"watch": "click"},
    target="watch",
)
CATALOGUE = ItemTable.encode(ITEMS, NAMES, {"item": np.array(NAMES, dtype=object)})
STREAMS = st.lists(st.sampled_from(NAMES), max_size=30)


def events(items: "str | list[str]") -> tuple[Event, ...]:
    return tuple(
        Event(user="u", item=item, timestamp=float(time), actions={"click": 1.0}) for time, item in enumerate(items)
    )


def kept_one_by_one(stream: Sequence[Event]) -> tuple[History, Memory]:
    history, kept = EMPTY_HISTORY, NO_MEMORY
    for event in stream:
        history, left = fold_out(history, [event], SPEC)
        kept = remember(kept, left)
    return history, kept


def rows(history: History, kept: Memory = NO_MEMORY) -> list[int]:
    (found,) = encode_queries(SPEC, CATALOGUE, [Query(user="u", now=99.0, history=history, memory=kept)])[1]
    return [row for row in found.tolist() if row != PAD]


def slow_rows(stream: tuple[Event, ...]) -> list[int]:
    older, newest = [one.item for one in stream[:-3]], [one.item for one in stream[-3:]]
    last = sorted(set(older), key=lambda item: max(place for place, one in enumerate(older) if one == item))
    listed = [item for item in last for _ in range(min(Counter(older)[item], MAX_REPEATS))]
    return [NAMES.index(item) for item in (*listed, *newest)]


def test_what_leaves_the_history_is_counted_with_its_last_time() -> None:
    history, kept = kept_one_by_one(events("abacab"))
    assert [one.item for one in history] == ["c", "a", "b"]
    assert kept == {"b": (1.0, 1.0), "a": (2.0, 2.0)}


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5)), max_size=15), st.integers(0, 15))
def test_the_borders_of_batches_change_nothing(stream: list[tuple[str, int]], cut: int) -> None:
    arrived = [Event(user="u", item=item, timestamp=float(time), actions={"click": 1.0}) for item, time in stream]
    halves = fold_with_memory(EMPTY_HISTORY, NO_MEMORY, arrived[:cut], SPEC)
    assert fold_with_memory(*halves, arrived[cut:], SPEC) == kept_one_by_one(arrived)


@given(STREAMS)
def test_a_state_and_a_whole_history_give_the_same_list(stream: list[str]) -> None:
    listed = events(stream)
    assert rows(*kept_one_by_one(listed)) == rows(listed) == slow_rows(listed)


def test_a_history_without_repeats_is_read_as_it_is() -> None:
    assert rows(events("cabed")) == [2, 0, 1, 4, 3]


def test_the_models_read_the_newest_events_alone() -> None:
    stream = events("abcde")
    (whole, _), (cut, _) = (
        encode_queries(SPEC, CATALOGUE, [Query(user="u", now=9.0, history=one)]) for one in (stream, stream[-3:])
    )
    for name, array in whole.tensors().items():
        np.testing.assert_array_equal(array, cut.tensors()[name])


def test_queries_of_a_batch_do_not_mix() -> None:
    histories = [events("aabbccab"), (), events("e"), events("dddddd")]
    queries = [Query(user="u", now=99.0, history=one) for one in histories]
    together = encode_queries(SPEC, CATALOGUE, queries)[1]
    assert [[row for row in one if row != PAD] for one in together.tolist()] == [rows(one) for one in histories]


def test_events_that_were_counted_are_not_counted_again() -> None:
    left = events("abab")
    assert remember(remember(NO_MEMORY, left), left) == remember(NO_MEMORY, left)
    assert united({"a": (3.0, 5.0)}, {"a": (2.0, 7.0), "b": (1.0, 1.0)}) == {"a": (3.0, 7.0), "b": (1.0, 1.0)}


def test_the_items_with_the_newest_events_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MAX_ITEMS", 2)
    assert remember(NO_MEMORY, events("abcb")) == {"c": (1.0, 2.0), "b": (2.0, 3.0)}
    assert rows(events("abcaeee")) == [2, 0, 0, 4, 4, 4]


@pytest.mark.parametrize("entry", [[1], [1, 2, 3], [-1, 2]])
def test_a_memory_of_another_form_is_refused(entry: list[float]) -> None:
    with pytest.raises(QueryError, match=r"query\.memory\['a'\] is"):
        query_from_dict({"user": "u", "now": 1.0, "memory": {"a": entry}})
