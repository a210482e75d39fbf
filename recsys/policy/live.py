"""What serves follows the rule store: a change is made ready beside the running requests and swapped in whole."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from recsys.errors import ConfigError, RecsysError
from recsys.policy.audit import Version
from recsys.policy.rules import RuleSet
from recsys.policy.store import RuleStore
from recsys.policy.watch import EVERY_S, Voice, Watch

Made = TypeVar("Made")

logger = logging.getLogger(__name__)


class Unpublished:
    """Stands for a rule store where none is followed: nothing is ever published."""

    folder = Path("no rule store")
    used = False

    def stamp(self) -> None:
        return None

    def head(self) -> None:
        return None

    def history(self) -> tuple[Version, ...]:
        return ()

    def text(self, address: str) -> str:
        raise ConfigError(f"there is no rule store that could hold the text {address}; name its folder")


class Ground(Protocol):
    """What rules are made for, where that changes too."""

    stale: bool
    """it could not catch up"""

    def stamp(self) -> object:
        """Differs after every change."""

    def follow(self) -> object:
        """Catch up with all changes; the same object as long as there was none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served(Generic[Made]):
    """What answers until a newer one is ready."""

    value: Made
    text: str | None
    """sha256 of the text it was made of, None for what serves where nothing was published"""
    ground: object = None
    """what it was made for"""
    stale: bool = False
    """the store's current version could not be read or does not fit, an older one stands in"""


class Follower(Generic[Made]):
    """Makes a value of the store's current rules and follows every change.

    make: from a rule set, or from None where nothing was published. It must be safe beside readers of its older values.
    ground: what `make` makes them for; when it changed, the rules that serve are made anew.
    Starting, it waits for the value; later it never does: `now` costs one stat, and when HEAD changed a thread makes the
    new value while the old one goes on answering. The value before is kept, so that undoing a change makes nothing. A
    version that cannot be read or made leaves the old one, said once in the log and in `Served.stale`, and is tried again
    ever less often; a start with such a version takes the newest one that can be made.
    """

    def __init__(
        self, store: RuleStore | Unpublished, make: Callable[[RuleSet | None], Made], ground: Ground | None = None
    ) -> None:
        self._store, self._make, self._ground = store, make, ground
        self._voice = Voice(logger, "rules")
        self._watch = Watch(self._stamp, self._follow)
        self._made_for = self._followed()
        self._served = self._first()
        self._before = self._served
        if self._served.stale:
            self._watch.fail()
        if ground is not None:
            self._watch.keep_looking(EVERY_S)

    def now(self) -> Served[Made]:
        """What answers at this moment. Take it once a batch: the next call may give another."""
        self._watch.look()
        return self._served

    def _stamp(self) -> object:
        return self._store.stamp(), None if self._ground is None else self._ground.stamp()

    def _followed(self) -> object:
        return None if self._ground is None else self._ground.follow()

    def _follow(self) -> bool:
        self._made_for = self._followed()
        served = self._next()
        if served.text != self._served.text:
            self._before = self._served
        self._served = served
        if served.stale or (self._ground is not None and self._ground.stale):
            return False
        self._voice.well()
        return True

    def _next(self) -> Served[Made]:
        try:
            return self._current()
        except Exception as error:
            self._voice.say(error, "the older version goes on serving")
            return replace(self._again(), stale=True)

    def _current(self) -> Served[Made]:
        text = self._text()
        for served in (self._served, self._before):
            if served.text == text and served.ground is self._made_for:
                return replace(served, stale=False)
        return self._of(text)

    def _text(self) -> str | None:
        if (head := self._store.head()) is not None:
            return head.text
        if self._served.text is None and not self._store.used:
            return None
        raise ConfigError(f"{self._store.folder} lost its HEAD; restore the store from a copy")

    def _again(self) -> Served[Made]:
        """The rules that serve, for what they are made for now."""
        if self._served.ground is self._made_for:
            return self._served
        try:
            return self._of(self._served.text)
        except Exception as error:
            self._voice.say(error, "they go on serving for the items as they were")
            return self._served

    def _of(self, text: str | None) -> Served[Made]:
        rules = None if text is None else RuleSet.parse(self._store.text(text))
        return Served(value=self._make(rules), text=text, ground=self._made_for)

    def _first(self) -> Served[Made]:
        if not self._store.used:
            return self._of(None)
        try:
            if (head := self._store.head()) is not None:
                return self._of(head.text)
            raise ConfigError(f"{self._store.folder} has no HEAD; restore the store from a copy")
        except Exception as error:
            self._voice.say(error, "the newest version that can serve stands in")
        return next(self._older(), None) or replace(self._of(None), stale=True)

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
