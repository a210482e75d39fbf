"""Hot reload of published rules: a new version is built in the background and swapped in atomically."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from recsys.errors import ConfigError, RecsysError
from recsys.policy.rules import RuleSet
from recsys.policy.rules.audit import Head, RuleVersion, SignedHead, sha256
from recsys.policy.rules.last_good import KeptRules, LastGoodRules
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

    def signed(self, head: Head) -> SignedHead:
        raise ConfigError(f"there is no rule store that could hold the version {head.version}; name its folder")

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
    source: str | None = field(default=None, repr=False, compare=False)
    """the rule text"""
    signed: SignedHead | None = field(default=None, repr=False, compare=False)
    """the version that the text was published as"""
    dependency: object = None
    """state of the dependency that the value was built for"""
    stale: bool = False
    """the current version could not be read or built, an older one serves"""
    lost: bool = False
    """rules were published and none of them is left: the value is that of the default, which must not serve"""


class HotReloader(Generic[T]):
    """Builds a value from the store's current rules and rebuilds it after every change.

    build: from a rule set, or from None where nothing was published. It runs while requests read older values.
    dependency: further input of `build`; when it changed, the active rules are built again.
    The constructor waits for the first value; afterwards no caller waits: `current` costs one stat, and when HEAD changed
    a thread builds the new value while the old one answers. The previous value is kept, so that a rollback builds
    nothing. A version that cannot be read or built leaves the old one active with `ActiveVersion.stale`, is logged once
    and retried with growing pauses.
    last_good: copy of the active version. A start with a store that is missing or damaged, or with a version that cannot be
    built, takes this copy, else the newest version that can be built, else none: `ActiveVersion.lost`.
    """

    def __init__(
        self,
        store: RuleStore | NoRuleStore,
        build: Callable[[RuleSet | None], T],
        dependency: Dependency | None = None,
        last_good: LastGoodRules | None = None,
    ) -> None:
        self._store, self._build, self._dependency, self._last_good = store, build, dependency, last_good
        self._errors = OncePerErrorLogger(logger, "rules")
        self._watcher = ChangeWatcher(self._stamp, self._reload)
        self._built_for = self._follow_dependency()
        self._published = False
        self._active = self._initial()
        self._previous = self._active
        if self._active.stale or (dependency is not None and dependency.stale):
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
        signed = self._signed_head()
        text = None if signed is None else signed.head.text
        for active in (self._active, self._previous):
            if active.text == text and active.dependency is self._built_for:
                return self._kept(replace(active, signed=signed, stale=False, lost=False))
        return self._kept(self._version_of(signed))

    def _signed_head(self) -> SignedHead | None:
        self._published |= self._store.has_history
        if (head := self._store.head()) is not None:
            return self._store.signed(head)
        if not self._published:
            return None
        raise ConfigError(f"{self._store.folder} was published to and has no HEAD; restore the store from a copy")

    def _rebuild_active(self) -> ActiveVersion[T]:
        """Rebuild the active rules for the current state of the dependency."""
        if self._active.dependency is self._built_for:
            return self._active
        try:
            return replace(self._built(self._active.source, self._active.signed), lost=self._active.lost)
        except Exception as error:
            self._errors.log(error, "they stay active for the items as they were")
            return self._active

    def _version_of(self, signed: SignedHead | None) -> ActiveVersion[T]:
        return self._built(None if signed is None else self._store.text(signed.head.text), signed)

    def _built(self, text: str | None, signed: SignedHead | None) -> ActiveVersion[T]:
        rules, address = (None, None) if text is None else (RuleSet.parse(text), sha256(text.encode()))
        value = self._build(rules)
        return ActiveVersion(value=value, text=address, source=text, signed=signed, dependency=self._built_for)

    def _initial(self) -> ActiveVersion[T]:
        kept = self._copy()
        self._published = kept is not None and kept.published
        try:
            return self._kept(self._version_of(self._signed_head()))
        except Exception as error:
            if not self._published:
                raise
            self._errors.log(error, "the newest version that can be built serves instead")
        return next(self._stand_ins(kept), None) or self._none_left(kept)

    def _stand_ins(self, kept: KeptRules | None) -> Iterator[ActiveVersion[T]]:
        """Yield older versions that can be built, best first: the copy, then those of the store, newest first.

        The default is one as long as it served last and nothing that was published since is unreadable.
        """
        if kept is not None and kept.text is not None:
            with contextlib.suppress(RecsysError, OSError):
                yield replace(self._built(kept.text, kept.signed), stale=True)
        try:
            entries = self._store.history()
        except (RecsysError, OSError):
            return
        for entry in reversed(entries):
            with contextlib.suppress(RecsysError, OSError):
                yield replace(self._version_of(self._store.signed(Head.of(entry))), stale=True)
        if kept == KeptRules(published=False) and entries and all(self._is_readable(entry.text) for entry in entries):
            yield replace(self._version_of(None), stale=True)

    def _is_readable(self, address: str) -> bool:
        try:
            return bool(self._store.text(address))
        except (RecsysError, OSError):
            return False

    def _none_left(self, kept: KeptRules | None) -> ActiveVersion[T]:
        logger.error("rules: no published version is left; no slate is served until %s is mended", self._store.folder)
        if kept is None or not kept.published:
            self._keep(KeptRules(published=True))
        return replace(self._version_of(None), stale=True, lost=True)

    def _copy(self) -> KeptRules | None:
        """Return the copy; a damaged or unsigned one counts as published rules that are lost."""
        try:
            if (kept := None if self._last_good is None else self._last_good.read()) is not None:
                kept.check()
            return kept
        except (ConfigError, OSError) as error:
            self._errors.log(error, "it is left out")
            return KeptRules(published=True)

    def _kept(self, active: ActiveVersion[T]) -> ActiveVersion[T]:
        """Copy the text of a version that becomes active."""
        signed = active.signed if active.signed is not None and active.signed.signature is not None else None
        self._keep(KeptRules(published=active.source is not None, text=active.source, signed=signed))
        return active

    def _keep(self, kept: KeptRules) -> None:
        if self._last_good is not None:
            try:
                self._last_good.write(kept)
            except OSError as error:
                self._errors.log(error, "a restart would not find the rules that serve now without their store")
