"""The split that a data set was published with: a column or files of it, and what is taken out of train."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from recsys.data.dataset import DESCRIPTION_FILE, Dataset
from recsys.data.sources.synthetic import Synthetic
from recsys.data.sources.tables import Tables
from recsys.data.splits import FIT, RANK, TEST, VALIDATION, GlobalTime, Predefined
from recsys.errors import ConfigError, DataError

WORDS = {"train": " Training", "validation": "DEV", "test": "Test "}
TIMES = {"time": "timestamp: time", "file": "order: file", "user": "order: user", "none": "order: none"}


def described(folder: Path, where: str, time: str = "timestamp: time") -> Dataset:
    text = f"""
name: published
interactions: {{{where}, user: user, item: item, {time}}}
objectives: {{buy: "1"}}
target: buy
"""
    (folder / "data.yaml").write_text(text)
    return Tables(description=str(folder / "data.yaml")).load()


def events(num: int = 40) -> pl.DataFrame:
    """Four users in turn, an item each time that none of them had before; by time 24 of train, 8 of validation, 8 of test."""
    parts = np.repeat(["train", "validation", "test"], [num - 16, 8, 8])
    return pl.DataFrame(
        {
            "user": [f"u{number % 4}" for number in range(num)],
            "item": [f"i{number}" for number in range(num)],
            "time": [1_700_000_000 + 3_600 * number for number in range(num)],
            "part": [WORDS[part] for part in parts.tolist()],
        }
    )


def by_item(dataset: Dataset, **options: Any) -> tuple[Any, dict[str, int]]:
    (split,) = Predefined(**{"rank": 0.25, "validation": 0.25, "seed": 0, "strict": False} | options).splits(dataset)
    return split, dict(zip(dataset.interactions["item"].to_list(), split.periods.tolist(), strict=True))


@pytest.mark.parametrize("order", TIMES)
def test_what_was_published_is_kept_and_the_ranker_learns_from_the_newest_of_train(tmp_path: Path, order: str) -> None:
    events().write_csv(tmp_path / "events.csv")
    split, periods = by_item(described(tmp_path, "file: events.csv, split: part", TIMES[order]))
    assert {item for item, period in periods.items() if period == TEST} == {f"i{number}" for number in range(32, 40)}
    assert {item for item, period in periods.items() if period == VALIDATION} == {f"i{n}" for n in range(24, 32)}
    learnt = {item for item, period in periods.items() if period == RANK}
    if order == "none":
        assert 0 < len(learnt) < 15
        assert "not by time" in split.name
    else:
        assert learnt == {f"i{number}" for number in range(18, 24)} | ({"i16", "i17"} if order == "user" else set())
    assert split.ordered == (order != "none")
    assert (split.cuts is not None) == (order in ("time", "file"))
    assert np.isinf(split.horizon) == (split.cuts is None)


def test_files_are_the_same_split_as_a_column(tmp_path: Path) -> None:
    frame = events()
    frame.write_csv(tmp_path / "events.csv")
    for part, word in WORDS.items():
        frame.filter(part=word).drop("part").write_csv(tmp_path / f"{part}.csv")
    files = "files: {Train: train.csv, valid: validation.csv, TEST: test.csv}"
    for time in TIMES.values():
        of_files, of_column = (
            described(tmp_path, files, time),
            described(tmp_path, "file: events.csv, split: part", time),
        )
        assert of_files.interactions.equals(of_column.interactions)
        assert by_item(of_files)[1] == by_item(of_column)[1]


def test_validation_is_drawn_where_none_was_published(tmp_path: Path) -> None:
    frame = events().with_columns(part=pl.col("part").replace("DEV", "train"))
    frame.write_csv(tmp_path / "events.csv")
    split, periods = by_item(described(tmp_path, "file: events.csv, split: part"))
    assert list(periods.values()) == [FIT] * 16 + [RANK] * 8 + [VALIDATION] * 8 + [TEST] * 8
    assert split.cuts == tuple(1_700_000_000 + 3_600.0 * number for number in (16, 24, 32))
    assert split.horizon == 7 * 3_600 / 4


def test_strict_keeps_validation_out_of_what_is_asked_in_the_test(tmp_path: Path) -> None:
    events().write_csv(tmp_path / "events.csv")
    dataset = described(tmp_path, "file: events.csv, split: part")
    for strict, known in ((False, 32), (True, 24)):
        assert by_item(dataset, strict=strict)[0].known(TEST).sum() == known


def test_a_random_published_split_is_named_and_its_histories_are_sets(tmp_path: Path) -> None:
    events().with_columns(part=pl.Series(["test", "train", "train", "val"] * 10).shuffle(seed=1)).write_csv(
        tmp_path / "events.csv"
    )
    split, _ = by_item(described(tmp_path, "file: events.csv, split: part"))
    assert (split.ordered, split.cuts) == (False, None)
    assert split.name == "published split (not by time)"


def test_a_saved_data_set_keeps_its_split(tmp_path: Path) -> None:
    events().write_csv(tmp_path / "events.csv")
    dataset = described(tmp_path, "file: events.csv, split: part")
    dataset.save(tmp_path / "saved")
    again = Tables(description=str(tmp_path / "saved" / DESCRIPTION_FILE)).load()
    assert again.interactions.equals(dataset.interactions)
    assert again.description == dataset.description


WRONG = {
    "another word": (
        "file: events.csv, split: part",
        "column 'part', row 3: 'maybe' is no part of a split; write one of",
    ),
    "no such column": ("file: events.csv, split: pard", "there is no column 'pard' (did you mean 'part'?)"),
    "file and files": (
        "file: events.csv, files: {train: events.csv, test: events.csv}",
        "has files and file; keep one",
    ),
    "one word too many": ("files: {train: a.csv, later: b.csv}", "has later: 'b.csv'; write a file for each of train"),
    "no test": ("files: {train: events.csv}", "names train; give one file for train and one for test"),
    "train twice": ("files: {train: a.csv, fit: a.csv, test: a.csv}", "give one file for train and one for test"),
    "no such file": ("files: {train: events.csv, test: none.csv}", "none.csv: there is no such file"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_description_is_one_sentence(tmp_path: Path, case: str) -> None:
    frame = events().with_row_index()
    frame = frame.with_columns(part=pl.when(pl.col("index") == 2).then(pl.lit("maybe")).otherwise("part"))
    frame.write_csv(tmp_path / "events.csv")
    where, sentence = WRONG[case]
    with pytest.raises(DataError) as raised:
        described(tmp_path, where)
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_has_no_split_of_its_own_or_an_empty_part_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="says of no event whether it is train, validation or test"):
        by_item(Synthetic(users=20, items=20, events=200, seed=0).load())
    events().filter(pl.col("part") != WORDS["test"]).write_csv(tmp_path / "events.csv")
    with pytest.raises(DataError, match="period TEST of the split is empty"):
        by_item(described(tmp_path, "file: events.csv, split: part"))
    with pytest.raises(ConfigError, match=r"protocol\.rank is 1\.5"):
        by_item(described(tmp_path, "file: events.csv, split: part"), rank=1.5)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made-up world with the test of the split by time as its own."""
    folder = tmp_path_factory.mktemp("published")
    dataset = Synthetic(users=120, items=80, events=4000, seed=0).load()
    (split,) = GlobalTime(rank=0.2, validation=0.1, test=0.2, cuts=1, later=0.0, horizon_days=None).splits(dataset)
    dataset.save(folder)
    parts = np.array(["train", "train", "valid", "test"])[split.periods]
    dataset.interactions.with_columns(split=pl.Series(parts)).write_parquet(folder / "interactions.parquet")
    text = (folder / DESCRIPTION_FILE).read_text()
    (folder / DESCRIPTION_FILE).write_text(text.replace("  item: item\n", "  item: item\n  split: split\n", 1))
    return folder / DESCRIPTION_FILE


def test_a_published_test_is_measured_on_the_same_targets(
    published: Path, composed: Any, run: Any, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    kept = [one for one in tiny if not one.startswith(("data.", "ranking."))]
    options = ("protocol=predefined", "data=tables", f"data.description={published}", "evaluation.baselines={}")
    report, bundle = run(composed(tmp_path, *kept, *options, "~ranking", "refit=true"))
    dataset = Tables(description=str(published)).load()
    (by_time,) = GlobalTime(rank=0.2, validation=0.1, test=0.2, cuts=1, later=0.0, horizon_days=None).splits(dataset)
    assert report.targets_sha256 == by_time.targets_sha256(dataset)
    assert report.protocol.startswith("synthetic, published split, one query a user")
    assert bundle.document("lineage.json")["fitted_on_events"] == dataset.num_events
