"""What a spec learns, its documents and its fingerprint."""

import dataclasses
import json

import numpy as np
import pytest

from recsys.errors import ConfigError
from recsys.features.batches import CandidateFeatures, RequestBatch
from recsys.features.spec import Column, Features, FeatureSpec, TableSpec
from recsys.tensors import TensorSpec

ITEMS = TableSpec(
    name="items",
    columns=(
        Column(name="item", kind="category", vocabulary=("a", "b")),
        Column(name="tags", kind="categories", vocabulary=("x", "y", "z"), slots=2),
        Column(name="price", kind="number", mean=2.0, scale=0.5),
        Column(name="text", kind="vector", slots=3),
    ),
)
SPEC = FeatureSpec(
    items=ITEMS,
    profile=TableSpec(name="profile", columns=()),
    context=TableSpec(name="context", columns=(Column(name="device", kind="category"),), extra_numbers=("hour_sin",)),
    history_length=4,
    actions=("click", "rating"),
    objectives={"watch": "click", "like": "rating >= 4"},
    target="like",
)


def objects(values):
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def features(**knobs):
    return Features(**{"history_length": 5, "max_values": 2, "min_count": 1, "leave_out": [], **knobs})


def test_tensors_have_the_widths_of_their_columns():
    assert ITEMS.widths == {"ids": 3, "numbers": 2, "vectors": 3}
    assert RequestBatch.specs(SPEC.sizes) == (
        TensorSpec(name="history_ids", dtype="int64", shape=(4, 3)),
        TensorSpec(name="history_numbers", dtype="float32", shape=(4, 2)),
        TensorSpec(name="history_vectors", dtype="float32", shape=(4, 3)),
        TensorSpec(name="history_labels", dtype="float32", shape=(4, 2)),
        TensorSpec(name="history_gaps", dtype="float32", shape=(4,)),
        TensorSpec(name="context_ids", dtype="int64", shape=(1,)),
        TensorSpec(name="context_numbers", dtype="float32", shape=(1,)),
    )
    assert [tensor.shape for tensor in CandidateFeatures.specs({**SPEC.sizes, "scores": 5})] == [
        (-1, 3),
        (-1, 2),
        (-1, 3),
        (-1, 5),
    ]


def test_documents_round_trip_through_json():
    documents = json.loads(json.dumps(SPEC.to_documents()))
    again = FeatureSpec.from_documents(*documents)
    assert again == SPEC
    assert again.fingerprint == SPEC.fingerprint
    assert documents[1] == {"items.item": ["a", "b"], "items.tags": ["x", "y", "z"], "items.price": []} | {
        "items.text": [],
        "context.device": [],
    }


def changed(place, **values):
    columns = list(ITEMS.columns)
    columns[place] = dataclasses.replace(columns[place], **values)
    return dataclasses.replace(SPEC, items=dataclasses.replace(ITEMS, columns=tuple(columns)))


@pytest.mark.parametrize(
    "other",
    [
        changed(0, vocabulary=("a", "c")),
        changed(0, vocabulary=("b", "a")),
        changed(0, vocabulary=("a", "b", "c")),
        changed(1, vocabulary=("x", "y", "Z")),
        changed(1, slots=3),
        changed(2, mean=2.5),
        changed(2, scale=0.25),
        dataclasses.replace(SPEC, history_length=5),
        dataclasses.replace(SPEC, target="watch"),
        dataclasses.replace(SPEC, clock=False),
        dataclasses.replace(SPEC, objectives={"watch": "click", "like": "rating >= 3"}),
        dataclasses.replace(SPEC, schema=99),
    ],
)
def test_every_change_changes_the_fingerprint(other):
    assert other.fingerprint != SPEC.fingerprint
    assert len(other.fingerprint) == 16


def test_labels_know_what_is_missing():
    labels = SPEC.labels({"click": np.array([1.0, 0.0, np.nan]), "rating": np.array([4.0, 3.0, np.nan])}, 3)
    np.testing.assert_array_equal(labels, np.float32([[1, 1], [0, 0], [np.nan, np.nan]]))
    np.testing.assert_array_equal(SPEC.labels({}, 2), np.full((2, 2), np.nan, np.float32))


def test_a_vocabulary_is_ordered_by_count_then_checksum_and_leaves_rare_values_out():
    values = objects(["b", "a", "c", "c", "b", None, "d"])
    column = features().fit_table("items", {"kind": "category"}, {"kind": values}).columns[0]
    assert column.vocabulary == ("c", "b", "d", "a"), "c before b and d before a: by crc32"
    assert column.num_ids == 6
    assert column.index == {"c": 2, "b": 3, "d": 4, "a": 5}
    rare = features(min_count=2).fit_table("items", {"kind": "category"}, {"kind": values}).columns[0]
    assert rare.vocabulary == ("c", "b")


@pytest.mark.parametrize(("longest", "slots"), [(1, 1), (2, 2), (5, 2)])
def test_a_list_gets_as_many_slots_as_it_needs_and_may_have(longest, slots):
    values = objects([tuple("abcde"[:longest]), None, ("a",)])
    column = features().fit_table("items", {"tags": "categories"}, {"tags": values}).columns[0]
    assert column.slots == slots
    assert column.vocabulary[0] == "a"


def test_numbers_are_scaled_by_what_is_known():
    table = features().fit_table(
        "items",
        {"known": "number", "constant": "number", "absent": "number"},
        {
            "known": np.array([1.0, 3.0, np.nan, np.inf]),
            "constant": np.full(4, 7.0),
            "absent": np.full(4, np.nan),
        },
    )
    assert [(column.mean, column.scale) for column in table.columns] == [(2.0, 1.0), (7.0, 1.0), (0.0, 1.0)]


@pytest.mark.parametrize("value", [0.1, 1.1, 9.99, 1e12 + 0.1, -3.0, 0.0])
def test_a_number_that_is_always_the_same_is_not_scaled_by_its_rounding(value):
    (column,) = features().fit_table("items", {"price": "number"}, {"price": np.full(1_000, value)}).columns
    assert column.scale == 1.0
    assert column.mean == pytest.approx(value)


def test_text_and_what_is_left_out_are_no_features_and_extra_numbers_come_last():
    kinds = {"title": "text", "position": "number", "device": "category", "vector": "vector"}
    columns = {"position": np.ones(2), "device": objects(["a", "b"]), "vector": np.ones((2, 3), np.float32)}
    table = features(leave_out=["position"]).fit_table("context", kinds, columns, ("hour_sin", "hour_cos"))
    assert [(column.name, column.slots) for column in table.columns] == [("device", 1), ("vector", 3)]
    assert table.extra_numbers == ("hour_sin", "hour_cos")
    assert features().fit_table("items", {}, {}).extra_numbers == ()


@pytest.mark.parametrize(
    ("key", "value"),
    [("history_length", 0), ("history_length", 1_001), ("max_values", 0), ("max_values", 65), ("min_count", 0)],
)
def test_a_knob_out_of_range_is_refused_by_name(key, value):
    with pytest.raises(ConfigError, match=rf"features\.{key} is {value}"):
        features(**{key: value})
