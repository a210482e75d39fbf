"""Change watcher: reload in a background thread when a stamp changes, without blocking callers."""

import logging
import threading
import time
import weakref
from collections.abc import Callable

from recsys.errors import sentence_of

FIRST_RETRY_S, MAX_RETRY_S = 1.0, 60.0
NEVER = object()
POLL_INTERVAL_S = 0.25
"""interval of polling without requests, and least time between two reloads that follow changing items"""


class ChangeWatcher:
    """Calls `reload` whenever `stamp` differs from its value at the last reload, one reload at a time.

    A reload that returns False is retried after a growing pause, or as soon as the stamp differs: a file that could not
    be read may be complete a moment later.
    """

    def __init__(self, stamp: Callable[[], object], reload: Callable[[], bool]) -> None:
        self._stamp_of, self._reload = stamp, reload
        self._failed_stamp: object = None
        self._pause_s, self._retry_at = FIRST_RETRY_S, 0.0
        self._reloading = threading.Lock()
        self._min_gap_s = 0.0
        self._stamp = self._current_stamp()

    def poll(self) -> None:
        """Compare the stamp, at the cost of computing it; a due reload runs in its own thread."""
        if self._due(self._current_stamp()) and self._reloading.acquire(blocking=False):
            threading.Thread(target=self._reload_while_due, name="watch", daemon=True).start()

    def start_polling(self, every_s: float) -> None:
        """Poll every so many seconds as long as this object is referenced; reloads are at least as far apart."""
        self._min_gap_s = every_s
        threading.Thread(target=_poll_forever, args=(weakref.ref(self), every_s), name="look", daemon=True).start()

    def mark_failed(self) -> None:
        """Mark the reload of the current stamp as failed, so that it is retried."""
        self._mark_failed(self._current_stamp())

    def _mark_failed(self, stamp: object) -> None:
        if stamp != self._failed_stamp:
            self._pause_s = FIRST_RETRY_S
        self._stamp, self._failed_stamp = NEVER, stamp
        self._retry_at = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, MAX_RETRY_S)

    def _due(self, stamp: object) -> bool:
        if self._stamp is NEVER and stamp == self._failed_stamp:
            return time.monotonic() >= self._retry_at
        return stamp != self._stamp

    def _current_stamp(self) -> object:
        try:
            return self._stamp_of()
        except OSError as error:
            return type(error)

    def _reload_while_due(self) -> None:
        try:
            while self._due(stamp := self._current_stamp()):
                if self._reload():
                    self._stamp = stamp
                else:
                    self._mark_failed(stamp)
                time.sleep(self._min_gap_s)
        finally:
            self._reloading.release()


class OncePerErrorLogger:
    """Logs each distinct error once until `reset` is called after a success."""

    def __init__(self, logger: logging.Logger, subject: str) -> None:
        self._logger, self._subject = logger, subject
        self._logged: set[str] = set()

    def reset(self) -> None:
        self._logged.clear()

    def log(self, error: Exception, consequence: str) -> None:
        if (message := f"{error!r} {consequence}") not in self._logged:
            self._logged.add(message)
            _log_error(self._logger, self._subject, error, consequence)


def _log_error(logger: logging.Logger, subject: str, error: Exception, consequence: str) -> None:
    """Log one sentence; an unexpected exception keeps its traceback."""
    sentence = sentence_of(error)
    reason = sentence or f"a defect ({error!r})"
    logger.error("%s: %s; %s", subject, reason.rstrip("."), consequence, exc_info=None if sentence else error)


def _poll_forever(reference: "weakref.ref[ChangeWatcher]", every_s: float) -> None:
    while (watcher := reference()) is not None:
        watcher.poll()
        del watcher
        time.sleep(every_s)
