"""What was written as Parquet gives the states back that were folded from the log."""

import asyncio
import itertools
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.contracts import Event, Query, Slate, SlateItem
from recsys.errors import ServingError
from recsys.features import spec as features
from serving.events.archive import ArchiveReader, ParquetArchive
from serving.events.consumer import Consumer
from serving.events.jetstream import JetStreamReader, JetStreamWriter
from serving.events.parquet import ParquetSink
from serving.events.record import Record, StoredRecord
from serving.state.apply_events import apply_stored_records
from serving.state.protocols import UserState
from serving.state.state_codec import encode

USERS, ITEMS, DAY = "uvw", "abcde", 86_400.0
SPEC = features.FeatureSpec(
    items=features.TableSpec(name="items", columns=()),
    profile=features.TableSpec(name="profile", columns=()),
    context=features.TableSpec(name="context", columns=()),
    history_length=3,
    actions={"click": "number", "rating": "number", "kind": "word"},
    objectives={"watch": "click", "like": "rating >= 4", "buy": "kind == 'buy'"},
    target="like",
)


def impression(user: str, items: list[str], now: float) -> Record:
    shown = tuple(SlateItem(item=item, utility=0.5, sources=("t",), probabilities={"like": 0.5}) for item in items)
    slate = Slate(user=user, request_id=f"{now}", items=shown, degraded=(), bundle="B", rules="R")
    return Record.impression(Query(user=user, now=now, request_id=f"{now}"), slate, "recommend")


def acted(user: str, item: str, timestamp: float, actions: dict[str, float], known: bool) -> Record:
    more = {"context": {"device": "tv", "hour": 3}, "position": 2, "propensity": 0.25, "bundle": "B", "rules": "R"}
    event = Event(user=user, item=item, timestamp=timestamp, actions=actions, **more if known else {})
    return Record.feedback(f"{user}{item}{timestamp}", event)


MOMENTS = st.integers(0, 8).map(lambda third: third * DAY / 3)
ACTIONS = st.dictionaries(
    st.sampled_from(["click", "rating", "kind", "unknown"]), st.sampled_from([0.0, 1.0, 4.5, "buy", "view"])
)
ACTED = st.builds(acted, st.sampled_from(USERS), st.sampled_from(ITEMS), MOMENTS, ACTIONS, st.booleans())
SHOWN = st.builds(impression, st.sampled_from(USERS), st.lists(st.sampled_from(ITEMS), max_size=3), MOMENTS)
NO_FACT = ACTED.map(lambda record: replace(record, body={**record.body, "actions": {"rating": float("nan")}}))
PREFERRED = st.builds(
    lambda kind, user, at, body: Record.preference(f"{kind}{user}{at}{body}", kind, user, at, body),
    st.sampled_from(["hide", "unhide", "hide"]),
    st.sampled_from(USERS),
    MOMENTS,
    st.dictionaries(st.sampled_from(["item", "author"]), st.lists(st.sampled_from(ITEMS), max_size=2)),
) | st.builds(
    lambda user, at, age: Record.preference(f"profile{user}{at}{age}", "profile", user, at, {"age": age}),
    st.sampled_from(USERS),
    MOMENTS,
    st.none() | st.integers(0, 9) | st.just([1.5, 2.0]),
)
LOGS = st.lists(ACTED | SHOWN | PREFERRED | NO_FACT, min_size=1, max_size=30)


def log(records: list[Record], gaps: list[int]) -> list[StoredRecord]:
    places = itertools.accumulate(gaps[place % len(gaps)] for place in range(len(records)))
    return [StoredRecord(sequence=place, record=record) for place, record in zip(places, records, strict=True)]


def archived(folder: Path, stored: list[StoredRecord], ends: list[int]) -> ParquetArchive:
    sink = ParquetSink(folder)
    try:
        for start, end in itertools.pairwise([0, *sorted(ends), len(stored)]):
            asyncio.run(sink.write(stored[start:end]))
    finally:
        sink.close()
    return ParquetArchive(folder)


def states_of(stored: list[StoredRecord]) -> list[bytes]:
    own = ([one for one in stored if one.record.user == user] for user in USERS)
    return [encode(apply_stored_records(UserState(), one, SPEC), SPEC) for one in own]


@settings(max_examples=60, deadline=None)
@given(
    records=LOGS,
    gaps=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    ends=st.lists(st.integers(0, 30), max_size=4),
)
def test_states_folded_from_the_archive_are_those_folded_from_the_log(tmp_path_factory, records, gaps, ends):
    stored = log(records, gaps)
    archive = archived(tmp_path_factory.mktemp("events"), stored, [min(end, len(stored)) for end in ends])
    again = list(archive)
    assert [(one.sequence, one.record.id) for one in again] == [(one.sequence, one.record.id) for one in stored]
    assert (len(archive), archive.last) == (len(stored), stored[-1].sequence)
    assert states_of(again) == states_of(stored)


