"""The key of a live folder: taken once, asked for at every start, and changed while the stack is stopped."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from recsys.contracts import Event
from recsys.encryption import EncryptionKey
from recsys.errors import ConfigError, ServingError
from serving.events.archive import ParquetArchive
from serving.events.connection import Stream
from serving.events.folder_lock import lock_folder
from serving.events.jetstream import JetStreamReader, JetStreamWriter
from serving.events.nats_server import NatsServer
from serving.events.parquet import ParquetSink
from serving.events.record import Record, StoredRecord
from serving.events.spool import Spool
from serving.layout import DeploymentLayout
from serving.ops import reencryption
from serving.ops.reencryption import reencrypt

pytest.importorskip("cryptography")

NAME, DAY = "susan.distinctive.7391", 86_400.0
NUM_RECORDS = 12
UseKey = Callable[[str | None], EncryptionKey | None]


@pytest.fixture
def layout(tmp_path: Path) -> DeploymentLayout:
    return DeploymentLayout(serve=tmp_path / "serve", live=tmp_path / "live")


def records() -> list[Record]:
    return [
        Record.feedback(f"distinctive-r{number}", Event(user=NAME, item=f"distinctive-i{number}", timestamp=DAY))
        for number in range(NUM_RECORDS)
    ]


def fill(layout: DeploymentLayout) -> None:
    """Leave the same records in spool, Parquet and broker, and states."""
    layout.make_live()
    stored = [StoredRecord(sequence=number, record=record) for number, record in enumerate(records(), 1)]

    async def write(broker: NatsServer) -> None:
        spool, sink = Spool(layout.spool), ParquetSink(layout.events)
        writer = JetStreamWriter(Stream(server=broker.server, max_bytes=64 << 20, deadline_s=20.0))
        await asyncio.gather(spool.append(records()), sink.write(stored[:7]), writer.append(records()))
        await sink.write(stored[7:])
        await writer.close()
        await spool.close()
        sink.close()

    with NatsServer(layout.broker) as broker:
        asyncio.run(write(broker))
    layout.states.write_bytes(NAME.encode())


def held(layout: DeploymentLayout) -> tuple[list[str], ...]:
    """Ids in spool, Parquet and broker."""

    async def read(broker: NatsServer) -> tuple[list[str], list[str]]:
        spool = Spool(layout.spool)
        spooled = [one.record.id for one in await spool.peek(1_000)]
        await spool.close()
        reader = JetStreamReader(Stream(server=broker.server, max_bytes=64 << 20, read_deadline_s=20.0), name="x")
        logged: list[StoredRecord] = []
        while len(logged) < NUM_RECORDS:
            logged += await reader.fetch()
        await reader.close()
        return spooled, [one.record.id for one in logged]

    with NatsServer(layout.broker) as broker:
        spooled, logged = asyncio.run(read(broker))
    return spooled, [one.record.id for one in ParquetArchive(layout.events)], logged


def files_with_ids(folder: Path) -> list[str]:
    files = (file for file in folder.rglob("*") if file.is_file())
    words = (NAME.encode(), b"distinctive-")
    return [str(file.relative_to(folder)) for file in files if any(word in file.read_bytes() for word in words)]


def test_a_plain_folder_is_encrypted_and_its_key_changed(layout: DeploymentLayout, use_key: UseKey) -> None:
    fill(layout)
    expected = ([record.id for record in records()],) * 3
    assert held(layout) == expected
    assert len(files_with_ids(layout.live)) >= 4
    lines: list[str] = []
    first = use_key("first.key")
    reencrypt(layout, None, lines.append)
    assert lines[:2] == ["parquet  2 files", f"spool    {NUM_RECORDS} records"]
    assert files_with_ids(layout.live) == []
    assert layout.rebuild.exists()
    layout.make_live()
    assert held(layout) == expected
    use_key("second.key")
    reencrypt(layout, first, lines.append)
    layout.make_live()
    assert held(layout) == expected
    assert files_with_ids(layout.live) == []
    use_key("first.key")
    with pytest.raises(ConfigError, match="change it by `python -m serving reencrypt`"):
        layout.make_live()


def test_an_interrupted_change_goes_on(
    layout: DeploymentLayout, use_key: UseKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(layout)
    use_key("live.key")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(reencryption, "_reencrypt_log", interrupted)
        with pytest.raises(KeyboardInterrupt):
            reencrypt(layout, None, lambda _: None)
    with pytest.raises(ConfigError, match="is not encrypted"):
        layout.make_live()
    lines: list[str] = []
    reencrypt(layout, None, lines.append)
    assert lines[:2] == ["parquet  0 files", f"spool    {NUM_RECORDS} records"]
    assert held(layout) == ([record.id for record in records()],) * 3


def test_a_start_wants_the_key_of_the_data(layout: DeploymentLayout, use_key: UseKey) -> None:
    first = use_key("first.key")
    layout.make_live()
    fill(layout)
    layout.make_live()
    assert layout.encryption_key_id() == first.id  # type: ignore[union-attr]
    assert layout.encryption.stat().st_mode & 0o777 == 0o600
    use_key(None)
    with pytest.raises(ConfigError, match=r"is encrypted by the key \w+; name its file by --encryption-key"):
        layout.make_live()
    use_key("second.key")
    with pytest.raises(ConfigError, match=r"is encrypted by the key \w+, .*second\.key holds \w+; change it by"):
        layout.make_live()
    layout.encryption.write_text("{}")
    with pytest.raises(ConfigError, match="was altered; restore it"):
        layout.make_live()


def test_a_plain_folder_with_data_is_not_taken_for_an_encrypted_one(layout: DeploymentLayout, use_key: UseKey) -> None:
    fill(layout)
    use_key("live.key")
    with pytest.raises(ConfigError, match=r"is not encrypted, .*live\.key holds"):
        layout.make_live()
    assert layout.encryption_key_id() is None


def test_what_cannot_be_changed_stays(layout: DeploymentLayout, use_key: UseKey) -> None:
    use_key("live.key")
    with pytest.raises(ConfigError, match="does not exist"):
        reencrypt(layout, None, print)
    layout.make_live()
    with pytest.raises(ConfigError, match="already; make another one"):
        reencrypt(layout, None, print)
    old = use_key("other.key")
    with pytest.raises(ConfigError, match=r"is encrypted by the key \w+, --old-key is None; name the file"):
        reencrypt(layout, None, print)
    with pytest.raises(ConfigError, match="--old-key is"):
        reencrypt(layout, old, print)
    use_key(None)
    with pytest.raises(ConfigError, match="no key to encrypt by"):
        reencrypt(layout, old, print)


def test_a_running_stack_is_not_touched(layout: DeploymentLayout, use_key: UseKey) -> None:
    fill(layout)
    use_key("live.key")
    descriptor = lock_folder(layout.spool)  # as a gateway alone holds it
    try:
        with pytest.raises(ServingError, match="is in use by another process"):
            reencrypt(layout, None, print)
    finally:
        os.close(descriptor)
    assert files_with_ids(layout.spool)
