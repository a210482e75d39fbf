"""State derived from a bundle's catalogue that follows the item store, change by change."""

import logging
from collections.abc import Sequence
from typing import Generic, Protocol, Self, TypeVar

from recsys.items.store import Change, ItemStore, Position
from recsys.stores.change_watcher import OncePerErrorLogger


class Updatable(Protocol):
    """State that changes can be applied to; `after` returns a new one."""

    def after(self, changes: Sequence[Change]) -> Self: ...


State = TypeVar("State", bound=Updatable)

logger = logging.getLogger(__name__)


class LiveState(Generic[State]):
    """State and the position of the store that it reflects; any thread may read it, one at a time may call `follow`."""

    def __init__(self, store: ItemStore, state: State) -> None:
        """state: of a bundle without any change"""
        self._store, self._position = store, Position()
        self._errors = OncePerErrorLogger(logger, "items")
        self.state = state
        self.stale = False
        """whether the store could not be read or applied, so that the state is older"""

    def stamp(self) -> object:
        return self._store.stamp()

    def follow(self) -> State:
        """Apply the changes since the position; on a failure the state stays, logged once and flagged by `stale`."""
        try:
            changes, position = self._store.read(self._position)
            if changes:
                self.state = self.state.after(changes)
            self._position, self.stale = position, False
            self._errors.reset()
        except Exception as error:
            self._errors.log(error, "they go on serving as they were")
            self.stale = True
        return self.state
