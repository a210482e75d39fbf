"""What the gateway reads of a user and of all that was shown, what every store offers, and what it is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from recsys.contracts import Event
from serving.events.record import Stored
from serving.state.seen import SeenItems


@dataclass(frozen=True, slots=True, kw_only=True)
class UserState:
    """One user, as of a place in the log."""

    history: tuple[Event, ...] = ()
    """the newest events that mattered, as `recsys.features.state.fold` leaves them"""
    shown: Mapping[str, float] = field(default_factory=dict)
    """item -> times it was shown to this user, the item shown last at the end: what frequency rules read of
    Query.exposure"""
    seen: SeenItems = field(default_factory=SeenItems)
    """all items of any feedback event, also of those beyond the history and of those that reached no objective"""
    hidden: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """what the user does not want to see, as in Query.hidden; the values hidden last at the end"""
    profile: Mapping[str, Any] = field(default_factory=dict)
    """columns that callers put; None for one that was forgotten, also where the training data has it"""
    seeded: Mapping[str, Any] = field(default_factory=dict)
    """columns of the profile in the training data"""
    recent: tuple[str, ...] = ()
    """short ids of the last records but impressions, the newest at the end: by them a gateway knows what has arrived"""
    sequence: int = 0
    """of the last record that was folded in"""
    updated: float = 0.0
    """timestamp of that record, unix seconds"""

    @property
    def known_profile(self) -> dict[str, Any]:
        """Profile columns that callers put, else those of the training data."""
        return {name: value for name, value in {**self.seeded, **self.profile}.items() if value is not None}


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


class Exposures(Protocol):
    """What was shown to everybody."""

    async def exposure(self) -> Mapping[str, float]:
        """{"column=value": share of the value among all that was shown}, of the columns that exposure rules name.

        What was shown fades with a half-life. A value that was never shown has 0; a column of which nothing was shown is
        absent. ServingError when the store does not answer.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a key holds, and what it shall hold."""

    before: bytes | None
    after: bytes
    expires: bool
    """a table that forgets may forget it when it was not written for long"""


class Table(Protocol):
    """Bytes by key, on a disk or behind a socket. Every call raises ServingError when it is not answered in time."""

    async def get(self, key: bytes) -> bytes | None:
        """One read of a request."""
        ...

    async def load(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """What a writer starts from; it does not hold up `get`."""
        ...

    async def swap(self, changes: Mapping[bytes, Change]) -> bool:
        """Write all of it durably, or nothing and False where a key does not hold its `before` any more."""
        ...

    async def clear(self) -> None:
        """Forget every key."""
        ...

    async def close(self) -> None: ...
