"""User state, and the protocols of state stores, exposure shares and key-value stores."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from recsys.contracts import Event
from recsys.errors import ServingError
from recsys.features.memory import Memory
from serving.events.record import StoredRecord
from serving.state.seen import SeenItems


@dataclass(frozen=True, slots=True, kw_only=True)
class UserState:
    """State of one user as of a log sequence."""

    history: tuple[Event, ...] = ()
    """newest relevant events, as `recsys.features.state.fold` leaves them"""
    memory: Memory = field(default_factory=dict)
    """of the events that left the history (recsys/features/memory.py)"""
    shown: Mapping[str, float] = field(default_factory=dict)
    """item -> impressions for this user, the latest item at the end; frequency rules read it from Query.exposure"""
    seen: SeenItems = field(default_factory=SeenItems)
    """items of all feedback events, also those beyond the history and those that reached no objective"""
    hidden: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """hidden values by column, as in Query.hidden, the latest at the end"""
    profile: Mapping[str, Any] = field(default_factory=dict)
    """profile columns put by callers; None for a deleted one, which hides that of the training data too"""
    seeded: Mapping[str, Any] = field(default_factory=dict)
    """profile columns of the training data"""
    recent: tuple[str, ...] = ()
    """short ids of the last records except impressions, the newest at the end: a gateway sees which of its records arrived"""
    sequence: int = 0
    """of the last applied record"""
    updated: float = 0.0
    """timestamp of that record, unix seconds"""

    @property
    def known_profile(self) -> dict[str, Any]:
        """Profile columns put by callers, else those of the training data."""
        return {name: value for name, value in {**self.seeded, **self.profile}.items() if value is not None}


class DamagedStore(ServingError):
    """The store lost its content; it is made anew from the event log."""


class UserStates(Protocol):
    """An online store of user states."""

    async def get(self, user: str) -> UserState | None:
        """Read by one key. None for an unknown user: a cold start, no error.

        ServingError when the store does not answer.
        """
        ...

    async def write(self, batch: Sequence[StoredRecord]) -> None:
        """Apply records in log order; those at or before a user's `sequence` are skipped."""
        ...

    async def close(self) -> None: ...


class Exposures(Protocol):
    """Exposure shares over all users."""

    async def exposure(self) -> Mapping[str, float]:
        """{"column=value": share of the impressions}, for the columns that exposure rules name.

        Impressions decay with a half-life. A value without impressions has 0; a column without impressions is absent.
        ServingError when the store does not answer.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareAndSwap:
    """Expected and new value of a key."""

    before: bytes | None
    after: bytes
    expires: bool
    """whether a store with a time to live may expire the key"""


class KeyValueStore(Protocol):
    """Store of bytes by key, local or remote. Every call raises ServingError when it is not answered in time."""

    async def get(self, key: bytes) -> bytes | None:
        """Read one key for a request."""
        ...

    async def load(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Read keys for a writer, without delaying `get`."""
        ...

    async def compare_and_swap(self, changes: Mapping[bytes, CompareAndSwap]) -> bool:
        """Write all changes durably; write none and return False if a key no longer holds its `before`."""
        ...

    async def clear(self) -> None:
        """Delete every key."""
        ...

    async def check(self) -> None:
        """DamagedStore where the content is lost."""
        ...

    async def remove(self, prefix: bytes, chosen: Callable[[bytes], bool]) -> int:
        """Delete the keys of this prefix that `chosen` accepts, from every file of the store; return their number."""
        ...

    async def close(self) -> None: ...
