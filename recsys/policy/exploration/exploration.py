"""The interface of explorations: exact logged propensities and reproducible draws per request.

The probability of a slate is the product of the propensities of its positions. Each is the probability of the item at its
position given the items above, computed, not estimated, so logs are usable for off-policy evaluation.

Shapes: B queries of a batch, K positions, C columns of the pool.
"""

import hashlib
from abc import ABC
from collections.abc import Sequence
from functools import cache
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numba import types

from recsys.contracts import Query
from recsys.errors import check_ranges
from recsys.jit import KernelType, compiled
from recsys.policy.pool import EligiblePool

MIN_RATE = 1e-6
"""lower bound of the rate; a score std below it, in units of the diversity span, counts as 0"""
VALUES, FLAGS = types.float64[::1], types.boolean[::1]
SAMPLE = KernelType(types.int64, types.float64, FLAGS, VALUES, types.int64, VALUES, VALUES, VALUES)
PROPENSITY = KernelType(types.float64, types.float64, FLAGS, VALUES, types.int64, types.int64, VALUES)


class ExplorationDraws(NamedTuple):
    """The random numbers of a batch."""

    explores: bool
    rate: float
    first: int
    """positions before this one are never explored"""
    uniforms: np.ndarray
    """[B, K, 2] float64 in [0, 1)"""
    normals: np.ndarray
    """[B, K, C] float64; C is 0 where an exploration reads no standard deviations"""
    score_std: np.ndarray
    """[B, C] float64, standard deviations of the relevance; C is 0 where an exploration reads none"""

    @staticmethod
    def none(size: int, num_positions: int) -> "ExplorationDraws":
        return ExplorationDraws(
            explores=False,
            rate=0.0,
            first=0,
            uniforms=np.empty((size, num_positions, 2)),
            normals=np.empty((size, 0, 0)),
            score_std=np.zeros((size, 0)),
        )


class ExplorationKernels(NamedTuple):
    """Addresses of the compiled functions of an exploration."""

    sample: int
    propensity: int


class Exploration(ABC):
    """Choice of the item at a position among the candidates with the fewest violations there.

    Six members: `explores`, `needs_uncertainty`, `max_rate` and `draws` have a default.
    """

    explores: ClassVar[bool] = True
    needs_uncertainty: ClassVar[bool] = False
    """whether the ranker has to give standard deviations"""
    max_rate: ClassVar[float] = 1.0
    sample: ClassVar[Any]
    """compiled(rate, allowed, scores, best, uniforms, stds, normals): return a column among those allowed [C]; best: the
    one with the highest score, uniforms: two numbers in [0, 1); stds, normals: [C] where uncertainty is needed"""
    propensity: ClassVar[Any]
    """compiled(rate, allowed, scores, best, chosen, stds): return the probability that `sample` returns `chosen`"""

    def __init__(self, *, rate: float, first: int) -> None:
        """first: positions before this one have the best"""
        check_ranges("exploration", rate=(rate, MIN_RATE, self.max_rate), first=(first, 0, 1_000))
        self.rate, self.first = float(rate), first

    @classmethod
    def kernels(cls) -> ExplorationKernels:
        return _addresses(cls.sample, cls.propensity)

    def draws(
        self, queries: Sequence[Query], pool: EligiblePool, utility_std: np.ndarray | None, spans: np.ndarray
    ) -> ExplorationDraws:
        """Return the random numbers of a batch, the same for the same requests.

        utility_std: [B, C], None where unknown. spans: [B] utility difference of one unit of score.
        """
        unused = ExplorationDraws.none(*pool.pinned.shape)
        for row, query in enumerate(queries):
            unused.uniforms[row, : query.k] = request_generator(query).random((query.k, 2))[: pool.pinned.shape[1]]
        return unused._replace(explores=True, rate=self.rate, first=self.first)


@cache
def _addresses(sample: Any, propensity: Any) -> ExplorationKernels:
    return ExplorationKernels(SAMPLE.address_of(sample), PROPENSITY.address_of(propensity))


def request_generator(query: Query) -> np.random.Generator:
    """Return a generator seeded by the request id; without one by user and time."""
    named = query.request_id or f"{query.user} {query.now!r}"
    digest = hashlib.blake2b(named.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest)))


@compiled()
def _best(rate, allowed, scores, best, uniforms, stds, normals):
    return best


@compiled()
def _certain(rate, allowed, scores, best, chosen, stds):
    return 1.0 if chosen == best else 0.0


class NoExploration(Exploration):
    """Always the best."""

    explores = False
    sample, propensity = _best, _certain

    def __init__(self) -> None:
        self.rate, self.first = 0.0, 0

    def draws(
        self, queries: Sequence[Query], pool: EligiblePool, utility_std: np.ndarray | None, spans: np.ndarray
    ) -> ExplorationDraws:
        return ExplorationDraws.none(*pool.pinned.shape)
