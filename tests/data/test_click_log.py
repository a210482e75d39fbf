"""Click logs as they are described and read: chunks, labels, splits, and every mistake with its sentence."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from recsys.data import scanning
from recsys.data.click_log import ClickLog, feature_columns
from recsys.data.impression_splits import ImpressionShares
from recsys.data.sources.click_log import ImpressionTable
from recsys.data.sources.tables import Tables
from recsys.data.splits import FIT, TEST, VALIDATION
from recsys.errors import ConfigError, DataError

ROWS = pl.DataFrame(
    {
        "click": [0, 1, 0, 1, None, 1, 0, 1, 0, 1],
        "price": [1.5, None, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0],
        "site": ["a", " b ", None, "NULL", "a", "b", "c", "a", "b", "c"],
        "user": ["u1", "u2", None, "u1", "u1", "u2", "u2", "u3", "u3", "u3"],
        "at": [100, 90, 110, 120, 130, 140, 150, 160, 170, 180],
        "part": ["train"] * 4 + ["valid"] * 2 + ["test"] * 4,
    }
)
IMPRESSIONS = {
    "file": "clicks.csv",
    "labels": ["click"],
    "numbers": {"price": "log"},
    "categories": {"site": {"hash": 100}},
    "user": "user",
    "timestamp": "at",
    "missing": ["NULL"],
}
SHARES = ImpressionShares(validation=0.2, test=0.2, seed=0)

Described = Callable[..., ClickLog]


@pytest.fixture
def described(tmp_path: Path) -> Described:
    """A described click log; keys replace those above, None leaves one out."""

    def described(rows: pl.DataFrame = ROWS, **keys: Any) -> ClickLog:
        kept = {key: value for key, value in (IMPRESSIONS | keys).items() if value is not None}
        top = {key: kept.pop(key) for key in ("task", "name", "target") if key in kept}
        file = tmp_path / kept.get("file", "clicks.csv")
        if file.name == "clicks.csv":
            rows.write_csv(file)
        elif file.suffix == ".parquet":
            rows.write_parquet(file)
        (tmp_path / "clicks.yaml").write_text(yaml.safe_dump({"task": "ranking", **top, "impressions": kept}))
        return ImpressionTable(description=str(tmp_path / "clicks.yaml")).load()

    return described


def keys_of(log: ClickLog) -> Any:
    return log.keys(lambda chunks, *_: chunks)


def read_all(log: ClickLog) -> None:
    """Read the keys and every feature."""
    keys_of(log)
    for chunk in log.table.chunks(log.columns.features):
        feature_columns(log.columns, chunk, str(log.table.path), log.columns.features)


@pytest.mark.parametrize("file", ["clicks.csv", "clicks.parquet"])
def test_labels_times_groups_and_features_are_read_alike_from_text_and_parquet(described: Described, file: str) -> None:
    log = described(file=file)
    keys = keys_of(log)
    np.testing.assert_array_equal(keys.labels[:, 0], [0, 1, 0, 1, np.nan, 1, 0, 1, 0, 1])
    assert keys.times.tolist() == ROWS["at"].to_list()
    assert keys.groups["user"].tolist() == [0, 1, -1, 0, 0, 1, 1, 2, 2, 2]
    (chunk,) = log.table.chunks(log.columns.features)
    columns = feature_columns(log.columns, chunk, "file", log.columns.features)
    np.testing.assert_array_equal(columns["price"][:3], [1.5, np.nan, 3])
    assert columns["site"].tolist() == ["a", "b", None, None, "a", "b", "c", "a", "b", "c"]


@pytest.mark.parametrize("file", ["clicks.csv", "clicks.parquet"])
def test_a_file_is_read_in_chunks_of_bounded_size_and_in_its_order(
    described: Described, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    many = pl.concat([ROWS.with_columns(price=pl.lit(float(number))) for number in range(500)])
    monkeypatch.setattr(scanning, "CHUNK_ROWS", 700)
    monkeypatch.setattr(scanning, "CHUNK_BYTES", 20_000)
    chunks = list(described(many, file=file).table.chunks(["price"]))
    assert len(chunks) > 5
    assert max(chunk.frame.height for chunk in chunks) <= 1_000
    assert [chunk.start for chunk in chunks] == np.cumsum([0, *(chunk.frame.height for chunk in chunks)])[:-1].tolist()
    values = pl.concat([chunk.frame for chunk in chunks])["price"].cast(pl.Float64)
    assert values.to_list() == many["price"].to_list()


def test_a_file_without_a_header_as_criteos(tmp_path: Path, described: Described) -> None:
    ROWS.write_csv(tmp_path / "clicks.tsv", separator="\t", include_header=False)
    log = described(file="clicks.tsv", columns=ROWS.columns)
    np.testing.assert_array_equal(keys_of(log).labels, keys_of(described()).labels)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"labels": ["clik"]},
            r"clicks\.csv: there is no column 'clik' \(did you mean 'click'\?\); the file has click, pr",
        ),
        ({"labels": ["price"]}, r"'price' is a feature and a label; a model would read the answer"),
        ({"split": "site", "timestamp": None, "order": "file"}, "'site' is a feature and the split"),
        ({"labels": []}, r"labels is empty; name at least one"),
        ({"labels": None}, r"impressions has no 'labels'; add it"),
        ({"timestamp": None}, r"needs either `timestamp: <column>` or"),
        ({"order": "file"}, r"needs either `timestamp: <column>` or"),
        ({"timestamp": None, "order": "user"}, r"order is 'user'; write file or none"),
        ({"numbers": {"price": 3}}, r"numbers\.price is 3; write an encoding"),
        ({"categories": {"site": 100}}, r"categories\.site is 100; write vocabulary, or \{hash: 10000\}"),
        ({"categories": {"site": {"hash": 0}}}, r"categories\.site is .*1 to 100,000,000"),
        ({"categories": {"price": "vocabulary"}}, r"'price' is a number and a category"),
        ({"numbers": None, "categories": None}, r"no numbers and no categories"),
        ({"target": "buy"}, r"target is 'buy'; name one of the labels click"),
        ({"task": "retrieval"}, r"task is 'retrieval'; write one of ranking"),
        ({"user": ["user"]}, r"impressions\.user is \['user'\]; write text"),
        ({"colour": "red"}, r"impressions has the unknown key 'colour'"),
        ({"file": "there.csv"}, r"there\.csv: there is no such file"),
        ({"file": "clicks.json"}, r"no such file|the suffix '\.json' is not known"),
    ],
)
def test_a_mistake_in_the_description_is_one_sentence(described: Described, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as refused:
        described(**keys)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("click", 2, r"clicks\.csv, column 'click', row 7: '2' is no label; write 0 or 1, or nothing"),
        ("click", 0.5, r"column 'click', row 7: '0\.5' is no label"),
        ("click", "yes", r"column 'click', row 7: 'yes' is not a finite number"),
        ("price", "dear", r"column 'price', row 7: 'dear' is not a finite number; write a number, or nothing"),
        ("price", "inf", r"column 'price', row 7: 'inf' is not a finite number"),
        ("at", None, r"column 'at', row 7: empty is no time; give every row a time"),
        ("part", "holdout", r"column 'part', row 7: 'holdout' is no part of a split; write one of train, val"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_by_its_row(
    described: Described, column: str, value: Any, message: str
) -> None:
    texts = ROWS[column].cast(pl.String).to_list()
    texts[6] = None if value is None else str(value)
    log = described(ROWS.with_columns(pl.Series(column, texts)), split="part")
    with pytest.raises(DataError, match=message):
        read_all(log)


def test_the_row_of_a_later_chunk_is_counted_from_the_beginning_of_the_file(
    described: Described, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = pl.concat([ROWS] * 300).with_columns(
        click=pl.when(pl.int_range(pl.len()) == 2_345).then(7).otherwise(pl.col("click"))
    )
    monkeypatch.setattr(scanning, "CHUNK_BYTES", 2_000)
    log = described(many)
    with pytest.raises(DataError, match="row 2346: '7' is no label"):
        keys_of(log)


@pytest.mark.parametrize(("line", "fields"), [("1,2,3,4,5,6,7,8", 8), ("1,2", 2)])
def test_a_row_with_other_fields_than_the_first_is_refused(
    tmp_path: Path, described: Described, line: str, fields: int
) -> None:
    log = described()
    with (tmp_path / "clicks.csv").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(DataError, match=rf"clicks\.csv: cannot be read: .*Expected 6 columns, got {fields}"):
        keys_of(log)


def test_a_packed_file_is_read_as_it_stands(tmp_path: Path, described: Described) -> None:
    (tmp_path / "clicks.csv.gz").write_bytes(gzip.compress(ROWS.write_csv().encode()))
    np.testing.assert_array_equal(keys_of(described(file="clicks.csv.gz")).labels, keys_of(described()).labels)


def test_the_other_loader_names_the_recipe(described: Described, tmp_path: Path) -> None:
    described()
    with pytest.raises(DataError, match=r"`task: ranking` describes a click log; train it by recipe=click_log"):
        Tables(description=str(tmp_path / "clicks.yaml")).load()


def test_the_newest_rows_are_the_test_whatever_the_order_of_the_file(described: Described) -> None:
    rows = ROWS.with_columns(click=pl.Series([0, 1] * 5)).sort("price", descending=True, nulls_last=True)
    log = described(rows)
    keys = keys_of(log)
    split = SHARES.split(log, keys)
    assert np.bincount(split.periods).tolist() == [6, 0, 2, 2]
    newest = {period: keys.times[split.periods == period] for period in (FIT, VALIDATION, TEST)}
    assert newest[FIT].max() < newest[VALIDATION].min()
    assert newest[VALIDATION].max() < newest[TEST].min()
    assert split.name == "split by time"


@given(times=st.lists(st.integers(0, 30), min_size=20, max_size=60))
def test_no_row_of_an_earlier_period_is_as_late_as_one_of_a_later(times: list[int]) -> None:
    seconds = np.array(times, dtype=float)
    periods = ImpressionShares._shares(seconds, (0.2, 0.3))
    for early, late in ((FIT, VALIDATION), (VALIDATION, TEST), (FIT, TEST)):
        if (periods == early).any() and (periods == late).any():
            assert seconds[periods == early].max() < seconds[periods == late].min()


def test_a_given_split_is_obeyed_and_lends_its_newest_training_rows_to_a_validation(described: Described) -> None:
    rows = ROWS.with_columns(click=pl.Series([0, 1] * 5))
    log = described(rows, split="part")
    split = SHARES.split(log, keys_of(log))
    assert split.periods.tolist() == [FIT] * 4 + [VALIDATION] * 2 + [TEST] * 4
    two = rows.with_columns(part=pl.Series(["train"] * 6 + ["test"] * 4))
    log = described(two, split="part", timestamp=None, order="file")
    split = ImpressionShares(validation=0.4, test=0.2, seed=0).split(log, keys_of(log))
    assert split.periods.tolist() == [FIT] * 4 + [VALIDATION] * 2 + [TEST] * 4
    assert split.name == "given split"


def test_without_an_order_rows_are_drawn_and_the_report_says_so(described: Described) -> None:
    many = pl.concat([ROWS.with_columns(click=pl.Series([0, 1] * 5))] * 50)
    log = described(many, timestamp=None, order="none")
    split = SHARES.split(log, keys_of(log))
    assert "not by time" in split.name
    assert np.bincount(split.periods).tolist() == [300, 0, 100, 100]
    assert 200 < np.flatnonzero(split.periods == TEST).mean() < 300
    again = SHARES.split(log, keys_of(log))
    assert (split.periods == again.periods).all()


@pytest.mark.parametrize(
    ("clicks", "parts", "message"),
    [
        (
            [0] * 10,
            None,
            r"column 'click': the label is 0 in all 6 training rows; a ranker learns and is judged by both",
        ),
        ([0, 1] * 4 + [1, 1], None, r"column 'click': the label is 1 in all 2 test rows"),
        ([0, 1] * 4 + [None] * 2, None, r"the label is unknown in all 2 test rows"),
        ([0, 1] * 5, ["train"] * 10, r"the test rows of the split are empty; give more rows, other shares"),
        ([0, 1] * 5, ["test"] * 10, r"the training rows of the split are empty"),
    ],
)
def test_a_period_that_cannot_be_judged_is_refused(
    described: Described, clicks: list[int], parts: list[str] | None, message: str
) -> None:
    rows = ROWS.with_columns(click=pl.Series(clicks), part=pl.Series(parts or ["train"] * 10))
    log = described(rows, split=None if parts is None else "part")
    with pytest.raises(DataError, match=message):
        SHARES.split(log, keys_of(log))


@pytest.mark.parametrize("shares", [{"validation": 0.0}, {"test": 1.0}, {"validation": 0.6, "test": 0.6}], ids=str)
def test_shares_that_leave_nothing_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"protocol\.(validation|test)"):
        ImpressionShares(**{"validation": 0.1, "test": 0.1, "seed": 0} | shares)


@pytest.mark.parametrize(
    ("text", "message"), [("", "cannot be read: Empty CSV"), ("click,price,site,user,at\n", "no rows")]
)
def test_an_empty_table_is_refused(tmp_path: Path, described: Described, text: str, message: str) -> None:
    (tmp_path / "empty.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        keys_of(described(file="empty.csv"))
