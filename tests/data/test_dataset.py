"""Canonical order, labels, the hash against a slow twin, and what is kept through save and load."""

import hashlib
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.dataset import Dataset, canonical
from recsys.data.description import Description
from recsys.data.sources.tables import Tables

DESCRIPTION = Description(
    actions=("rating",),
    context={"device": "category", "tags": "categories"},
    items={"title": "text", "genres": "categories", "year": "number", "vec": "vector", "out": "timestamp"},
    users={"age": "number"},
    objectives={"watch": "1", "like": "rating >= 4"},
    target="like",
    title="title",
    order="time",
)
PLAIN = Description(
    actions=("rating",),
    context={},
    items={},
    users={},
    objectives={"like": "rating >= 4"},
    target="like",
    title=None,
    order="time",
)


def small() -> Dataset:
    interactions = pl.DataFrame(
        {
            "user": ["b", "a", "a", "a"],
            "item": ["1", "2", "2", "zoë"],
            "timestamp": [5.0, 7.5, 7.5, 6.0],
            "rating": [4.0, None, None, 2.0],
            "device": ["tv", None, None, "tv"],
            "tags": [["x", "y"], None, None, ["y"]],
        }
    )
    items = pl.DataFrame(
        {
            "item": ["2", "9"],
            "title": ["Two", "Nine: a 'film'"],
            "genres": [["War", "Crime"], None],
            "year": [1999.0, None],
            "vec": [[0.5, 1.0], [0.25, -1.0]],
            "out": [1e9, None],
        }
    )
    users = pl.DataFrame({"user": ["c"], "age": [33.0]})
    return canonical(name="small", interactions=interactions, items=items, users=users, description=DESCRIPTION)


def checksum(item: str) -> int:
    return zlib.crc32(item.encode())


def plain(rows: list[tuple[str, str, float, float | None]]) -> Dataset:
    schema = {"user": pl.String, "item": pl.String, "timestamp": pl.Float64, "rating": pl.Float64}
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    return canonical(name="plain", interactions=frame, items=None, users=None, description=PLAIN)


def test_known_answer() -> None:
    dataset = small()
    assert dataset.interactions.select("user", "item", "timestamp").rows() == [
        ("b", "1", 5.0),
        ("a", "zoë", 6.0),
        ("a", "2", 7.5),
    ]
    assert dataset.notes == ("duplicate rows of the interactions that were dropped: 1",)
    assert dict(dataset.items.select("item", "title").rows()) == {
        "1": None,
        "2": "Two",
        "9": "Nine: a 'film'",
        "zoë": None,
    }
    assert dataset.items["item"].to_list() == sorted(["1", "2", "9", "zoë"], key=checksum)
    assert dataset.users.rows() == [("c", 33.0), ("b", None), ("a", None)], "by crc32"
    assert (dataset.num_users, dataset.num_items, dataset.num_events) == (3, 4, 3)


def test_labels_and_positives_with_a_missing_label() -> None:
    dataset = small()
    np.testing.assert_array_equal(dataset.labels(), np.array([[1, 1], [1, 0], [1, np.nan]], np.float32))
    assert dataset.labels().dtype == np.float32
    assert dataset.positives().tolist() == [True, False, False]


def test_ties_are_ordered_by_checksum_not_by_id() -> None:
    dataset = plain([("u", str(item), 1.0, 5.0) for item in range(50)])
    order = dataset.interactions["item"].to_list()
    assert order == sorted(order, key=checksum)
    assert order != sorted(order)


@pytest.mark.parametrize("ids", [[str(number) for number in range(12_000)], [f"item-{n:05d}" for n in range(12_000)]])
def test_the_order_of_the_catalogue_says_nothing_about_raw_ids(ids: list[str]) -> None:
    """Ids are often sorted by popularity or by the time of the first event, and ties go to the lower row."""
    dataset = plain([("u", item, 1.0, 5.0) for item in ids])
    number = {item: place for place, item in enumerate(ids)}
    places = np.array([number[item] for item in dataset.items["item"]])
    assert abs(np.corrcoef(places, np.arange(len(ids)))[0, 1]) < 0.05
    thirds = [places[start : start + 4_000].mean() / len(ids) for start in (0, 4_000, 8_000)]
    np.testing.assert_allclose(thirds, 0.5, atol=0.03)


rows = st.lists(
    st.tuples(
        st.sampled_from("abc"), st.sampled_from(["1", "2", "é"]), st.integers(0, 3).map(float), st.none() | st.just(4.0)
    ),
    min_size=1,
    max_size=20,
)


@settings(deadline=None)
@given(rows, st.randoms())
def test_order_of_the_file_does_not_matter(rows: list[tuple[str, str, float, float | None]], random: object) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert plain(rows).interactions.equals(plain(shuffled).interactions)
    assert plain(rows).hash() == plain(shuffled).hash()


@settings(deadline=None)
@given(rows)
def test_hash_equals_its_slow_twin(rows: list[tuple[str, str, float, float | None]]) -> None:
    dataset = plain(rows)
    assert dataset.hash() == slow_hash(dataset)


def slow_hash(dataset: Dataset) -> str:
    events = list(dataset.interactions.iter_rows(named=True))
    digest = hashlib.sha256()
    for column in ("user", "item"):
        for event in events:
            digest.update(struct.pack("<q", len(event[column].encode())))
        for event in events:
            digest.update(event[column].encode())
    for column in ("timestamp", *dataset.description.actions):
        digest.update(column.encode() + b"\0")
        for event in events:
            digest.update(struct.pack("<d", math.nan if event[column] is None else event[column]))
    return digest.hexdigest()


@pytest.mark.parametrize("column", range(4))
def test_hash_sees_every_column(column: int) -> None:
    row = ["u", "i", 1.0, 4.0]
    other = list(row)
    other[column] = {0: "v", 1: "j", 2: 2.0, 3: None}[column]
    assert plain([tuple(row)]).hash() != plain([tuple(other)]).hash()  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("order", "times"), [("time", [5, 6, 7.5]), ("file", [0, 1, 2]), ("user", [0, 0, 1]), ("none", [0, 0, 0])]
)
def test_save_and_load_give_the_same_dataset(tmp_path: Path, order: str, times: list[float]) -> None:
    first = small()
    if order != "time":
        described = Description.from_document({**DESCRIPTION.to_document(), "order": order})
        numbered = first.interactions.with_columns(timestamp=pl.Series(times, dtype=pl.Float64))
        first = canonical(
            name="small", interactions=numbered, items=first.items, users=first.users, description=described
        )
        assert first.notes[0].startswith(f"order: {order}, there is no time")
    first.save(tmp_path / "kept" / "here")
    first.save(tmp_path / "kept" / "here")
    again = Tables(description=str(tmp_path / "kept" / "here" / "description.yaml")).load()
    assert (again.name, again.description, again.hash()) == (first.name, first.description, first.hash())
    for table in ("interactions", "items", "users"):
        assert getattr(again, table).equals(getattr(first, table)), table
        assert getattr(again, table).schema == getattr(first, table).schema
    written = sorted(path.name for path in (tmp_path / "kept" / "here").iterdir())
    assert written == ["description.yaml", "interactions.parquet", "items.parquet", "users.parquet"]
