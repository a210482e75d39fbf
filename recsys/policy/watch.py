"""A thread that does something when what it looks at has changed, and never keeps anybody waiting."""

import logging
import threading
import time
import weakref
from collections.abc import Callable

from recsys.errors import sentence_of

EVERY_S = 0.25
"""between two looks where no request looks, and at least between two turns that follow changing items"""


class Watch:
    """Calls `turn` whenever `stamp` gives something else than it did at the last turn, one turn at a time."""

    def __init__(self, stamp: Callable[[], object], turn: Callable[[], None]) -> None:
        self._stamp_of, self._turn = stamp, turn
        self._turning = threading.Lock()
        self._rest_s = 0.0
        self._stamp = self._seen()

    def look(self) -> None:
        """Costs a stamp; a turn is made by a thread of its own."""
        if self._seen() != self._stamp and self._turning.acquire(blocking=False):
            threading.Thread(target=self._follow, name="watch", daemon=True).start()

    def keep_looking(self, every_s: float) -> None:
        """Look so often, asked or not, as long as anybody holds this object; turns are so far apart at least."""
        self._rest_s = every_s
        threading.Thread(target=_looking, args=(weakref.ref(self), every_s), name="look", daemon=True).start()

    def _seen(self) -> object:
        try:
            return self._stamp_of()
        except OSError as error:
            return type(error)

    def _follow(self) -> None:
        try:
            while (stamp := self._seen()) != self._stamp:
                self._turn()
                self._stamp = stamp
                time.sleep(self._rest_s)
        finally:
            self._turning.release()


def say(logger: logging.Logger, what: str, error: Exception, consequence: str) -> None:
    """One sentence; a defect of ours keeps its traceback."""
    sentence = sentence_of(error)
    reason = sentence or f"a defect ({error!r})"
    logger.error("%s: %s; %s", what, reason.rstrip("."), consequence, exc_info=None if sentence else error)


def _looking(watched: "weakref.ref[Watch]", every_s: float) -> None:
    while (watch := watched()) is not None:
        watch.look()
        del watch
        time.sleep(every_s)
