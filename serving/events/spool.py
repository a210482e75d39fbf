"""Records on the local disk, for as long as the broker is away.

    folder/000000000001.spool   one record a line: crc32 of the rest of the line, unix seconds, JSON
           .lock                one process a folder

A line that a crash left half-written is cut when the spool is opened; a damaged one in between is passed over and
counted. What stands behind `_Segment.size` was never acknowledged and is not read.
"""

import asyncio
import os
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from recsys.errors import ServingError
from recsys.stores.atomic_files import sync_folder, truncate
from serving.events.lock import hold
from serving.events.record import Record

T = TypeVar("T")
SUFFIX = ".spool"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spooled:
    """A record, and when it was put into the spool."""

    timestamp: float
    """unix seconds, UTC"""
    record: Record


@dataclass(slots=True, kw_only=True)
class _Segment:
    path: Path
    size: int
    """bytes that are durable"""


class Spool:
    """Append at one end, take away at the other; belongs to one event loop, and its folder to one process.

    `max_bytes` bounds the files together, `segment_bytes` is where a new one is begun. `damaged` counts lines that
    could not be read. ServingError when another process has the folder.
    """

    def __init__(self, folder: Path, *, max_bytes: int = 1 << 30, segment_bytes: int = 8 << 20) -> None:
        self.folder = Path(folder)
        self.damaged = 0
        self._max_bytes, self._segment_bytes = max_bytes, segment_bytes
        self._lock = hold(self.folder)
        self._segments = self._opened()
        self._number = int(self._segments[-1].path.stem) if self._segments else 0
        self._active: int | None = None
        """descriptor of the last segment, if it was begun by this process and is whole"""
        self._begin = self._peeked = 0
        """offsets in the first segment: of what was not taken away, and behind what was looked at"""
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._committing: asyncio.Task[None] | None = None
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="spool")  # every change of a file happens here

    @property
    def num_bytes(self) -> int:
        """Of all segments."""
        return sum(segment.size for segment in self._segments)

    @property
    def empty(self) -> bool:
        """Nothing is there and nothing is on its way."""
        return not self._segments and not self._waiting and self._committing is None

    async def append(self, records: Sequence[Record]) -> None:
        """Return when all records are on the disk; one synchronisation serves all who wait for one.

        ServingError when the spool is full or cannot be written; then none of these records is in it.
        """
        now = time.time()
        lines = b"".join(_line(now, record) for record in records)
        if self.num_bytes + sum(len(data) for data, _ in self._waiting) + len(lines) > self._max_bytes:
            raise ServingError(
                f"the spool {self.folder} has reached its {self._max_bytes} bytes; bring the broker back"
            )
        stored = asyncio.get_running_loop().create_future()
        self._waiting.append((lines, stored))
        if self._committing is None:
            self._committing = asyncio.ensure_future(self._commit())
        await stored

    async def peek(self, limit: int) -> list[Spooled]:
        """The oldest records, at most `limit` of them; none only when there are none. ServingError where the disk refuses."""
        return await self._moved(partial(self._look, limit))

    async def release(self) -> None:
        """Take away what `peek` returned last. ServingError where the disk refuses; it may be asked again."""
        await self._moved(self._remove)

    async def settle(self) -> None:
        """Return when everything that is on its way is there."""
        if self._committing is not None:
            await asyncio.shield(self._committing)

    async def close(self) -> None:
        """Finish what was begun; what is in the spool stays."""
        await self.settle()
        await self._on_disk(self._end_segment)
        self._disk.shutdown()
        os.close(self._lock)

    async def _moved(self, work: Callable[[], T]) -> T:
        try:
            return await self._on_disk(work)
        except OSError as error:
            raise ServingError(
                f"the spool {self.folder} cannot be emptied ({error.strerror}); it is tried again"
            ) from None

    async def _on_disk(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._disk, work)

    async def _commit(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            data = b"".join(lines for lines, _ in group)
            problem: Exception | None = None
            try:
                await self._on_disk(partial(self._store, data))
            except Exception as error:  # whoever waits has to hear of a defect, too
                problem = error
            for _, stored in group:
                _settle(stored, problem)
        self._committing = None

    def _opened(self) -> list[_Segment]:
        segments = []
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            data = path.read_bytes()
            size = _whole(data)
            self.damaged += sum(_spooled(line) is None for line in data[:size].splitlines())
            if size:
                if size < len(data):
                    truncate(path, size)
                segments.append(_Segment(path=path, size=size))
            else:
                path.unlink()
        return segments

    def _store(self, data: bytes) -> None:
        try:
            if self._active is None or self._segments[-1].size >= self._segment_bytes:
                self._end_segment()
                self._begin_segment()
            assert self._active is not None
            _write(self._active, data)
            os.fsync(self._active)
        except OSError as error:
            self._abandon()
            raise ServingError(
                f"the spool {self.folder} cannot be written ({error.strerror}); free some space there"
            ) from None
        self._segments[-1].size += len(data)

    def _begin_segment(self) -> None:
        self._number += 1
        path = self.folder / f"{self._number:012}{SUFFIX}"
        self._active = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666)
        self._segments.append(_Segment(path=path, size=0))
        sync_folder(self.folder)

    def _end_segment(self) -> None:
        if self._active is not None:
            os.close(self._active)
            self._active = None

    def _abandon(self) -> None:
        """After a failed write nothing more goes to this file; what it has beyond its size is cut, if that is possible."""
        if self._active is None:
            return
        segment = self._segments[-1]
        try:
            os.ftruncate(self._active, segment.size)
            os.fsync(self._active)
        except OSError:
            pass
        self._end_segment()
        if segment.size == 0:
            self._segments.pop()
            segment.path.unlink(missing_ok=True)

    def _look(self, limit: int) -> list[Spooled]:
        while self._segments:
            found, self._peeked = self._lines(self._segments[0], limit)
            if found:
                return found
            self._remove()
        return []

    def _lines(self, segment: _Segment, limit: int) -> tuple[list[Spooled], int]:
        """Records from where the segment begins, and the offset behind them."""
        found: list[Spooled] = []
        end = self._begin
        with segment.path.open("rb") as stream:
            stream.seek(end)
            while len(found) < limit and end < segment.size:
                line = stream.readline()
                end += len(line)
                if (one := _spooled(line.rstrip(b"\n"))) is not None:
                    found.append(one)
        return found, end

    def _remove(self) -> None:
        segment = self._segments[0]
        self._begin = self._peeked
        if self._begin < segment.size:
            return
        if len(self._segments) == 1:
            self._end_segment()
        segment.path.unlink()
        self._segments.pop(0)
        self._begin = self._peeked = 0


def _settle(stored: "asyncio.Future[None]", problem: Exception | None) -> None:
    if stored.done():  # the caller gave up
        return
    if problem is None:
        stored.set_result(None)
    else:
        stored.set_exception(problem)


def _line(now: float, record: Record) -> bytes:
    rest = b"%.6f %s" % (now, record.to_json())
    return b"%08x %s\n" % (zlib.crc32(rest), rest)


def _spooled(line: bytes) -> Spooled | None:
    """What `_line` wrote, without the end of the line; None when it is not that."""
    checksum, _, rest = line.partition(b" ")
    if b"%08x" % zlib.crc32(rest) != checksum:
        return None
    timestamp, _, document = rest.partition(b" ")
    return Spooled(timestamp=float(timestamp), record=Record.from_json(document))


def _whole(data: bytes) -> int:
    """Bytes up to the end of the last line that is whole."""
    end = data.rfind(b"\n") + 1
    while end:
        start = data.rfind(b"\n", 0, end - 1) + 1
        if _spooled(data[start : end - 1]) is not None:
            return end
        end = start
    return 0


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
