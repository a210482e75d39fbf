"""What was made of a bundle's catalogue follows the item store, change by change."""

import logging
from collections.abc import Sequence
from typing import Generic, Protocol, Self, TypeVar

from recsys.items.store import Change, ItemStore, Position
from recsys.stores.change_watcher import OncePerErrorLogger


class Grown(Protocol):
    """Anything that changes can be applied to; it is left as it was."""

    def after(self, changes: Sequence[Change]) -> Self: ...


State = TypeVar("State", bound=Grown)

logger = logging.getLogger(__name__)


class Tracked(Generic[State]):
    """A state and how far the store was read for it; any thread may read it, one at a time may follow."""

    def __init__(self, store: ItemStore, state: State) -> None:
        """state: of a bundle without any change"""
        self._store, self._position = store, Position()
        self._errors = OncePerErrorLogger(logger, "items")
        self.state = state
        self.stale = False
        """the store could not be read, or its changes not be applied: the state is older than the store"""

    def stamp(self) -> object:
        return self._store.stamp()

    def follow(self) -> State:
        """Apply what came since; where that fails all stays as it was, said once in the log and in `stale`."""
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
