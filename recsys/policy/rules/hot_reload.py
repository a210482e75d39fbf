"""Hot reload of published rules: a new version is built in the background and swapped in atomically."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from recsys.errors import ConfigError, RecsysError
from recsys.policy.rules import RuleSet
from recsys.policy.rules.audit import RuleVersion
from recsys.policy.rules.store import RuleStore
from recsys.stores.change_watcher import POLL_INTERVAL_S, ChangeWatcher, OncePerErrorLogger

T = TypeVar("T")

logger = logging.getLogger(__name__)


class NoRuleStore:
    """Rule store of a deployment without one: no version is ever published."""

    folder = Path("no rule store")
    has_history = False

    def stamp(self) -> None:
        return None

    def head(self) -> None:
        return None

    def history(self) -> tuple[RuleVersion, ...]:
        return ()

    def text(self, address: str) -> str:
        raise ConfigError(f"there is no rule store that could hold the text {address}; name its folder")


class Dependency(Protocol):
    """Input of the build besides the rules that changes too, such as live items."""

    stale: bool
    """the newest change could not be applied"""

    def stamp(self) -> object:
        """Return a value that differs after every change."""

    def follow(self) -> object:
        """Apply all changes; returns the same object as long as there was none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveVersion(Generic[T]):
    """Built value that answers requests until a newer one is ready."""

    value: T
    text: str | None
    """sha256 of the rule text, None for the default where nothing was published"""
    dependency: object = None
    """state of the dependency that the value was built for"""
    stale: bool = False
    """the current version could not be read or built, an older one serves"""


class HotReloader(Generic[T]):
    """Builds a value from the store's current rules and rebuilds it after every change.

    build: from a rule set, or from None where nothing was published. It runs while requests read older values.
    dependency: further input of `build`; when it changed, the active rules are built again.
    The constructor waits for the first value; afterwards no caller waits: `current` costs one stat, and when HEAD changed
    a thread builds the new value while the old one answers. The previous value is kept, so that a rollback builds
    nothing. A version that cannot be read or built leaves the old one active with `ActiveVersion.stale`, is logged once
    and retried with growing pauses; a start with such a version takes the newest one that can be built.
    """

    def __init__(
        self, store: RuleStore | NoRuleStore, build: Callable[[RuleSet | None], T], dependency: Dependency | None = None
    ) -> None:
        self._store, self._build, self._dependency = store, build, dependency
        self._errors = OncePerErrorLogger(logger, "rules")
        self._watcher = ChangeWatcher(self._stamp, self._reload)
        self._built_for = self._follow_dependency()
        self._active = self._initial()
        self._previous = self._active
        if self._active.stale:
            self._watcher.mark_failed()
        if dependency is not None:
            self._watcher.start_polling(POLL_INTERVAL_S)

    def current(self) -> ActiveVersion[T]:
        """Return the active version. Call it once per batch: the next call may return another."""
        self._watcher.poll()
        return self._active

    def _stamp(self) -> object:
        return self._store.stamp(), None if self._dependency is None else self._dependency.stamp()

    def _follow_dependency(self) -> object:
        return None if self._dependency is None else self._dependency.follow()

    def _reload(self) -> bool:
        self._built_for = self._follow_dependency()
        active = self._next_active()
        if active.text != self._active.text:
            self._previous = self._active
        self._active = active
        if active.stale or (self._dependency is not None and self._dependency.stale):
            return False
        self._errors.reset()
        return True

    def _next_active(self) -> ActiveVersion[T]:
        try:
            return self._newest()
        except Exception as error:
            self._errors.log(error, "the older version stays active")
            return replace(self._rebuild_active(), stale=True)

    def _newest(self) -> ActiveVersion[T]:
        text = self._text()
        for active in (self._active, self._previous):
            if active.text == text and active.dependency is self._built_for:
                return replace(active, stale=False)
        return self._version_of(text)

    def _text(self) -> str | None:
        if (head := self._store.head()) is not None:
            return head.text
        if self._active.text is None and not self._store.has_history:
            return None
        raise ConfigError(f"{self._store.folder} lost its HEAD; restore the store from a copy")

    def _rebuild_active(self) -> ActiveVersion[T]:
        """Rebuild the active rules for the current state of the dependency."""
        if self._active.dependency is self._built_for:
            return self._active
        try:
            return self._version_of(self._active.text)
        except Exception as error:
            self._errors.log(error, "they stay active for the items as they were")
            return self._active

    def _version_of(self, text: str | None) -> ActiveVersion[T]:
        rules = None if text is None else RuleSet.parse(self._store.text(text))
        return ActiveVersion(value=self._build(rules), text=text, dependency=self._built_for)

    def _initial(self) -> ActiveVersion[T]:
        if not self._store.has_history:
            return self._version_of(None)
        try:
            if (head := self._store.head()) is not None:
                return self._version_of(head.text)
            raise ConfigError(f"{self._store.folder} has no HEAD; restore the store from a copy")
        except Exception as error:
            self._errors.log(error, "the newest version that can be built serves instead")
        return next(self._older_versions(), None) or replace(self._version_of(None), stale=True)

    def _older_versions(self) -> Iterator[ActiveVersion[T]]:
        """Yield published versions that can be built, newest first; none where the log is damaged."""
        try:
            entries = self._store.history()
        except (RecsysError, OSError):
            return
        for text in dict.fromkeys(entry.text for entry in reversed(entries)):
            try:
                yield replace(self._version_of(text), stale=True)
            except (RecsysError, OSError):
                continue
