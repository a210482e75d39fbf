"""Known answers of the one encoding: what is missing, unknown, too long, of the wrong type, and when it is."""

import dataclasses
import json
import math
import zlib
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.contracts import PAD, Event, Query
from recsys.features.batches import RequestBatch
from recsys.features.encode import (
    ItemTable,
    column_array,
    encode_queries,
    encode_table,
    missing_columns,
    time_columns,
)
from recsys.features.history import encode_gaps
from recsys.features.spec import TIME_NUMBERS, Column, FeatureSpec, TableSpec

ITEM = Column(name="item", kind="category", vocabulary=("a", "b"))
TAGS = Column(name="tags", kind="categories", vocabulary=("x", "y"), slots=2)
PRICE = Column(name="price", kind="number", mean=10.0, scale=2.0)
VECTOR = Column(name="vector", kind="vector", slots=2)
ITEMS = TableSpec(name="items", columns=(ITEM, TAGS, PRICE, VECTOR))
SPEC = FeatureSpec(
    items=ITEMS,
    profile=TableSpec(name="profile", columns=(PRICE, VECTOR, TAGS)),
    context=TableSpec(
        name="context",
        columns=(Column(name="device", kind="category", vocabulary=("phone",)),),
        extra_numbers=TIME_NUMBERS,
    ),
    history_length=3,
    actions=("click", "rating"),
    objectives={"watch": "click", "like": "rating >= 4"},
    target="like",
)
MONDAY = 1_704_067_200.0  # 2024-01-01 00:00 UTC
DAY = 86_400.0


def objects(*values):
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


CATALOGUE = ItemTable.encode(
    ITEMS,
    ["a", "b", "c"],
    {
        "item": objects("a", "b", "c"),
        "tags": objects(("x",), None, ("y", "x", "q")),
        "price": np.array([10.0, 14.0, np.nan]),
        "vector": np.array([[1, 2], [np.nan, 3], [0, 0]], dtype=np.float32),
    },
)


def encoded(table, **values):
    length = {column.name: column.slots for column in table.columns}
    kinds = {column.name: column.kind for column in table.columns}
    columns = {name: column_array(kinds[name], list(one), length[name]) for name, one in values.items()}
    return encode_table(table, columns, len(next(iter(values.values()))))


def test_a_catalogue_known_answer():
    assert CATALOGUE.encoded["ids"].tolist() == [[2, 2, 0], [3, 0, 0], [1, 3, 2], [0, 0, 0]]
    assert CATALOGUE.encoded["numbers"].tolist() == [[0, 0], [2, 0], [0, 1], [0, 0]]
    assert CATALOGUE.encoded["vectors"].tolist() == [[1, 2], [0, 3], [0, 0], [0, 0]]
    assert (len(CATALOGUE), CATALOGUE.rows) == (3, {"a": 0, "b": 1, "c": 2})


def test_the_row_of_padding_is_all_zero():
    joined = CATALOGUE.at(np.array([[0, PAD]]))
    assert list(joined) == ["ids", "numbers", "vectors"]
    assert all(not part[0, 1].any() for part in joined.values())


def test_missing_unknown_and_wrong_types_of_a_category():
    table = TableSpec(name="profile", columns=(ITEM,))
    ids = encoded(table, item=["a", "b", "zzz", None, 7, True, ["a"], float("nan"), ""])["ids"]
    assert ids[:, 0].tolist() == [2, 3, 1, 0, 0, 0, 0, 0, 0]


def test_blanks_say_nothing_and_unknown_values_are_named_apart_from_missing_ones():
    table = TableSpec(name="profile", columns=(ITEM, TAGS, PRICE))
    items = ["a", " a ", "", "  ", None, "A", 5]
    tags = [["x"], ["x "], [], [" "], None, ["x", "q"], "x"]
    columns = {"item": column_array("category", items), "tags": column_array("categories", tags), "price": np.ones(7)}
    rows = encode_table(table, columns, 7)
    assert rows["ids"][0].tolist() == rows["ids"][1].tolist()
    nothing = ["item", "tags"]
    assert missing_columns(table, rows, 7) == [
        [],
        [],
        nothing,
        nothing,
        nothing,
        ["item:unknown", "tags:unknown"],
        nothing,
    ]


def test_lists_longer_than_their_slots_are_cut_and_lists_of_no_texts_are_missing():
    table = TableSpec(name="profile", columns=(TAGS,))
    ids = encoded(table, tags=[["y", "q", "x"], ("x",), [], None, "xy", ["x", 1], [None]])["ids"]
    assert ids.tolist() == [[3, 1], [2, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0]]


