"""Local disk buffer for records while the broker is down.

    folder/000000000001.spool   one record a line: crc32 of the rest of the line, unix seconds, JSON
           .lock                one process a folder

Where an encryption key is configured, what follows the checksum is encrypted (RowCipher), in base64. A line that a crash left
half-written is cut when the spool is opened; a damaged line in between is skipped and counted. A line of "#" was erased.
Bytes beyond `_Segment.size` were never acknowledged and are not read.
"""

import asyncio
import base64
import contextlib
import logging
import os
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from recsys.encryption import EncryptionKey, RowCipher, configured_encryption_key
from recsys.errors import ServingError
from recsys.stores.atomic_files import sync_folder, truncate
from serving.events.folder_lock import lock_folder
from serving.events.record import Record

logger = logging.getLogger(__name__)

T = TypeVar("T")
SUFFIX = ".spool"
ERASED = b"#"
"""fills an erased line, so that no other line moves"""
LINE = b"line"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpooledRecord:
    """A record with its spool time."""

    timestamp: float
    """unix seconds, UTC"""
    record: Record


class LineCodec:
    """Lines of a segment, encrypted by the given key, if any."""

    def __init__(self, key: EncryptionKey | None) -> None:
        self._cipher = None if key is None else key.rows("spool")

    def format(self, now: float, record: Record) -> bytes:
        """Return the line of a record, with its newline."""
        rest = b"%.6f %s" % (now, record.to_json())
        if self._cipher is not None:
            rest = base64.b64encode(self._cipher.encrypt(rest, LINE))
        return b"%08x %s\n" % (zlib.crc32(rest), rest)

    def parse(self, line: bytes) -> SpooledRecord | None:
        """Return the record of a line without its newline; None when it is damaged, or encrypted otherwise."""
        checksum, _, rest = line.partition(b" ")
        if b"%08x" % zlib.crc32(rest) != checksum:
            return None
        if self._cipher is not None:
            rest = self._decrypted(self._cipher, rest)
        timestamp, _, document = rest.partition(b" ")
        return SpooledRecord(timestamp=float(timestamp), record=Record.from_json(document)) if document else None

    @staticmethod
    def _decrypted(cipher: RowCipher, rest: bytes) -> bytes:
        try:
            return cipher.decrypt(base64.b64decode(rest, validate=True), LINE) or b""
        except ValueError:  # no base64
            return b""


@dataclass(slots=True, kw_only=True)
class _Segment:
    path: Path
    size: int
    """bytes that are durable"""
    num_damaged: int = 0
    """unread damaged lines that are counted already"""


