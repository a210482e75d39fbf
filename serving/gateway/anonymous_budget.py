"""Budgets of work for requests without a valid API key, so that a flood of them delays nobody who has one."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from recsys.errors import check_ranges
from serving.gateway.api_keys import TokenBucket

MAX_PEERS = 10_000
"""peers that are remembered; the least recent is forgotten, and the budget of all holds nevertheless"""
TRUST_S = 60.0
"""after a valid key came from a peer, which may be a proxy or a network of many, its connections are not refused"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnonymousLimits:
    """Requests a second without a valid API key, and bursts of them. ConfigError for a value out of range."""

    peer_rate: float = 20.0
    """of one peer"""
    peer_burst: int = 100
    rate: float = 200.0
    """of all peers"""
    burst: int = 500
    probe_rate: float = 50.0
    """of one peer, for /healthz and /readyz, which have budgets of their own"""
    probe_burst: int = 200

    def __post_init__(self) -> None:
        check_ranges(
            "anonymous",
            peer_rate=(self.peer_rate, 1e-3, 1e6),
            peer_burst=(self.peer_burst, 1, 1_000_000),
            rate=(self.rate, 1e-3, 1e6),
            burst=(self.burst, 1, 1_000_000),
            probe_rate=(self.probe_rate, 1e-3, 1e6),
            probe_burst=(self.probe_burst, 1, 1_000_000),
        )


@dataclass(slots=True, kw_only=True)
class _Peer:
    bucket: TokenBucket
    probes: TokenBucket
    empty_until: float = 0.0
    trusted_until: float = 0.0


class AnonymousBudget:
    """Token buckets, one a peer and one of all. clock: monotonic, in seconds."""

    def __init__(self, limits: AnonymousLimits, *, clock: Callable[[], float]) -> None:
        self._limits, self._clock = limits, clock
        self._all = TokenBucket(rate=limits.rate, burst=limits.burst, clock=clock)
        self._peers: OrderedDict[str, _Peer] = OrderedDict()

    def wait_s(self, peer: str) -> float:
        """Take from the budget for one request and return 0, or return the seconds until it has something."""
        known = self._peer(peer)
        wait_s = known.bucket.wait()
        if wait_s:
            known.empty_until = self._clock() + wait_s
        return wait_s or self._all.wait()

    def probe_wait_s(self, peer: str) -> float:
        """The same for a probe; there is no budget of all, so that no other peer can keep a load balancer from probing."""
        return self._peer(peer).probes.wait()

    def trust(self, peer: str) -> None:
        """Remember that a valid key came from the peer."""
        self._peer(peer).trusted_until = self._clock() + TRUST_S

    def exhausted(self, peer: str) -> bool:
        """Whether the peer has used up its budget and has shown no valid key lately."""
        known = self._peers.get(peer)
        return known is not None and known.trusted_until < self._clock() < known.empty_until

    def _peer(self, peer: str) -> _Peer:
        known = self._peers.pop(peer, None) or self._new()
        self._peers[peer] = known
        if len(self._peers) > MAX_PEERS:
            self._peers.popitem(last=False)
        return known

    def _new(self) -> _Peer:
        limits, clock = self._limits, self._clock
        return _Peer(
            bucket=TokenBucket(rate=limits.peer_rate, burst=limits.peer_burst, clock=clock),
            probes=TokenBucket(rate=limits.probe_rate, burst=limits.probe_burst, clock=clock),
        )
