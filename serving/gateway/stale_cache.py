"""Cache of the last good slate of each user, served when no model answers."""

from collections import OrderedDict
from collections.abc import Callable, Collection

from recsys.errors import check_ranges

CacheKey = tuple[str, str]
"""user, surface"""


class StaleCache:
    """LRU cache of at most `max_slates` slates of together `max_bytes`, each valid for `ttl_s` seconds.

    A slate made under other rules than the current ones is evicted. clock: monotonic, in seconds.
    """

    def __init__(self, *, max_slates: int, max_bytes: int, ttl_s: float, clock: Callable[[], float]) -> None:
        check_ranges("last_good", max_slates=(max_slates, 1, 10_000_000), ttl_s=(ttl_s, 0.0, 1e7))
        check_ranges("last_good", max_bytes=(max_bytes, 1, 1 << 40))
        self._max_slates, self._max_bytes, self._ttl_s, self._clock = max_slates, max_bytes, ttl_s, clock
        self._slates: OrderedDict[CacheKey, tuple[float, str, bytes]] = OrderedDict()
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._slates)

    @property
    def users(self) -> set[str]:
        """Users with a cached slate."""
        return {user for user, _ in self._slates}

    def forget(self, users: Collection[str]) -> None:
        """Remove the slates of these users."""
        for key in [key for key in self._slates if key[0] in users]:
            self._drop(key)

    def put(self, key: CacheKey, rules: str, slate: bytes) -> None:
        self._drop(key)
        self._slates[key] = (self._clock() + self._ttl_s, rules, slate)
        self.num_bytes += len(slate)
        while len(self._slates) > self._max_slates or self.num_bytes > self._max_bytes:
            self._drop(next(iter(self._slates)))

    def get(self, key: CacheKey, rules: str) -> bytes | None:
        """Cached slate or None. rules: hash of the current rules."""
        if (entry := self._slates.get(key)) is None:
            return None
        until, made_by_rules, slate = entry
        if self._clock() >= until or made_by_rules != rules:
            self._drop(key)
            return None
        self._slates.move_to_end(key)
        return slate

    def _drop(self, key: CacheKey) -> None:
        if (entry := self._slates.pop(key, None)) is not None:
            self.num_bytes -= len(entry[2])
