"""A thread that does something when what it looks at has changed, and never keeps anybody waiting."""

import logging
import threading
import time
import weakref
from collections.abc import Callable

from recsys.errors import sentence_of

FIRST_PAUSE_S, MAX_PAUSE_S = 1.0, 60.0
NEVER = object()
EVERY_S = 0.25
"""between two looks where no request looks, and at least between two turns that follow changing items"""


class Watch:
    """Calls `turn` whenever `stamp` gives something else than it did at the last turn, one turn at a time.

    A turn that says False is made again after a pause, which grows, or as soon as the stamp differs: what it could not read
    may be there in a moment.
    """

    def __init__(self, stamp: Callable[[], object], turn: Callable[[], bool]) -> None:
        self._stamp_of, self._turn = stamp, turn
        self._failed: object = None
        self._pause_s, self._again_at = FIRST_PAUSE_S, 0.0
        self._turning = threading.Lock()
        self._rest_s = 0.0
        self._stamp = self._seen()

    def look(self) -> None:
        """Costs a stamp; a turn is made by a thread of its own."""
        if self._due(self._seen()) and self._turning.acquire(blocking=False):
            threading.Thread(target=self._follow, name="watch", daemon=True).start()

    def keep_looking(self, every_s: float) -> None:
        """Look so often, asked or not, as long as anybody holds this object; turns are so far apart at least."""
        self._rest_s = every_s
        threading.Thread(target=_looking, args=(weakref.ref(self), every_s), name="look", daemon=True).start()

    def fail(self) -> None:
        """What was made of the present stamp will not do."""
        self._fail(self._seen())

    def _fail(self, stamp: object) -> None:
        if stamp != self._failed:
            self._pause_s = FIRST_PAUSE_S
        self._stamp, self._failed = NEVER, stamp
        self._again_at = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, MAX_PAUSE_S)

    def _due(self, stamp: object) -> bool:
        if self._stamp is NEVER and stamp == self._failed:
            return time.monotonic() >= self._again_at
        return stamp != self._stamp

    def _seen(self) -> object:
        try:
            return self._stamp_of()
        except OSError as error:
            return type(error)

    def _follow(self) -> None:
        try:
            while self._due(stamp := self._seen()):
                if self._turn():
                    self._stamp = stamp
                else:
                    self._fail(stamp)
                time.sleep(self._rest_s)
        finally:
            self._turning.release()


class Voice:
    """Says what goes wrong once, until all was well again."""

    def __init__(self, logger: logging.Logger, what: str) -> None:
        self._logger, self._what = logger, what
        self._said: set[str] = set()

    def well(self) -> None:
        self._said.clear()

    def say(self, error: Exception, consequence: str) -> None:
        if (said := f"{error!r} {consequence}") not in self._said:
            self._said.add(said)
            _say(self._logger, self._what, error, consequence)


def _say(logger: logging.Logger, what: str, error: Exception, consequence: str) -> None:
    """One sentence; a defect of ours keeps its traceback."""
    sentence = sentence_of(error)
    reason = sentence or f"a defect ({error!r})"
    logger.error("%s: %s; %s", what, reason.rstrip("."), consequence, exc_info=None if sentence else error)


def _looking(watched: "weakref.ref[Watch]", every_s: float) -> None:
    while (watch := watched()) is not None:
        watch.look()
        del watch
        time.sleep(every_s)
