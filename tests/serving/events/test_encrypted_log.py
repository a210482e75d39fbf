"""The encrypted log: spool, broker and Parquet hold no id, give everything back by their key, and refuse what was changed."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from recsys.contracts import Event
from recsys.data.dataset import DESCRIPTION_FILE
from recsys.data.sources.event_log import EventLogSource
from recsys.data.sources.tables import Tables
from recsys.errors import DataError, ServingError
from serving.events.archive import ParquetArchive
from serving.events.compaction import compact
from serving.events.connection import Stream
from serving.events.jetstream import JetStreamReader, JetStreamWriter
from serving.events.nats_server import NatsServer
from serving.events.parquet import ParquetSink
from serving.events.parquet_rows import remove_rows
from serving.events.record import Record, StoredRecord
from serving.events.spool import Spool

pytest.importorskip("cryptography")

NAME, ITEM, DAY = "susan.distinctive.7391", "distinctive-item", 86_400.0
UseKey = Callable[[str | None], Any]


def clicked(number: int, user: str = NAME) -> Record:
    event = Event(user=user, item=ITEM, timestamp=DAY * (1 + number // 10), actions={"rating": 5.0})
    return Record.feedback(f"distinctive-r{number}", event)


def files_with_ids(folder: Path) -> list[str]:
    """Files that hold a user, an item or a record id."""
    files = (file for file in folder.rglob("*") if file.is_file())
    words = (NAME.encode(), b"distinctive-")
    return [str(file.relative_to(folder)) for file in files if any(word in file.read_bytes() for word in words)]


def spooled(folder: Path, records: list[Record]) -> None:
    async def append() -> None:
        spool = Spool(folder)
        await spool.append(records)
        await spool.close()

    asyncio.run(append())


def drained(folder: Path) -> tuple[list[str], int]:
    async def drain() -> tuple[list[str], int]:
        spool, found = Spool(folder), []
        while batch := await spool.peek(100):
            found += [one.record.id for one in batch]
            await spool.release()
        await spool.close()
        return found, spool.damaged

    return asyncio.run(drain())


def test_the_spool_gives_back_what_it_took(tmp_path: Path, use_key: UseKey) -> None:
    folder = tmp_path / "spool"
    spooled(folder, [clicked(0)])
    assert files_with_ids(folder)
    assert drained(folder) == (["distinctive-r0"], 0)
    use_key("live.key")
    spooled(folder, [clicked(1), clicked(2, "other")])
    assert files_with_ids(folder) == []

    async def erase() -> int:
        spool = Spool(folder)
        try:
            return await spool.erase(lambda record: record.user == NAME)
        finally:
            await spool.close()

    assert asyncio.run(erase()) == 1
    assert drained(folder) == (["distinctive-r2"], 0)


def test_a_changed_line_of_the_spool_is_left_out_and_counted(
    tmp_path: Path, use_key: UseKey, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "spool"
    use_key("live.key")
    spooled(folder, [clicked(number) for number in range(3)])
    (segment,) = folder.glob("*.spool")
    first, second, third = segment.read_bytes().splitlines(keepends=True)
    plain = b"%08x " % 0x12345678 + b"1.0 {}\n"
    segment.write_bytes(first + second[:20] + (b"B" if second[20:21] == b"A" else b"A") + second[21:] + plain + third)
    assert drained(folder) == (["distinctive-r0", "distinctive-r2"], 2)
    assert str(segment) in caplog.text


def test_a_line_that_nobody_with_the_key_wrote_is_left_out(tmp_path: Path, use_key: UseKey) -> None:
    """Its checksum is right."""
    folder = tmp_path / "spool"
    spooled(folder, [clicked(0)])
    use_key("other.key")
    spooled(tmp_path / "of_another_key", [clicked(1)])
    use_key("live.key")
    spooled(tmp_path / "new", [clicked(2)])
    parts = (folder, tmp_path / "of_another_key", tmp_path / "new")
    lines = b"".join(next(part.glob("*.spool")).read_bytes() for part in parts)
    next(folder.glob("*.spool")).write_bytes(lines)
    assert drained(folder) == (["distinctive-r2"], 2)


def test_the_broker_gives_back_what_it_took(tmp_path: Path, use_key: UseKey) -> None:
    use_key("live.key")
    with NatsServer(tmp_path / "broker") as broker:
        asyncio.run(put(broker, [clicked(number) for number in range(20)]))
        assert files_with_ids(tmp_path / "broker") == []
    with NatsServer(tmp_path / "broker") as broker:
        assert asyncio.run(read(broker, 20)) == [f"distinctive-r{number}" for number in range(20)]
    assert files_with_ids(tmp_path / "broker") == []


async def put(broker: NatsServer, records: list[Record]) -> None:
    writer = JetStreamWriter(Stream(server=broker.server, max_bytes=64 << 20, deadline_s=20.0))
    await writer.append(records)
    await writer.close()


async def read(broker: NatsServer, number: int) -> list[str]:
    reader = JetStreamReader(Stream(server=broker.server, max_bytes=64 << 20, read_deadline_s=20.0), name="x")
    found: list[StoredRecord] = []
    while len(found) < number:
        found += await reader.fetch()
    await reader.close()
    return [one.record.id for one in found]


def archived(folder: Path, numbers: range, batch: int = 5) -> None:
    sink = ParquetSink(folder)
    for start in range(numbers.start, numbers.stop, batch):
        chosen = range(start, min(start + batch, numbers.stop))
        records = [clicked(number, NAME if number % 2 else "other") for number in chosen]
        malformed = Record(id=f"distinctive-m{start}", kind="feedback", user=NAME, timestamp=DAY, body={})
        stored = [StoredRecord(sequence=number + 1, record=one) for number, one in zip(chosen, records, strict=True)]
        asyncio.run(sink.write([*stored[:-1], StoredRecord(sequence=stored[-1].sequence, record=malformed)]))
    sink.close()


def content(folder: Path) -> list[StoredRecord]:
    return list(ParquetArchive(folder))


def test_the_archive_is_read_merged_and_rewritten_by_its_key(tmp_path: Path, use_key: UseKey) -> None:
    archived(tmp_path / "plain", range(30))
    use_key("live.key")
    folder = tmp_path / "events"
    archived(folder, range(30))
    assert files_with_ids(folder) == []
    assert len(ParquetArchive(folder)) == 30
    encrypted = content(folder)
    assert sum(compact(day, min_files=2) for day in (folder / "feedback").iterdir()) > 0
    assert content(folder) == encrypted
    assert remove_rows(folder, lambda user: user == NAME) > 0
    assert {one.record.user for one in content(folder)} == {"other"}
    assert files_with_ids(folder) == []
    use_key(None)
    assert content(tmp_path / "plain") == encrypted


def test_a_moved_archive_is_read(tmp_path: Path, use_key: UseKey) -> None:
    use_key("live.key")
    archived(tmp_path / "events", range(10))
    found = content(tmp_path / "events")
    (tmp_path / "events").rename(tmp_path / "backup")
    assert content(tmp_path / "backup") == found


def changed(one: Path, _: Path) -> None:
    data = bytearray(one.read_bytes())
    data[-40] ^= 1
    one.write_bytes(data)


def swapped(one: Path, other: Path) -> None:
    shutil.copy(other, one)


def plain(one: Path, _: Path) -> None:
    pl.DataFrame({"sequence": [1]}).write_parquet(one)


def cut_off(one: Path, _: Path) -> None:
    one.write_bytes(one.read_bytes()[:-100])


@pytest.mark.parametrize("change", [changed, swapped, plain, cut_off])
def test_a_changed_file_is_refused_by_its_name(
    tmp_path: Path, use_key: UseKey, change: Callable[[Path, Path], None]
) -> None:
    use_key("live.key")
    archived(tmp_path, range(20))
    one, other, *_ = sorted((tmp_path / "feedback").rglob("*.parquet"))
    change(one, other)
    with pytest.raises(ServingError, match=f"^{one} "):
        content(tmp_path)
    with pytest.raises(ServingError, match=f"^{one} "):
        remove_rows(tmp_path, lambda user: True)
    assert compact(one.parent, min_files=2) == 0


TABLES = """\
interactions: {file: events.csv, user: user, item: item, timestamp: at, actions: {rating: number}}
items: {file: items.csv, item: item, columns: {title: text}}
objectives: {watch: "1", like: "rating >= 4"}
target: watch
"""


def test_a_training_reads_the_archive_by_its_key_alone(tmp_path: Path, use_key: UseKey) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "shop.yaml").write_text(TABLES)
    (base / "events.csv").write_text(f"user,item,at,rating\nu,{ITEM},100,5\n")
    (base / "items.csv").write_text(f"item,title\n{ITEM},x\n")
    Tables(description=str(base / "shop.yaml")).load().save(base / "data")
    use_key("live.key")
    archived(tmp_path / "events", range(30))
    description = str(base / "data" / DESCRIPTION_FILE)
    source = EventLogSource(folder=str(tmp_path / "events"), description=description, history=True, wait_s=0.0)
    assert {NAME, "other", "u"} == set(source.load().users["user"].to_list())
    use_key("other.key")
    with pytest.raises(DataError, match=r"is encrypted by the key .*; name the other key"):
        source.load()
    use_key(None)
    with pytest.raises(DataError, match="name its file by RECSYS_ENCRYPTION_KEY"):
        source.load()
