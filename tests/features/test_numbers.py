"""Encodings of numbers and hashed categories: known answers, order, missing and unseen values."""

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from recsys.errors import ConfigError
from recsys.features.encode import encode_table, missing_columns
from recsys.features.numbers import BINNED, ENCODINGS, NumberEncoding
from recsys.features.spec import MISSING, RESERVED, Column, FeatureSpec, TableSpec, fit_number

TRAINED = np.array([0.0, 0, 1, 2, 3, 5, 8, 13, np.nan])
NUMBERS = st.floats(-1e9, 1e9, allow_nan=False, allow_subnormal=False)


def table(*columns):
    return TableSpec(name="context", columns=columns)


def fitted(kind, values=TRAINED, bins=4):
    return fit_number("x", values, NumberEncoding(kind=kind, bins=bins))


def encoded(column, values):
    (part,) = encode_table(table(column), {"x": np.array(values, dtype=float)}, len(values)).values()
    return part


def spec_of(context):
    nothing = TableSpec(name="items", columns=(Column(name="item", kind="category"),))
    return FeatureSpec(
        items=nothing,
        profile=TableSpec(name="profile", columns=()),
        context=context,
        history_length=1,
        actions={"click": "number"},
        objectives={"click": "click"},
        target="click",
    )


def test_log_is_the_signed_logarithm_standardised():
    logs = np.log1p(TRAINED[:-1])
    expected = (np.array([-np.log1p(7), np.log1p(4)]) - logs.mean()) / logs.std()
    np.testing.assert_allclose(encoded(fitted("log"), [-7, 4]), np.stack([expected, [0, 0]], axis=1), rtol=1e-6)


def test_a_bucket_is_the_number_of_quartiles_at_or_below_the_value():
    column = fitted("buckets")
    assert column.edges == (2.0, 5.0)  # of 0, 2, 5: the first is the least value, below which nothing lies
    assert encoded(column, [-5, 0, 1.99, 2, 4.9, 5, 1e9, np.nan])[:, 0].tolist() == [2, 2, 2, 3, 3, 4, 4, MISSING]
    assert column.num_ids == RESERVED + 3


def test_piecewise_is_full_below_and_a_share_within_a_bin():
    column = fit_number("x", np.array([0.0, 10, 20, 40, 40]), NumberEncoding(kind="piecewise", bins=4))
    assert column.edges == (0.0, 10.0, 20.0, 40.0)
    rows = encoded(column, [-1, 5, 15, 30, 99, np.nan])
    assert rows[:, :-1].tolist() == [[0, 0, 0], [0.5, 0, 0], [1, 0.5, 0], [1, 1, 0.5], [1, 1, 1], [0, 0, 0]]
    assert rows[:, -1].tolist() == [0, 0, 0, 0, 0, 1]


@pytest.mark.parametrize("kind", ENCODINGS)
@given(values=arrays(float, st.integers(1, 40), elements=NUMBERS), pair=st.tuples(NUMBERS, NUMBERS))
def test_every_encoding_keeps_the_order(kind, values, pair):
    lower, higher = encoded(fitted(kind, values), sorted(pair)).astype(float)
    assert np.isfinite([lower, higher]).all()
    assert (lower <= higher).all()


@pytest.mark.parametrize("kind", ENCODINGS)
@pytest.mark.parametrize("values", [[np.nan], [3.0, 3.0], [np.nan, 3.0]], ids=str)
def test_a_missing_number_differs_from_every_value_also_where_training_saw_one_or_none(kind, values):
    column = fitted(kind, np.array(values))
    missing, present = encoded(column, [np.nan, 3.0]).tolist()
    assert missing != present
    lacking = missing_columns(table(column), encode_table(table(column), {"x": np.array([np.nan, 3.0])}, 2), 2)
    assert lacking == [["x"], []]


@pytest.mark.parametrize("kind", BINNED)
def test_training_bins_hold_about_equal_shares(kind):
    values = np.random.default_rng(0).lognormal(size=8_000)
    column = fitted(kind, values, bins=8)
    edges = np.array(column.edges)[:-1] if kind == "piecewise" else np.array([0, *column.edges])
    counts = np.bincount(np.searchsorted(edges, values, side="right"))[1:]
    assert len(counts) == 8
    assert np.abs(counts / 8_000 - 1 / 8).max() < 0.001


def test_tensors_follow_the_encodings_and_missing_rows_have_their_flags():
    mixed = table(
        Column(name="price", kind="number"),
        Column(name="age", kind="number", encoding="buckets", edges=(1.0, 2.0)),
        Column(name="site", kind="category", hash_size=100),
        Column(name="dwell", kind="number", encoding="piecewise", edges=(0.0, 1.0, 2.0)),
    )
    assert mixed.widths == {"ids": 2, "numbers": 2 + 3}
    assert mixed.missing_numbers == (0, 1, 0, 0, 1)
    nothing = {"price": [np.nan], "age": [np.nan], "dwell": [np.nan], "site": np.array([None], dtype=object)}
    rows = encode_table(mixed, {name: np.array(one) for name, one in nothing.items()}, 1)
    assert rows["numbers"].tolist() == [list(mixed.missing_numbers)]
    assert rows["ids"].tolist() == [[MISSING, MISSING]]


def test_hashed_values_share_ids_by_their_crc32_and_none_is_unknown():
    column = Column(name="x", kind="category", hash_size=7)
    values = np.array([f"v{number}" for number in range(50)] + [None], dtype=object)
    ids = encode_table(table(column), {"x": values}, 51)["ids"][:, 0]
    assert ids[:-1].tolist() == [RESERVED + zlib.crc32(value.encode()) % 7 for value in values[:-1]]
    assert ids[-1] == MISSING
    assert set(ids[:-1]) == set(range(RESERVED, RESERVED + 7)), "50 values collide on 7 ids"
    assert column.num_ids == RESERVED + 7


def test_documents_keep_encodings_and_leave_out_what_earlier_specs_had_not():
    columns = (fitted("piecewise"), Column(name="site", kind="category", hash_size=9))
    spec = spec_of(table(*columns))
    again = FeatureSpec.from_documents(*spec.to_documents())
    assert again == spec
    assert again.fingerprint == spec.fingerprint
    plain = spec_of(table(Column(name="x", kind="number", mean=1.0)))
    assert plain.to_documents()[0]["context"]["columns"][0].keys() == {"name", "kind", "slots", "mean", "scale"}


@pytest.mark.parametrize(
    ("kind", "bins", "message"),
    [("lgo", 4, "'lgo'; choose one of standard, log"), ("buckets", 1, "bins is 1"), ("piecewise", 2.5, "bins is 2.5")],
)
def test_an_encoding_that_does_not_exist_is_refused(kind, bins, message):
    with pytest.raises(ConfigError, match=message):
        NumberEncoding(kind=kind, bins=bins)