def test_numbers_are_standardised_clipped_and_flagged():
    table = TableSpec(name="profile", columns=(PRICE,))
    numbers = encoded(table, price=[12, 10.0, 1e9, -1e9, None, "12", True, float("nan"), float("inf")])["numbers"]
    assert numbers.tolist() == [[1, 0], [0, 0], [10, 0], [-10, 0]] + [[0, 1]] * 5


def test_a_vector_of_another_length_or_type_is_zero():
    table = TableSpec(name="profile", columns=(VECTOR,))
    vectors = encoded(table, vector=[[1, 2.5], [1], [1, 2, 3], None, "12", [1, "2"], [1, float("nan")], [True, 1]])
    assert vectors["vectors"].tolist() == [[1, 2.5]] + [[0, 0]] * 7


def test_time_known_answers():
    hours = time_columns(np.array([MONDAY, MONDAY + 6 * 3_600, MONDAY + 12 * 3_600]))
    np.testing.assert_allclose(hours["hour_sin"], [0, 1, 0], atol=1e-9)
    np.testing.assert_allclose(hours["hour_cos"], [1, 0, -1], atol=1e-9)
    week = np.stack(list(time_columns(MONDAY + 7 * DAY * np.arange(3)).values()))
    np.testing.assert_allclose(week, week[:, :1] * [[1, 1, 1]], atol=1e-9)
    epoch = time_columns(np.array([0.0, 1.75 * DAY, 3.5 * DAY]))
    np.testing.assert_allclose(epoch["weekday_sin"], [0, 1, 0], atol=1e-9)
    np.testing.assert_allclose(epoch["weekday_cos"], [1, 0, -1], atol=1e-9)


def test_gaps_look_at_what_follows_and_never_below_zero():
    gaps = encode_gaps(np.array([10.0, 10.0, 19.0]), 18.0)
    np.testing.assert_allclose(gaps, [0, np.log(10), 0], rtol=1e-6)
    assert gaps.dtype == np.float32
    endless = encode_gaps(np.array([-1e40, 0.0]), 1e40)
    assert np.isfinite(np.expm1(endless)).all(), "no span is so long that its seconds are no number"
    assert encode_gaps(np.array([10.0, np.nan, np.nan]), 18.0).tolist() == [0, 0, 0], "no time, no gap"


def test_a_query_known_answer():
    history = (
        Event(user="u", item="c", timestamp=30.0, actions={"rating": 5.0}),
        Event(user="u", item="unheard of", timestamp=25.0, actions={"rating": 5.0}),
        Event(user="u", item="a", timestamp=20.0, actions={"click": 1.0, "rating": 2.0}),
        Event(user="u", item="b", timestamp=26.0, actions={"click": 0.0}),
    )
    query = Query(user="u", now=MONDAY, history=history, profile={"price": 12}, context={"device": "phone"})
    encoded, rows = encode_queries(SPEC, CATALOGUE, [query])
    request = encoded.tensors()
    assert rows.tolist() == [[PAD, 0, 2]], "newest last; no unknown item, no impression"
    assert request["history_labels"].tolist() == [[[0, 0], [1, 0], [0, 1]]]
    np.testing.assert_allclose(request["history_gaps"], [[0, np.log(11), np.log(MONDAY - 29)]], rtol=1e-6)
    assert request["history_ids"].tolist() == [[[0, 0, 0], [2, 2, 0], [1, 3, 2]]]
    assert request["profile_numbers"].tolist() == [[1, 0]]
    assert request["context_ids"].tolist() == [[2]]
    np.testing.assert_allclose(request["context_numbers"][0, :2], [0, 1], atol=1e-6)


EVENTS = st.lists(
    st.builds(
        Event,
        user=st.just("u"),
        item=st.sampled_from(["a", "b", "c", "plumless", "buckeroo", "stranger"]),
        timestamp=st.sampled_from([0.0, 1.0, 2.5, 1e9]),
        actions=st.dictionaries(st.sampled_from(["click", "rating", "other"]), st.sampled_from([0.0, 1.0, 5.0])),
    ),
    max_size=9,
)
QUERIES = st.lists(
    st.builds(Query, user=st.just("u"), now=st.sampled_from([0.0, 2.0, 2e9]), history=EVENTS.map(tuple)),
    min_size=1,
    max_size=5,
)
IDS = ("plumless", "a", "c", "buckeroo", "b")
ODD_TABLE = ItemTable.encode(TableSpec(name="items", columns=(ITEM,)), IDS, {"item": np.array(IDS, dtype=object)})


@settings(deadline=None)
@given(QUERIES, st.booleans())
def test_histories_equal_their_slow_twin(queries, clock):
    """plumless and buckeroo have one checksum, so that only the name orders them."""
    spec = dataclasses.replace(SPEC, clock=clock)
    request, rows = encode_queries(spec, ODD_TABLE, queries)
    for place, query in enumerate(queries):
        expected = slow_history(spec, query)
        met = rows[place][rows[place] != PAD].tolist()
        assert met == expected[0]
        assert rows[place].tolist() == [PAD] * (rows.shape[1] - len(met)) + met
        np.testing.assert_array_equal(
            request.history["ids"][place], ODD_TABLE.at(rows[place, -spec.history_length :])["ids"]
        )
        np.testing.assert_array_equal(request.labels[place], expected[1])
        np.testing.assert_array_equal(request.gaps[place], expected[2])


