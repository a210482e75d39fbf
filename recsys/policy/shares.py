"""What was shown to everybody, as shares: one file that whoever counts replaces and the last stage follows.

    <folder>/shares.json    {"format": 1, "shares": 27019}            a JSON object a line, after this one of so many shares
                            {"genres=Drama": 0.31, "item=50": 0.002}

A query takes of it what its candidates need, so neither requests nor the event log carry the counters of a catalogue. Lines are
short because whoever reads or writes one lets no other thread work.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from recsys.errors import DataError, RecsysError
from recsys.policy.durable import locked
from recsys.policy.watch import EVERY_S, Voice, Watch

FILE, FORMAT, PER_LINE = "shares.json", 1, 500

Shares = Mapping[str, float]
""""column=value" -> share of all that was shown, as Query.exposure takes it"""

logger = logging.getLogger(__name__)


class ShareFile:
    """In a folder that need not exist. Many may write and read at once; a reader never sees a part. What was counted can be
    counted again, so nothing is synchronised with the disk: what a crash leaves may be damaged, and `read` says so.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE

    def stamp(self) -> object:
        """Differs after every `write`; None where there is no file."""
        try:
            told = self.path.stat()
        except FileNotFoundError:
            return None
        return told.st_ino, told.st_mtime_ns, told.st_size

    def write(self, shares: Shares) -> object:
        """The stamp of what was written; OSError where the disk refuses."""
        with locked(self.path.parent):
            draft = self.path.with_name(f".{FILE}.draft")
            draft.unlink(missing_ok=True)
            with draft.open("w", encoding="utf-8") as stream:
                stream.writelines(_lines(shares))
            draft.replace(self.path)
            return self.stamp()

    def read(self) -> Shares:
        """Nothing where there is no file. DataError for one that holds no shares, OSError for one that cannot be read."""
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
class Shown:
    """What is known of the shares at a moment."""

    shares: Shares = field(default_factory=dict)
    stale: bool = False
    """the file could not be read, older shares stand in"""


class LiveShares:
    """The shares as they were written last. A thread reads them, nobody waits."""

    def __init__(self, file: ShareFile) -> None:
        self._file = file
        self._shown = Shown()
        self._voice = Voice(logger, "exposure")
        self._watch = Watch(file.stamp, self._follow)
        if not self._follow():
            self._watch.fail()
        self._watch.keep_looking(EVERY_S)

    def now(self) -> Shown:
        """Take it once a batch: the next call may give another."""
        self._watch.look()
        return self._shown

    def _follow(self) -> bool:
        try:
            self._shown = Shown(shares=self._file.read())
        except (RecsysError, OSError) as error:
            self._voice.say(error, "the older shares go on serving")
            self._shown = replace(self._shown, stale=True)
            return False
        self._voice.well()
        return True


def _lines(shares: Shares) -> Iterator[str]:
    yield json.dumps({"format": FORMAT, "shares": len(shares)}) + "\n"
    rest = iter(shares.items())
    while part := dict(islice(rest, PER_LINE)):
        yield json.dumps(part, separators=(",", ":")) + "\n"


def _shares(lines: list[bytes]) -> Shares:
    """ValueError, KeyError, TypeError or AttributeError for what is none."""
    head, *parts = (json.loads(line) for line in lines)
    shares = {key: _share(share) for part in parts for key, share in part.items()}
    if head != {"format": FORMAT, "shares": len(shares)}:
        raise ValueError(head)
    return shares


def _share(share: float) -> float:
    if isinstance(share, bool) or not 0 <= share <= 1:
        raise ValueError(share)
    return share
