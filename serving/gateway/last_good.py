"""The last good slate of each user, for when no model answers."""

from collections import OrderedDict
from collections.abc import Callable

from recsys.errors import check_ranges

Whose = tuple[str, str]
"""user and surface"""


class LastGood:
    """At most `most` slates as bytes, the least recently asked for goes first; each serves `ttl_s` seconds.

    A slate that was made by other rules than those of now is forgotten. clock: seconds, rising.
    """

    def __init__(self, *, most: int, ttl_s: float, clock: Callable[[], float]) -> None:
        check_ranges("last_good", most=(most, 1, 10_000_000), ttl_s=(ttl_s, 0.0, 1e7))
        self._most, self._ttl_s, self._clock = most, ttl_s, clock
        self._kept: OrderedDict[Whose, tuple[float, str, bytes]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, whose: Whose, rules: str, slate: bytes) -> None:
        self._kept[whose] = (self._clock() + self._ttl_s, rules, slate)
        self._kept.move_to_end(whose)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)

    def get(self, whose: Whose, rules: str) -> bytes | None:
        """rules: hash of those that serve now."""
        if (found := self._kept.get(whose)) is None:
            return None
        until, made_by, slate = found
        if self._clock() >= until or made_by != rules:
            del self._kept[whose]
            return None
        self._kept.move_to_end(whose)
        return slate
