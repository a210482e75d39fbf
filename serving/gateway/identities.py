"""What the gateway asks of those who know users and counters."""

from collections.abc import Callable, Mapping
from typing import Protocol


class Identities(Protocol):
    """What stands for a user outside of the caller's own requests and answers."""

    def stored(self, user: str) -> str:
        """In the event log, the state and the models' queries."""
        ...

    def logged(self, user: str) -> str:
        """In logs and traces: a keyed hash."""
        ...


Exposure = Callable[[], Mapping[str, float]]
"""counters of all that was shown, as exposure rules read them; read from memory"""
