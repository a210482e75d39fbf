"""What serves follows the rule store: a change is made ready beside the running requests and swapped in whole."""

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from recsys.errors import ConfigError, RecsysError, sentence_of
from recsys.policy.rules import RuleSet
from recsys.policy.store import RuleStore

Made = TypeVar("Made")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served(Generic[Made]):
    """What answers until a newer one is ready."""

    value: Made
    text: str | None
    """sha256 of the text it was made of, None for what serves where nothing was published"""
    stale: bool = False
    """the store's current version could not be read or does not fit, an older one stands in"""


class Follower(Generic[Made]):
    """Makes a value of the store's current rules and follows every change.

    make: from a rule set, or from None where nothing was published. It must be safe beside readers of its older values.
    Starting, it waits for the value; later it never does: `now` costs one stat, and when HEAD changed a thread makes the
    new value while the old one goes on answering. The value before is kept, so that undoing a change makes nothing. A
    version that cannot be read or made leaves the old one, said once in the log and in `Served.stale`; a start with such
    a version takes the newest one that can be made.
    """

    def __init__(self, store: RuleStore, make: Callable[[RuleSet | None], Made]) -> None:
        self._store, self._make = store, make
        self._following = threading.Lock()
        self._stamp: object = store.stamp()
        self._served = self._first()
        self._before = self._served

    def now(self) -> Served[Made]:
        """What answers at this moment. Take it once a batch: the next call may give another."""
        if self._seen() != self._stamp and self._following.acquire(blocking=False):
            threading.Thread(target=self._follow, name="rules", daemon=True).start()
        return self._served

    def _seen(self) -> object:
        try:
            return self._store.stamp()
        except OSError as error:
            return type(error)

    def _follow(self) -> None:
        try:
            while (stamp := self._seen()) != self._stamp:
                self._swap(self._next())
                self._stamp = stamp
        finally:
            self._following.release()

    def _swap(self, served: Served[Made]) -> None:
        if served.text != self._served.text:
            self._before = self._served
        self._served = served

    def _next(self) -> Served[Made]:
        try:
            return self._current()
        except Exception as error:
            _say(error, "the older version goes on serving")
            return replace(self._served, stale=True)

    def _current(self) -> Served[Made]:
        if (head := self._store.head()) is None:
            raise ConfigError(f"{self._store.folder} lost its HEAD; restore the store from a copy")
        for served in (self._served, self._before):
            if served.text == head.text:
                return replace(served, stale=False)
        return self._of(head.text)

    def _of(self, text: str) -> Served[Made]:
        return Served(value=self._make(RuleSet.parse(self._store.text(text))), text=text)

    def _first(self) -> Served[Made]:
        if not self._store.used:
            return Served(value=self._make(None), text=None)
        try:
            if (head := self._store.head()) is not None:
                return self._of(head.text)
            raise ConfigError(f"{self._store.folder} has no HEAD; restore the store from a copy")
        except Exception as error:
            _say(error, "the newest version that can serve stands in")
        return next(self._older(), None) or Served(value=self._make(None), text=None, stale=True)

    def _older(self) -> Iterator[Served[Made]]:
        """Published versions that can be made, newest first; none where the log is damaged."""
        try:
            entries = self._store.history()
        except (RecsysError, OSError):
            return
        for text in dict.fromkeys(entry.text for entry in reversed(entries)):
            try:
                yield replace(self._of(text), stale=True)
            except (RecsysError, OSError):
                continue


def _say(error: Exception, consequence: str) -> None:
    """One sentence; a defect of ours keeps its traceback."""
    sentence = sentence_of(error)
    reason = sentence or f"a defect ({error!r})"
    logger.error("rules: %s; %s", reason.rstrip("."), consequence, exc_info=None if sentence else error)
