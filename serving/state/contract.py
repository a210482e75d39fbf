"""What the gateway reads of a user, and every store offers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from recsys.contracts import Event
from serving.events.record import Stored


@dataclass(frozen=True, slots=True, kw_only=True)
class UserState:
    """One user, as of a place in the log."""

    history: tuple[Event, ...] = ()
    """the newest events that mattered, as `recsys.features.state.fold` leaves them"""
    shown: Mapping[str, float] = field(default_factory=dict)
    """item -> times it was shown to this user: what frequency rules read of Query.exposure"""
    sequence: int = 0
    """of the last record that was folded in"""
    updated: float = 0.0
    """timestamp of that record, unix seconds"""


class UserStates(Protocol):
    """An online store of user states."""

    async def get(self, user: str) -> UserState | None:
        """One read by one key. None for a user of whom nothing is known: a cold start, no error.

        ServingError when the store does not answer.
        """
        ...

    async def write(self, batch: Sequence[Stored]) -> None:
        """Fold records in, in the order of the log; those at or before a user's `sequence` change nothing."""
        ...

    async def close(self) -> None: ...
