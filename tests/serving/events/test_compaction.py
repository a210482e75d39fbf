"""Many small files of the Parquet log become few: no row is missing or there twice, whoever reads and whenever it stops."""

import asyncio
import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.contracts import Event
from recsys.data.sources.event_log import FEEDBACK_FILES, _records
from recsys.data.sources.log_files import log_files
from serving.events import compaction, parquet
from serving.events.archive import ParquetArchive
from serving.events.compaction import compact, remove_days_before
from serving.events.parquet import ParquetSink
from serving.events.record import Record, StoredRecord

DAY_S = 86_400.0


def stored(sequence: int, day: int = 0) -> StoredRecord:
    actions = {"click": 1.0} if sequence % 2 else {"rating": 2.0, "note": "word"}
    event = Event(user="u", item=f"i{sequence}", timestamp=day * DAY_S + sequence, actions=actions)
    return StoredRecord(sequence=sequence, record=Record.feedback(f"r{sequence}", event))


def written(folder: Path, batches: list[list[StoredRecord]], **options: object) -> None:
    sink = ParquetSink(folder, **options)  # type: ignore[arg-type]
    try:
        for batch in batches:
            asyncio.run(sink.write(batch))
    finally:
        sink.close()


def ids(folder: Path) -> list[str]:
    """Of the records, as a training reads them."""
    return _records(folder, FEEDBACK_FILES)["id"].to_list()


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("feedback/day=*/*.parquet"))


def test_a_partition_has_a_bounded_number_of_files_and_every_record_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "MAX_SMALL_FILES", 8)
    batches = [[stored(2 * number), stored(2 * number + 1)] for number in range(100)]
    sink, most = ParquetSink(tmp_path), 0
    for batch in batches:
        asyncio.run(sink.write(batch))
        most = max(most, len(files(tmp_path)))
    sink.close()
    assert most <= 8
    assert ids(tmp_path) == [f"r{number}" for number in range(200)]
    assert [one.sequence for one in ParquetArchive(tmp_path)] == list(range(200))
    row = pl.concat(map(pl.read_parquet, tmp_path.glob("feedback/*/*.parquet")), how="diagonal").sort("sequence")[0]
    assert row.select("action_rating", "word_note", "action_click").row(0) == (2.0, "word", None)


def test_files_of_an_earlier_day_are_merged_when_the_next_begins(tmp_path: Path) -> None:
    written(tmp_path, [[stored(number)] for number in range(5)] + [[stored(5, day=1)]])
    assert files(tmp_path) == ["0-4.parquet", "5-5.parquet"]


@given(sizes=st.lists(st.integers(1, 3), min_size=2, max_size=12), kept=st.integers(0, 12), again=st.booleans())
def test_a_crash_between_the_merged_file_and_the_deletions_hides_and_doubles_nothing(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], kept: int, again: bool
) -> None:
    folder = tmp_path_factory.mktemp("events")
    ends = list(itertools.accumulate(sizes))
    batches = [[stored(n) for n in range(start, end)] for start, end in itertools.pairwise([0, *ends])]
    written(folder, batches)
    (partition,) = folder.glob("feedback/day=*")
    before = {path: path.read_bytes() for path in partition.iterdir()}
    compact(partition, min_files=2)
    for path in list(before)[:kept]:  # deleted last, or not yet
        path.write_bytes(before[path])
    assert sorted(ids(folder)) == sorted(f"r{number}" for number in range(ends[-1]))
    assert [one.sequence for one in ParquetArchive(folder)] == list(range(ends[-1]))
    written(folder, [[stored(n) for n in range(ends[-1] + 3)]] if again else [])
    compact(partition, min_files=2)
    assert len(list(partition.glob("*.parquet"))) == 1
    assert len(ids(folder)) == ends[-1] + 3 * again


def test_a_reader_that_listed_files_which_are_merged_since_reads_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, [[stored(number)] for number in range(6)])
    (partition,) = tmp_path.glob("feedback/day=*")
    merged = []

    def listed_then_merged(paths: object) -> object:
        found = log_files(paths)  # type: ignore[arg-type]
        merged.append(compact(partition, min_files=2))
        return found

    monkeypatch.setattr("recsys.data.sources.event_log.log_files", listed_then_merged)
    assert ids(tmp_path) == [f"r{number}" for number in range(6)]
    assert merged == [5, 0]


def test_large_files_and_those_that_cannot_be_read_are_left_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    written(tmp_path, [[stored(number)] for number in range(4)])
    (partition,) = tmp_path.glob("feedback/day=*")
    (partition / "2-2.parquet").write_bytes(b"no parquet")
    (partition / "notes.parquet").write_bytes(b"foreign")
    assert compact(partition, min_files=2) == 0
    assert "stay apart" in caplog.text
    assert len(files(tmp_path)) == 5
    monkeypatch.setattr(compaction, "MERGED_BYTES", 1)
    assert compact(partition, min_files=2) == 0


def test_days_leave_by_their_age_and_only_where_it_is_set(tmp_path: Path) -> None:
    today = int(datetime.now(UTC).timestamp() / DAY_S)
    batches = [[stored(number, day=today - age)] for number, age in enumerate((40, 31, 29, 0))]
    written(tmp_path, batches)
    assert len(files(tmp_path)) == 4
    written(tmp_path, [[stored(9, day=today - 1)]], keep_days=30.0)
    assert sorted(ids(tmp_path)) == ["r2", "r3", "r9"]
    (left := tmp_path / "feedback" / ".day=1999-01-01").mkdir()
    (left / "1-1.parquet").touch()
    oldest = datetime.now(UTC) - timedelta(days=29)
    assert remove_days_before(tmp_path / "feedback", 27.0) == [f"day={oldest:%Y-%m-%d}"]
    assert not left.exists()


def test_nothing_is_merged_or_removed_while_somebody_reads_by_names(tmp_path: Path) -> None:
    written(
        tmp_path, [[stored(n)] for n in range(5)] + [[stored(5, day=30_000)]], keep_days=1.0, may_delete=lambda: False
    )
    assert len(files(tmp_path)) == 6