class Spool:
    """First-in, first-out queue of segment files, for one event loop; one process a folder.

    `max_bytes` bounds all files together, `segment_bytes` one segment. `damaged` counts unreadable lines. Lines are encrypted
    where a key is configured. ServingError when another process holds the folder.
    """

    def __init__(self, folder: Path, *, max_bytes: int = 1 << 30, segment_bytes: int = 8 << 20) -> None:
        self.folder = Path(folder)
        self.damaged = 0
        self._lines = LineCodec(configured_encryption_key())
        self._max_bytes, self._segment_bytes = max_bytes, segment_bytes
        self._lock = lock_folder(self.folder)
        self.recovered: list[Record] = []
        """records about users, impressions aside, that an earlier process left here; oldest first"""
        self._segments = self._open_segments()
        self._last_number = int(self._segments[-1].path.stem) if self._segments else 0
        self._active: int | None = None
        """descriptor of the last segment, if this process began it and no write failed"""
        self._read_offset = self._peeked_offset = 0
        """offsets in the first segment: of the first unreleased line, and behind the last peeked one"""
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._committing: asyncio.Task[None] | None = None
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="spool")  # one thread serialises all file operations

    @property
    def num_bytes(self) -> int:
        """Of all segments."""
        return sum(segment.size for segment in self._segments)

    @property
    def empty(self) -> bool:
        """Whether no record is stored or being written."""
        return not self._segments and not self._waiting and self._committing is None

    async def append(self, records: Sequence[Record]) -> None:
        """Return when all records are on disk; concurrent appends share one fsync (group commit).

        ServingError when the spool is full or unwritable; then none of these records is in it.
        """
        now = time.time()
        lines = b"".join(self._lines.format(now, record) for record in records)
        if self.num_bytes + sum(len(data) for data, _ in self._waiting) + len(lines) > self._max_bytes:
            raise ServingError(f"the spool {self.folder} has reached its {self._max_bytes} bytes; restart the broker")
        stored = asyncio.get_running_loop().create_future()
        self._waiting.append((lines, stored))
        if self._committing is None:
            self._committing = asyncio.ensure_future(self._commit())
        await stored

    async def peek(self, limit: int) -> list[SpooledRecord]:
        """Return the oldest records, at most `limit`; empty only for an empty spool. ServingError on a disk error."""
        return await self._run_on_disk(partial(self._read_oldest, limit))

    async def release(self) -> None:
        """Remove the records that `peek` returned last. ServingError on a disk error; safe to repeat."""
        await self._run_on_disk(self._remove_peeked)

    async def erase(self, chosen: Callable[[Record], bool]) -> int:
        """Overwrite the records that `chosen` accepts in their place; return their number. ServingError on a disk error."""
        await self.settle()
        return sum(
            [
                await self._run_on_disk(partial(_erase_lines, one.path, chosen, self._lines))
                for one in list(self._segments)
            ]
        )

    async def settle(self) -> None:
        """Return when all pending appends are on disk."""
        if self._committing is not None:
            await asyncio.shield(self._committing)

    async def close(self) -> None:
        """Finish pending appends; spooled records stay."""
        await self.settle()
        await self._on_disk(self._end_segment)
        self._disk.shutdown()
        os.close(self._lock)

    async def _run_on_disk(self, work: Callable[[], T]) -> T:
        try:
            return await self._on_disk(work)
        except OSError as error:
            raise ServingError(f"the spool {self.folder} cannot be drained ({error.strerror}); it is retried") from None

    async def _on_disk(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._disk, work)

    async def _commit(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            data = b"".join(lines for lines, _ in group)
            problem: Exception | None = None
            try:
                await self._on_disk(partial(self._store, data))
            except Exception as error:  # a waiting caller must also learn of a defect
                problem = error
            for _, stored in group:
                _settle(stored, problem)
        self._committing = None

    def _open_segments(self) -> list[_Segment]:
        segments = []
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            if not path.stem.isdecimal():
                logger.warning("%s is no file of the spool and is left alone", path)
                continue
            data = path.read_bytes()
            size = _intact_length(data, self._lines)
            lines = [self._lines.parse(line) for line in data[:size].splitlines() if not line.startswith(ERASED)]
            self._count_damaged(path, lines.count(None))
            if size < len(data):
                logger.warning("%s: its last %d bytes are no whole record and are cut", path, len(data) - size)
            self.recovered += [one.record for one in lines if one is not None and one.record.kind != "impression"]
            if size:
                if size < len(data):
                    truncate(path, size)
                segments.append(_Segment(path=path, size=size, num_damaged=lines.count(None)))
            else:
                path.unlink()
        return segments

    def _count_damaged(self, path: Path, num: int) -> None:
        if num > 0:
            self.damaged += num
            logger.warning("%s: %d damaged lines are left out; the records behind them follow", path, num)

    def _store(self, data: bytes) -> None:
        try:
            if self._active is None or self._segments[-1].size >= self._segment_bytes:
                self._end_segment()
                self._begin_segment()
            assert self._active is not None
            _write(self._active, data)
            os.fsync(self._active)
        except OSError as error:
            self._abandon_segment()
            raise ServingError(
                f"the spool {self.folder} cannot be written ({error.strerror}); free some space there"
            ) from None
        self._segments[-1].size += len(data)

    def _begin_segment(self) -> None:
        self._last_number += 1
        path = self.folder / f"{self._last_number:012}{SUFFIX}"
        self._active = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666)
        self._segments.append(_Segment(path=path, size=0))
        sync_folder(self.folder)

    def _end_segment(self) -> None:
        if self._active is not None:
            os.close(self._active)
            self._active = None

    def _abandon_segment(self) -> None:
        """Close the segment after a failed write; bytes beyond its acknowledged size are cut where possible."""
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

    def _read_oldest(self, limit: int) -> list[SpooledRecord]:
        while self._segments:
            found, self._peeked_offset = self._read_segment(self._segments[0], limit)
            if found:
                return found
            self._remove_peeked()
        return []

    def _read_segment(self, segment: _Segment, limit: int) -> tuple[list[SpooledRecord], int]:
        """Records from the read offset on, and the offset behind them; one that was cut or removed ends where it ends."""
        lines, end = _read_lines(segment, self._read_offset, limit)
        found = [one for line in lines if (one := self._lines.parse(line.rstrip(b"\n"))) is not None]
        cut = len(lines) < limit and end < segment.size
        num_damaged = sum(not line.startswith(ERASED) for line in lines) - len(found) + cut
        self._count_damaged(segment.path, num_damaged - segment.num_damaged)
        segment.num_damaged = max(0, segment.num_damaged - num_damaged)
        if cut and segment is self._segments[-1]:
            self._end_segment()  # its offsets are wrong from here on
        return found, segment.size if cut else end

    def _remove_peeked(self) -> None:
        segment = self._segments[0]
        self._read_offset = self._peeked_offset
        if self._read_offset < segment.size:
            return
        if len(self._segments) == 1:
            self._end_segment()
        segment.path.unlink(missing_ok=True)
        self._segments.pop(0)
        self._read_offset = self._peeked_offset = 0


def _read_lines(segment: _Segment, offset: int, limit: int) -> tuple[list[bytes], int]:
    """At most `limit` lines of the durable part from the offset on, and the offset behind them."""
    lines: list[bytes] = []
    with contextlib.suppress(FileNotFoundError), segment.path.open("rb") as stream:
        stream.seek(offset)
        while len(lines) < limit and offset < segment.size and (line := stream.readline()):
            offset += len(line)
            lines.append(line)
    return lines, offset


def _settle(stored: "asyncio.Future[None]", problem: Exception | None) -> None:
    if stored.done():  # the caller was cancelled
        return
    if problem is None:
        stored.set_result(None)
    else:
        stored.set_exception(problem)


def _erase_lines(path: Path, chosen: Callable[[Record], bool], codec: LineCodec) -> int:
    """Overwrite lines of a segment; one that a crash leaves half-overwritten counts as damaged. A drained segment has none."""
    if not path.exists():
        return 0
    number = 0
    with path.open("rb+") as stream:
        while line := stream.readline():
            if (one := codec.parse(line.rstrip(b"\n"))) is not None and chosen(one.record):
                stream.seek(-len(line), os.SEEK_CUR)
                stream.write(ERASED * (len(line) - 1))
                stream.readline()
                number += 1
        stream.flush()
        os.fsync(stream.fileno())
    return number


def _intact_length(data: bytes, codec: LineCodec) -> int:
    """Length in bytes up to the end of the last intact line."""
    end = data.rfind(b"\n") + 1
    while end:
        start = data.rfind(b"\n", 0, end - 1) + 1
        if data.startswith(ERASED, start) or codec.parse(data[start : end - 1]) is not None:
            return end
        end = start
    return 0


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
