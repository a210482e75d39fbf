"""A forgotten user leaves spool, broker and Parquet to the last byte; records that come late are dropped and erased."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.contracts import Event, Query, Slate, SlateItem
from recsys.data.forgotten import ForgottenList, ForgottenUsers
from recsys.errors import ServingError
from serving.endpoints import Server
from serving.events.archive import ParquetArchive
from serving.events.connection import Link, Stream
from serving.events.forgetting import ForgettingSink, ForgettingWriter, erase_from_log, is_dropped
from serving.events.jetstream import JetStreamEraser, JetStreamReader, JetStreamWriter
from serving.events.log_factory import open_eraser
from serving.events.nats_server import NatsServer
from serving.events.parquet import ParquetSink
from serving.events.parquet_rows import remove_rows
from serving.events.record import Record, StoredRecord
from serving.events.spool import Spool

KEY = b"k" * 32
NAME = "susan.distinctive.7391"
DAY = 86_400.0


def clicked(number: int, user: str, at: float | None = None) -> Record:
    event = Event(user=user, item=f"i{number}", timestamp=DAY + number if at is None else at)
    return Record.feedback(f"r{number}", event)


def shown(number: int, user: str) -> Record:
    query = Query(user=user, now=DAY + number, request_id=f"q{number}")
    item = SlateItem(item="i", utility=0.5, sources=("t",), probabilities={})
    slate = Slate(user=user, request_id=f"q{number}", items=(item, item), degraded=(), bundle="B", rules="R")
    return Record.impression(query, slate, "recommend")


def of_all_kinds(number: int, user: str) -> list[Record]:
    records = [clicked(number, user), shown(number + 1, user)]
    records.append(Record.preference(f"h{number}", "hide", user, DAY + number, {"item": ["x"]}))
    return [*records, Record(id=f"m{number}", kind="feedback", user=user, timestamp=DAY, body={})]


def stored(records: list[Record], first: int = 1) -> list[StoredRecord]:
    return [StoredRecord(sequence=first + place, record=record) for place, record in enumerate(records)]


def bytes_of(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())


def listed(folder: Path, at: float, *parts: str) -> ForgottenList:
    found = ForgottenList(folder / "forgotten", KEY)
    found.add([NAME], at, parts)
    return found


def test_the_spool_erases_in_place_and_keeps_the_order_of_the_others(tmp_path: Path) -> None:
    records = [clicked(number, NAME if number % 3 else "other") for number in range(60)]

    async def story() -> tuple[list[str], int]:
        spool = Spool(tmp_path, segment_bytes=2_000)
        await spool.append(records[:30])
        await spool.append(records[30:])
        taken = [one.record.id for one in await spool.peek(4)]
        assert await spool.erase(lambda record: record.user == NAME) == 40
        assert NAME.encode() not in bytes_of(tmp_path)
        await spool.release()
        await spool.append([clicked(60, "other")])
        while batch := await spool.peek(1_000):
            taken += [one.record.id for one in batch]
            await spool.release()
        await spool.close()
        return taken, spool.damaged

    taken, damaged = asyncio.run(story())
    assert taken == ["r0", "r1", "r2", "r3", *(f"r{number}" for number in range(6, 61, 3))]
    assert damaged == 0


def test_a_spool_that_holds_only_erased_lines_is_empty_when_it_is_opened_again(tmp_path: Path) -> None:
    async def story() -> tuple[bool, int]:
        spool = Spool(tmp_path)
        await spool.append([clicked(1, NAME)])
        await spool.erase(lambda record: True)
        await spool.close()
        again = Spool(tmp_path)
        found = await again.peek(10)
        await again.close()
        return found == [] and again.empty, again.damaged

    assert asyncio.run(story()) == (True, 0)


def test_parquet_is_rewritten_under_the_same_names(tmp_path: Path) -> None:
    sink = ParquetSink(tmp_path)
    log = stored([*of_all_kinds(0, NAME), *of_all_kinds(10, "other"), *of_all_kinds(20, NAME)])
    for batch in (log[:5], log[5:8], log[8:]):
        asyncio.run(sink.write(batch))
    names = sorted(file.relative_to(tmp_path) for file in tmp_path.rglob("*.parquet"))
    assert NAME.encode() in bytes_of(tmp_path)
    assert remove_rows(tmp_path, lambda user: user == NAME) == 2 * (1 + 2 + 1 + 1)
    assert NAME.encode() not in bytes_of(tmp_path)
    assert sorted(file.relative_to(tmp_path) for file in tmp_path.rglob("*.parquet")) == names
    archive = ParquetArchive(tmp_path)
    assert [(one.sequence, one.record.user) for one in archive] == [(number, "other") for number in (5, 6, 7, 8)]
    assert archive.last == 12
    sink.close()
    again = ParquetSink(tmp_path)
    asyncio.run(again.write([one for one in log if one.record.user != NAME]))
    again.close()
    assert len(ParquetArchive(tmp_path)) == 4, "what was written is not written again"
    assert remove_rows(tmp_path, lambda user: user == NAME) == 0


def test_columns_and_actions_of_a_rewritten_file_stay(tmp_path: Path) -> None:
    event = Event(
        user="other", item="a", timestamp=DAY, actions={"rating": 4.0, "kind": "buy"}, context={"device": "tv"}
    )
    sink = ParquetSink(tmp_path)
    asyncio.run(sink.write(stored([clicked(1, NAME), Record.feedback("x", event)])))
    sink.close()
    (file,) = tmp_path.rglob("*.parquet")
    before = pl.read_parquet(file, glob=False).filter(pl.col("user") == "other")
    remove_rows(tmp_path, lambda user: user == NAME)
    assert pl.read_parquet(file, glob=False).equals(before)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "feedback" / "day=1970-01-02").mkdir(parents=True)
    (tmp_path / "feedback" / "day=1970-01-02" / "1-2.parquet").write_bytes(b"no parquet")
    (tmp_path / "feedback" / "day=1970-01-02" / "notes.parquet").write_bytes(b"somebody else's")
    with pytest.raises(ServingError, match=r"1-2\.parquet cannot be rewritten without its forgotten users"):
        remove_rows(tmp_path, lambda user: True)


def test_a_foreign_file_holds_nobody_up(tmp_path: Path) -> None:
    (tmp_path / "feedback" / "day=1970-01-02").mkdir(parents=True)
    (tmp_path / "feedback" / "day=1970-01-02" / "notes.parquet").write_bytes(b"somebody else's")
    assert remove_rows(tmp_path, lambda user: True) == 0


def test_the_broker_erases_a_user_from_its_disk(
    stream: Stream, broker: NatsServer, read_all: Callable[[Stream, int], list[StoredRecord]]
) -> None:
    records = [clicked(number, NAME if number % 2 else "other") for number in range(3_000)]
    forgotten = ForgottenUsers(key=KEY, times=dict.fromkeys(ForgottenUsers(key=KEY).hashes(NAME), 1e12))

    async def story() -> list[int]:
        writer, eraser = JetStreamWriter(stream), JetStreamEraser(stream)
        await writer.append(records)
        numbers = [await erase_from_log(eraser, forgotten), await erase_from_log(eraser, forgotten)]
        await eraser.erase([1, 2, 3])
        for one in (writer, eraser):
            await one.close()
        return numbers

    assert asyncio.run(story()) == [1_500, 0]
    found = read_all(stream, 1_500)
    assert {one.record.user for one in found} == {"other"}
    assert NAME.encode() not in bytes_of(broker.folder)
    broker.stop()
    assert NAME.encode() not in bytes_of(broker.folder)
    broker.start()
    assert read_all(stream, 1_500) == found


def test_an_event_from_the_future_that_came_before_the_forgetting_is_erased(stream: Stream, tmp_path: Path) -> None:
    """A clock that is ahead: the log erases by the time of arrival as well."""
    now = 1.9e9

    async def story() -> int:
        writer, eraser = JetStreamWriter(stream), JetStreamEraser(stream)
        await writer.append([clicked(1, NAME, at=now + 5_000)])
        number = await erase_from_log(eraser, listed(tmp_path, now).current())
        await writer.close()
        await eraser.close()
        return number

    assert asyncio.run(story()) == 1


def test_a_writer_drops_what_was_on_its_way(tmp_path: Path) -> None:
    written: list[str] = []

    class Writer:
        async def append(self, records: list[Record]) -> None:
            written.extend(record.id for record in records)

    forgotten = listed(tmp_path, DAY + 5)
    writer = ForgettingWriter(Writer(), forgotten)
    asyncio.run(writer.append([clicked(4, NAME), clicked(4, "other"), clicked(6, NAME)]))
    asyncio.run(writer.append([clicked(5, NAME)]))
    assert written == ["r4", "r6"]


class Kept:
    """A sink of a few lines that knows who wrote what."""

    def __init__(self) -> None:
        self.records: dict[str, list[int]] = {}
        self.removals = 0

    async def write(self, batch: list[StoredRecord]) -> None:
        await asyncio.sleep(0)
        for one in batch:
            self.records.setdefault(one.record.user, []).append(one.sequence)

    async def remove(self, forgotten: ForgottenUsers) -> None:
        self.removals += 1
        for user in [user for user in self.records if forgotten.time_of(user) is not None]:
            del self.records[user]


@settings(deadline=None, max_examples=60)
@given(steps=st.lists(st.sampled_from(["susan", "other", "forget", "look", "late"]), max_size=20))
def test_whatever_the_order_a_user_has_only_records_of_after_the_forgetting(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    """Against a twin that forgets at once; "late" is a record of before that arrives now."""
    forgotten = ForgottenList(tmp_path_factory.mktemp("list") / "forgotten", KEY)
    kept, erased, twin, time = Kept(), [], {}, 0.0

    class Eraser:
        async def erase(self, sequences: list[int]) -> None:
            erased.extend(sequences)

    sink = ForgettingSink(kept, part="states", forgotten=forgotten, remove=kept.remove, eraser=Eraser())
    late, last = [], None

    async def story() -> None:
        nonlocal time, last
        for sequence, step in enumerate(steps, start=1):
            time += 1
            if step == "forget":
                await asyncio.to_thread(forgotten.add, ["susan"], time, ("states",))
                twin.pop("susan", None)
                last = time
            elif step == "look":
                await sink.remove()
            else:
                user, at = ("other", time) if step == "other" else ("susan", time if step == "susan" else 0.0)
                await sink.write(stored([clicked(sequence, user, at=at)], first=sequence))
                if user == "susan" and last is not None and at <= last:
                    late.append(sequence)
                else:
                    twin.setdefault(user, []).append(sequence)
        await sink.remove()

    asyncio.run(story())
    assert kept.records == twin
    assert erased == late
    assert kept.removals <= steps.count("forget")


def test_a_removal_that_fails_stays_open_and_holds_the_batch_back(tmp_path: Path) -> None:
    forgotten, kept = listed(tmp_path, DAY, "parquet"), Kept()

    async def refuse(users: ForgottenUsers) -> None:
        raise ServingError("the disk is full")

    sink = ForgettingSink(kept, part="parquet", forgotten=forgotten, remove=refuse, eraser=None)
    with pytest.raises(ServingError, match="the disk is full"):
        asyncio.run(sink.write(stored([clicked(1, "other")])))
    assert kept.records == {}
    assert forgotten.current().is_open(NAME, "parquet")


def test_a_record_that_is_no_record_of_a_user_is_nobodys(tmp_path: Path) -> None:
    forgotten = listed(tmp_path, DAY).current()
    record = clicked(0, NAME)
    assert is_dropped(replace(record, timestamp="yesterday"), forgotten)
    assert not is_dropped(replace(record, user=7), forgotten)
    assert json.loads(record.to_json())["user"] == NAME


def test_records_read_after_the_erasure_go_on_from_where_the_reader_stood(stream: Stream, tmp_path: Path) -> None:
    records = [clicked(number, NAME if 3 <= number < 9 else "other") for number in range(12)]

    async def story() -> list[str]:
        writer, eraser = JetStreamWriter(stream), JetStreamEraser(stream)
        reader = JetStreamReader(stream, name="r", limit=5)
        await writer.append(records)
        found = await reader.fetch()
        await erase_from_log(eraser, listed(tmp_path, 1e12).current())
        while len(found) < 8:
            found += await reader.fetch()
        for one in (writer, eraser, reader):
            await one.close()
        return [one.record.id for one in found]

    assert asyncio.run(story()) == ["r0", "r1", "r2", "r3", "r4", "r9", "r10", "r11"]


def test_a_log_that_cannot_erase_keeps_the_records_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Kafka: what is replayed is dropped, what is stored stays until the retention ends."""
    forgotten = listed(tmp_path, DAY, "log")
    assert open_eraser(Server(url="kafka://127.0.0.1:9092")) is None
    assert asyncio.run(erase_from_log(None, forgotten.current())) == 0
    assert "stay until its retention ends" in caplog.text
    kept = Kept()
    sink = ForgettingSink(kept, part="states", forgotten=forgotten, remove=kept.remove, eraser=None)
    asyncio.run(sink.write(stored([clicked(1, NAME, at=DAY - 1), clicked(2, "other")])))
    assert kept.records == {"other": [2]}


def test_an_eraser_changes_no_setting_of_the_log_and_makes_none(broker: NatsServer, tmp_path: Path) -> None:
    """A command has no limits of its own: a shorter age would remove records of others."""
    kept = Stream(server=broker.server, max_age_s=1e9, max_bytes=32 << 20, deadline_s=20.0, read_deadline_s=20.0)

    async def story() -> tuple[int, int, Any]:
        eraser, writer = open_eraser(broker.server), JetStreamWriter(kept)
        assert eraser is not None
        absent = await eraser.erase_all(lambda record, arrived: True)
        await writer.append([clicked(1, NAME), clicked(2, "other")])
        number = await erase_from_log(eraser, listed(tmp_path, 1e12).current())

        async def config(link: Link) -> Any:
            return (await link.jetstream.stream_info(kept.name)).config

        found = await eraser._connection.call("describe its log", config)
        for one in (eraser, writer):
            await one.close()
        return absent, number, found

    absent, number, config = asyncio.run(story())
    assert (absent, number) == (0, 1)
    assert (config.max_age, config.max_bytes) == (1e9, 32 << 20)
