"""Exposure shares of all users in one file, which the counting process replaces and the rules stage follows.

    <folder>/shares.json    {"format": 1, "shares": 27019}            a JSON object a line, after this one of so many shares
                            {"genres=Drama": 0.31, "item=50": 0.002}

A query takes the shares that its candidates need, so neither requests nor the event log carry the counters of a catalogue.
Lines are short because json holds the GIL while it reads or writes one.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from recsys.errors import DataError, RecsysError
from recsys.stores.atomic_files import file_stamp, locked
from recsys.stores.change_watcher import POLL_INTERVAL_S, ChangeWatcher, OncePerErrorLogger

FILE, FORMAT, PER_LINE = "shares.json", 1, 500

Shares = Mapping[str, float]
""""column=value" -> share of all impressions, as in Query.exposure"""

logger = logging.getLogger(__name__)


class ShareFile:
    """File in a folder that need not exist, safe for concurrent writers and readers: a reader never sees a partial file.

    Writes are not fsynced, since the counts can be made again: after a crash the file may be damaged, and `read` raises.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE

    def stamp(self) -> object:
        """Return a value that differs after every `write`, None without a file."""
        return file_stamp(self.path)

    def write(self, shares: Shares) -> object:
        """Replace the file and return its stamp; OSError where the disk refuses."""
        with locked(self.path.parent):
            draft = self.path.with_name(f".{FILE}.draft")
            draft.unlink(missing_ok=True)
            with draft.open("w", encoding="utf-8") as stream:
                stream.writelines(_lines(shares))
            stamp = file_stamp(draft)  # of what was written, whatever others do to the file next
            draft.replace(self.path)
            return stamp

    def read(self) -> Shares:
        """Return the shares, none without a file. DataError for malformed content, OSError for an unreadable file."""
        try:
            lines = self.path.read_bytes().splitlines()
        except FileNotFoundError:
            return {}
        try:
            return _shares(lines)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise DataError(
                f"{self.path} holds no shares of what was shown; a running gateway writes it again"
            ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExposureShares:
    """Snapshot of the exposure shares."""

    shares: Shares = field(default_factory=dict)
    stale: bool = False
    """the file could not be read, older shares are used"""


class LiveShares:
    """Latest written shares, read by a background thread so that no request waits."""

    def __init__(self, file: ShareFile) -> None:
        self._file = file
        self._current = ExposureShares()
        self._errors = OncePerErrorLogger(logger, "exposure")
        self._watcher = ChangeWatcher(file.stamp, self._reload)
        if not self._reload():
            self._watcher.mark_failed()
        self._watcher.start_polling(POLL_INTERVAL_S)

    def current(self) -> ExposureShares:
        """Return the latest snapshot. Call it once per batch: the next call may return another."""
        self._watcher.poll()
        return self._current

    def _reload(self) -> bool:
        try:
            self._current = ExposureShares(shares=self._file.read())
        except (RecsysError, OSError) as error:
            self._errors.log(error, "the older shares stay in use")
            self._current = replace(self._current, stale=True)
            return False
        self._errors.reset()
        return True


def _lines(shares: Shares) -> Iterator[str]:
    yield json.dumps({"format": FORMAT, "shares": len(shares)}) + "\n"
    rest = iter(shares.items())
    while part := dict(islice(rest, PER_LINE)):
        yield json.dumps(part, separators=(",", ":")) + "\n"


def _shares(lines: list[bytes]) -> Shares:
    """Parse lines; ValueError, KeyError, TypeError or AttributeError where they are malformed."""
    head, *parts = (json.loads(line) for line in lines)
    shares = {key: _share(share) for part in parts for key, share in part.items()}
    if head != {"format": FORMAT, "shares": len(shares)}:
        raise ValueError(head)
    return shares


def _share(share: float) -> float:
    if isinstance(share, bool) or not 0 <= share <= 1:
        raise ValueError(share)
    return share