def test_a_file_is_opened_when_its_turn_comes(tmp_path, monkeypatch):
    stored = log([acted("u", "a", number * DAY, {"click": 1.0}, False) for number in range(20)], [1])
    archive = archived(tmp_path, stored, list(range(20)))
    (fourth,) = tmp_path.glob("feedback/*/4-4.parquet")
    fourth.write_bytes(b"no parquet")
    records = iter(archive)
    assert [one.sequence for one in itertools.islice(records, 3)] == [1, 2, 3]
    with pytest.raises(ServingError, match=r"4-4\.parquet cannot be read"):
        next(records)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    archive = archived(tmp_path, log([acted("u", "a", 0.0, {}, False)], [1]), [])
    (file,) = tmp_path.glob("feedback/*/*.parquet")
    file.write_bytes(b"no parquet")
    with pytest.raises(ServingError, match=r"1-1\.parquet cannot be read .*; restore it, or move it away"):
        list(archive)


def test_a_foreign_file_is_named_and_left_out(tmp_path, caplog):
    stored = log([acted("u", "a", 0.0, {}, False)], [1])
    archived(tmp_path, stored, [])
    (file,) = tmp_path.glob("feedback/*/*.parquet")
    for name in ("copy of 1-1.parquet", "part-0.parquet"):
        file.with_name(name).write_bytes(b"no parquet")
    assert [one.sequence for one in ParquetArchive(tmp_path)] == [1]
    assert "copy of 1-1.parquet is no file of the event log" in caplog.text


class Counted:
    """A sink of records, which can be made to forget them."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.cleared = 0

    async def write(self, batch: list[StoredRecord]) -> None:
        self.ids += [one.record.id for one in batch]

    async def clear(self) -> None:
        self.ids.clear()
        self.cleared += 1


def test_a_reader_goes_on_in_the_log_behind_the_archive(stream, feedback, until, tmp_path):
    """The archive lags behind what the states had acknowledged before they were lost."""

    async def run() -> tuple[Counted, list[int], int]:
        writer, sink, done = JetStreamWriter(stream), Counted(), []
        await writer.append([feedback(number) for number in range(10)])
        before = JetStreamReader(stream, name="states", limit=10)
        batch = await before.fetch()
        await before.acknowledge(batch[-1].sequence)
        await before.close()
        parquet = ParquetSink(tmp_path)
        await parquet.write(batch[:6])
        parquet.close()
        log = JetStreamReader(stream, name="states", limit=4)
        reader = ArchiveReader(tmp_path, log, limit=4, on_start=sink.clear, on_done=lambda: done.append(len(sink.ids)))
        consumer = Consumer(reader=reader, sinks=[sink])
        sink.ids.append("what a damaged store held")
        task = asyncio.ensure_future(consumer.run())
        await until(lambda: consumer.num_written == 10)
        await writer.append([feedback(10)])
        await until(lambda: consumer.num_written == 11)
        task.cancel()
        await reader.close()
        await writer.close()
        after = JetStreamReader(stream, name="states")
        position = await after._position()
        await after.close()
        assert position == consumer.sequence > batch[-1].sequence
        return sink, done

    sink, done = asyncio.run(run())
    assert sink.ids == [f"r{number}" for number in range(11)]
    assert (sink.cleared, done) == (1, [6])


def test_nothing_is_thrown_away_while_a_file_cannot_be_read(stream, until, tmp_path):
    stored = log([acted("u", item, number * DAY, {}, False) for number, item in enumerate(ITEMS)], [1])
    archived(tmp_path, stored, [1, 2, 3, 4])
    damaged = sorted(tmp_path.glob("feedback/*/*.parquet"))[2]
    sound = damaged.read_bytes()
    damaged.write_bytes(b"")

    async def run() -> tuple[Counted, int]:
        sink, log = Counted(), JetStreamReader(stream, name="states")
        reader = ArchiveReader(tmp_path, log, limit=2, on_start=sink.clear, on_done=lambda: None)
        consumer = Consumer(reader=reader, sinks=[sink])
        task = asyncio.ensure_future(consumer.run())
        await until(lambda: consumer.problem is not None)
        damaged.write_bytes(sound)
        await until(lambda: len(sink.ids) == len(stored))
        task.cancel()
        await reader.close()
        return sink, consumer.retries

    sink, retries = asyncio.run(run())
    assert sink.ids == [one.record.id for one in stored]
    assert (sink.cleared, retries > 0) == (1, True)
