"""State derived from a bundle's catalogue that follows the item store, change by change."""

import logging
from collections.abc import Sequence
from typing import Generic, Protocol, Self, TypeVar

from recsys.errors import ConfigError
from recsys.items.store import Change, ItemStore, Position
from recsys.stores.change_watcher import OncePerErrorLogger


class Updatable(Protocol):
    """State that changes can be applied to; `after` returns a new one."""

    def after(self, changes: Sequence[Change]) -> Self: ...


State = TypeVar("State", bound=Updatable)

logger = logging.getLogger(__name__)


class LiveState(Generic[State]):
    """State and the position of the store that it reflects; any thread may read it, one at a time may call `follow`."""

    def __init__(
        self, store: ItemStore, state: State, last_good: ItemStore | None = None, *, copies: bool = False
    ) -> None:
        """state: of a bundle without any change. last_good: copy of the changes that were applied last, for a start
        without their store; `copies` says that this state writes it.
        """
        self._store, self._position = store, Position()
        self._last_good, self._copies = last_good, copies
        self._errors = OncePerErrorLogger(logger, "items")
        self.state = state
        self.stale = False
        """whether the store could not be read or applied, so that the state is older"""
        self.lost = False
        """whether changes were made and none could be applied: the state is that of the bundle"""
        self._damaged = False
        self._known = self._restored()

    def stamp(self) -> object:
        return self._store.stamp()

    def follow(self) -> State:
        """Apply the changes since the position; on a failure the state stays, logged once and flagged by `stale`."""
        try:
            changes, position = self._store.read(self._position)
            if self._damaged and not position.number:
                raise ConfigError(f"{self._store.folder} is missing; restore it from a copy")
            if changes:
                self.state = self.state.after(changes)
            since, self._position = self._position.number, position
            self._known, self.stale, self.lost = True, False, False
            self._errors.reset()
            self._copy(changes, since)
        except Exception as error:
            self._errors.log(error, "they go on serving as they were")
            self.stale, self.lost = True, not self._known
        return self.state

    def _restored(self) -> bool:
        """Apply the copy; False without one. A position behind it makes a store that lost changes an error."""
        if self._last_good is None:
            return False
        try:
            changes, position = self._last_good.read(Position())
            if not position.number and self._last_good.stamp() is not None:
                raise ConfigError(f"{self._last_good.folder} was emptied")
            self.state = self.state.after(changes) if changes else self.state
        except Exception as error:
            self._errors.log(error, "it is left out")
            self._damaged = True
            return False
        self._position = Position(number=position.number)
        return position.number > 0

    def _copy(self, changes: Sequence[Change], since: int) -> None:
        """Write what was applied to the copy; all of it where the copy is damaged or behind."""
        if self._last_good is None or not self._copies or not (changes or self._damaged):
            return
        try:
            if self._damaged or not self._last_good.mirror(changes, since, self._position.number):
                everything, position = self._store.read(Position())
                self._last_good.replace_all(everything, position.number)
            self._damaged = False
        except (ConfigError, OSError) as error:
            self._damaged = True
            self._errors.log(error, "a restart would not find the items that serve now without their store")
