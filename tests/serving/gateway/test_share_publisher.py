"""What was shown to everybody reaches the file, whatever the store, the disk or other writers do."""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import pytest

from recsys.policy.exposure.exposure_file import FILE, ShareFile, Shares
from serving.gateway.share_publisher import EXPOSURE_LATE, SharePublisher

EVERY_S = 0.05
PATIENCE_S = 60.0


class Counted:
    """Implements Exposures."""

    def __init__(self) -> None:
        self.shares: dict[str, float] = {}

    async def exposure(self) -> Mapping[str, float]:
        return dict(self.shares)


class SlowFile(ShareFile):
    """A disk that takes as long as it is told."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.open = threading.Event()
        self.at_once, self.most = 0, 0

    def write(self, shares: Shares) -> object:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        assert self.open.wait(PATIENCE_S)
        self.at_once -= 1
        return super().write(shares)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            await asyncio.sleep(EVERY_S / 5)


def during(publisher: SharePublisher, story: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await publisher.start()
        try:
            await story()
        finally:
            await publisher.stop()

    asyncio.run(run())


def test_what_changes_is_written_and_what_others_spoil_is_written_again(tmp_path: Path) -> None:
    counted, file = Counted(), ShareFile(tmp_path)
    counted.shares["item=a"] = 0.5

    async def story() -> None:
        await until(lambda: file.read() == {"item=a": 0.5})
        counted.shares["item=a"] = 0.25
        await until(lambda: file.read() == {"item=a": 0.25})
        file.write({"item=a": 0.75})
        await until(lambda: file.read() == {"item=a": 0.25})
        file.path.unlink()
        await until(lambda: file.read() == {"item=a": 0.25})
        (tmp_path / "draft").write_text("nonsense")
        (tmp_path / "draft").replace(file.path)
        await until(lambda: b"nonsense" not in file.path.read_bytes())

    during(SharePublisher(counted, file, interval_s=EVERY_S), story)
    assert file.read() == counted.shares


def test_where_another_gateway_wrote_the_same_nothing_is_written(tmp_path: Path) -> None:
    counted, file = Counted(), ShareFile(tmp_path)
    counted.shares["item=a"] = 0.5
    stamp = file.write(counted.shares)
    publisher = SharePublisher(counted, file, interval_s=PATIENCE_S)
    during(publisher, lambda: asyncio.sleep(0))
    assert (file.stamp(), publisher.flags) == (stamp, ())


def test_a_slow_disk_is_said_and_never_gets_two_writes(tmp_path: Path) -> None:
    counted, file = Counted(), SlowFile(tmp_path)
    counted.shares["item=a"] = 0.5
    publisher = SharePublisher(counted, file, interval_s=EVERY_S)

    async def story() -> None:
        assert publisher.flags == (EXPOSURE_LATE,)
        assert file.read() == {}
        counted.shares["item=a"] = 0.25
        file.open.set()
        await until(lambda: publisher.flags == () and file.read() == {"item=a": 0.25})

    during(publisher, story)
    assert file.most == 1


def test_a_folder_that_cannot_be_written_is_said_with_its_name_and_only_where_it_is_needed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (in_the_way := tmp_path / f".{FILE}.draft").mkdir()
    counted = Counted()
    publisher = SharePublisher(counted, ShareFile(tmp_path), interval_s=EVERY_S)

    async def story() -> None:
        assert publisher.flags == ()
        counted.shares["item=a"] = 0.5
        await until(lambda: publisher.flags == (EXPOSURE_LATE,))

    with caplog.at_level(logging.WARNING):
        during(publisher, story)
    assert [str(in_the_way) in record.getMessage() for record in caplog.records] == [True]
