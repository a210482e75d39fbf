"""Cache of the last good slate of each user, served when no model answers."""

from collections import OrderedDict
from collections.abc import Callable, Collection

from recsys.errors import check_ranges

CacheKey = tuple[str, str]
"""user, surface"""


class StaleCache:
    """LRU cache of at most `max_slates` slates as bytes, each valid for `ttl_s` seconds.

    A slate made under other rules than the current ones is evicted. clock: monotonic, in seconds.
    """

    def __init__(self, *, max_slates: int, ttl_s: float, clock: Callable[[], float]) -> None:
        check_ranges("last_good", max_slates=(max_slates, 1, 10_000_000), ttl_s=(ttl_s, 0.0, 1e7))
        self._max_slates, self._ttl_s, self._clock = max_slates, ttl_s, clock
        self._slates: OrderedDict[CacheKey, tuple[float, str, bytes]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._slates)

    @property
    def users(self) -> set[str]:
        """Users with a cached slate."""
        return {user for user, _ in self._slates}

    def forget(self, users: Collection[str]) -> None:
        """Remove the slates of these users."""
        for key in [key for key in self._slates if key[0] in users]:
            del self._slates[key]

    def put(self, key: CacheKey, rules: str, slate: bytes) -> None:
        self._slates[key] = (self._clock() + self._ttl_s, rules, slate)
        self._slates.move_to_end(key)
        if len(self._slates) > self._max_slates:
            self._slates.popitem(last=False)

    def get(self, key: CacheKey, rules: str) -> bytes | None:
        """Cached slate or None. rules: hash of the current rules."""
        if (entry := self._slates.get(key)) is None:
            return None
        until, made_by_rules, slate = entry
        if self._clock() >= until or made_by_rules != rules:
            del self._slates[key]
            return None
        self._slates.move_to_end(key)
        return slate
