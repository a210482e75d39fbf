"""What the gateway asks of who knows what users are called."""

from typing import Protocol


class Identities(Protocol):
    """What stands for a user outside of the caller's own requests and answers."""

    def stored(self, user: str) -> str:
        """In the event log, the state and the models' queries."""
        ...

    def logged(self, user: str) -> str:
        """In logs and traces: a keyed hash."""
        ...