def slow_history(spec, query):
    """One query, event by event."""
    events = [one for one in query.history if one.item in IDS and (slow_labels(one) > 0).any()]
    events = sorted(events, key=slow_order)
    whole, events = events, events[-spec.history_length :]
    empty = spec.history_length - len(events)
    times = [event.timestamp for event in events]
    gaps = [np.log1p(max(after - before, 0.0)) for before, after in pairwise([*times, query.now])]
    return (
        [IDS.index(event.item) for event in whole],
        np.concatenate([np.zeros((empty, 2)), *([np.nan_to_num(slow_labels(event)).clip(0, 1)] for event in events)]),
        np.float32([0.0] * empty + (gaps if spec.clock else [0.0] * len(gaps))),
    )


def slow_labels(event):
    click, rating = (event.actions.get(name, math.nan) for name in SPEC.actions)
    return np.array([click, math.nan if math.isnan(rating) else float(rating >= 4)])


def slow_order(event):
    actions = (event.actions.get(name, -math.inf) for name in SPEC.actions)
    return event.timestamp, zlib.crc32(event.item.encode()), event.item, *actions


@settings(deadline=None)
@given(QUERIES, st.floats(1e-3, 1e6), st.floats(-1e9, 1e9))
def test_without_a_clock_timestamps_order_and_say_nothing_else(queries, factor, start):
    spec = dataclasses.replace(SPEC, clock=False, context=TableSpec(name="context", columns=()))
    moved = [
        dataclasses.replace(
            query,
            now=query.now * 7,
            history=tuple(
                dataclasses.replace(event, timestamp=[0.0, 1.0, 2.5, 1e9].index(event.timestamp) * factor + start)
                for event in query.history
            ),
        )
        for query in queries
    ]
    request, rows = encode_queries(spec, ODD_TABLE, queries)
    other, same = encode_queries(spec, ODD_TABLE, moved)
    request, other = request.tensors(), other.tensors()
    np.testing.assert_array_equal(rows, same)
    assert (
        set(request)
        == set(other)
        == {tensor.name for tensor in RequestBatch.specs(spec.sizes)} - {"history_vectors"} - {"history_numbers"}
    )
    for name, part in request.items():
        np.testing.assert_array_equal(part, other[name])
    assert not request["history_gaps"].any()


def test_every_request_has_the_declared_tensors():
    encoded, _ = encode_queries(SPEC, CATALOGUE, [Query(user="u", now=0.0), Query(user="v", now=1.0)])
    request = encoded.tensors()
    assert list(request) == [tensor.name for tensor in RequestBatch.specs(SPEC.sizes)]
    for tensor in RequestBatch.specs(SPEC.sizes):
        assert request[tensor.name].shape == (2, *tensor.shape)
        assert request[tensor.name].dtype == tensor.dtype


@pytest.mark.parametrize("kind", ["category", "categories", "number", "vector"])
def test_whatever_json_sends_is_encoded_or_missing_and_never_an_error(kind):
    values = json.loads('[null, true, 0, -1e308, "x", [], ["x"], [1, 2], {}, {"a": [1]}, [[1]], 1e400, "\\u0000"]')
    table = TableSpec(name="profile", columns=(Column(name="it", kind=kind, vocabulary=("x",), slots=2),))
    parts = encoded(table, it=values)
    assert all(len(part) == len(values) and np.isfinite(part).all() for part in parts.values())


def test_of_a_long_history_the_towers_see_the_newest_events_and_the_sources_all_but_strangers_and_impressions():
    actions = {"click": 1.0}
    events = [Event(user="u", item=item, timestamp=float(place), actions=actions) for place, item in enumerate("abcab")]
    noise = [Event(user="u", item="stranger", timestamp=9.0, actions=actions)] * 3
    noise += [Event(user="u", item="a", timestamp=9.0, actions={"click": 0.0})] * 3
    short, rows = encode_queries(SPEC, CATALOGUE, [Query(user="u", now=9.0, history=tuple(events[-3:]))])
    long, found = encode_queries(SPEC, CATALOGUE, [Query(user="u", now=9.0, history=tuple(noise + events[::-1]))])
    assert rows.tolist() == [[2, 0, 1]]
    assert found.tolist() == [[0, 1, 2, 0, 1]]
    for name, part in short.tensors().items():
        np.testing.assert_array_equal(long.tensors()[name], part)
