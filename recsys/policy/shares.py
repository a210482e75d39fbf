"""What was shown to everybody, as shares: one file that whoever counts replaces and the last stage follows.

    <folder>/shares.json    {"format": 1, "shares": {"genres=Drama": 0.31, "item=50": 0.002}}

A query takes of it what its candidates need, so neither requests nor the event log carry the counters of a catalogue.
"""

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recsys.errors import DataError, RecsysError
from recsys.policy.durable import locked, write_whole
from recsys.policy.watch import EVERY_S, Voice, Watch

FILE, FORMAT = "shares.json", 1

Shares = Mapping[str, float]
""""column=value" -> share of all that was shown, as Query.exposure takes it"""

logger = logging.getLogger(__name__)


class ShareFile:
    """In a folder that need not exist. Many may write and read at once."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE

    def stamp(self) -> object:
        """Differs after every `write`; None where nothing was written yet."""
        try:
            told = self.path.stat()
        except FileNotFoundError:
            return None
        return told.st_ino, told.st_mtime_ns, told.st_size

    def write(self, shares: Shares) -> None:
        """OSError where the disk refuses; a reader never sees a part."""
        data = json.dumps({"format": FORMAT, "shares": dict(shares)}, separators=(",", ":")).encode()
        with locked(self.path.parent):
            write_whole(self.path, data)

    def read(self) -> Shares:
        """Nothing where nothing was written yet. DataError for a file that holds no shares."""
        try:
            document = json.loads(self.path.read_bytes())
        except FileNotFoundError:
            return {}
        except ValueError:
            document = None
        if not _sound(document):
            raise DataError(
                f"{self.path} holds no shares of what was shown; remove it, the gateway writes it again when it starts"
            )
        shares: Shares = document["shares"]
        return shares


class LiveShares:
    """The shares as they were written last. A thread reads them, nobody waits; what cannot be read leaves the older ones."""

    stale = False
    """the file could not be read"""

    def __init__(self, file: ShareFile) -> None:
        self._file = file
        self._now: Shares = {}
        self._voice = Voice(logger, "exposure")
        self._watch = Watch(file.stamp, self._follow)
        if not self._follow():
            self._watch.fail()
        self._watch.keep_looking(EVERY_S)

    def now(self) -> Shares:
        self._watch.look()
        return self._now

    def _follow(self) -> bool:
        try:
            self._now, self.stale = self._file.read(), False
        except (RecsysError, OSError) as error:
            self._voice.say(error, "the older shares go on serving")
            self.stale = True
            return False
        self._voice.well()
        return True


def _sound(document: Any) -> bool:
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        return False
    shares = document.get("shares")
    return isinstance(shares, dict) and all(
        isinstance(share, int | float) and not isinstance(share, bool) and math.isfinite(share)
        for share in shares.values()
    )
