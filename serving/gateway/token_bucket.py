"""Token bucket: the rate limit of one caller."""

from collections.abc import Callable


class TokenBucket:
    """Token bucket: `rate` tokens a second, at most `burst`. clock: monotonic, in seconds."""

    def __init__(self, *, rate: float, burst: int, clock: Callable[[], float], tokens: float | None = None) -> None:
        """tokens: those of the start, at most `burst`; None for all"""
        self.rate, self.burst, self._clock = rate, burst, clock
        self._tokens, self._updated = float(burst) if tokens is None else min(tokens, burst), clock()

    def wait(self) -> float:
        """Take a token and return 0, or return the seconds until there is one."""
        self._refill()
        if self._tokens < 1:
            return (1 - self._tokens) / self.rate
        self._tokens -= 1
        return 0.0

    def limited(self, *, rate: float, burst: int) -> "TokenBucket":
        """Return a bucket of this rate and burst with the tokens of this one; this one itself where it has them already."""
        if (rate, burst) == (self.rate, self.burst):
            return self
        self._refill()
        return TokenBucket(rate=rate, burst=burst, clock=self._clock, tokens=self._tokens)

    def _refill(self) -> None:
        now = self._clock()
        self._tokens = min(self.burst, self._tokens + (now - self._updated) * self.rate)
        self._updated = now
