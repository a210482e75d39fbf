"""Exploration with exact logged propensities and reproducible draws per request.

The probability of a slate is the product of the propensities of its positions. Each is the probability of the item at its
position given the items above, computed, not estimated, so logs are usable for off-policy evaluation.

Thompson sampling draws anew at every position: the utility of each allowed candidate from a normal distribution around its
mean with the std of `value.CompiledValue.utility_std`, and the maximum is placed. The propensity is then the probability
that one normal variable is the maximum of many, a one-dimensional integral (`thompson_propensity`). It is exact for the
draws as made, however roughly they approximate the posterior.

Shapes: B queries of a batch, K positions, C columns of the pool.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recsys.contracts import Query
from recsys.errors import ConfigError, check_ranges
from recsys.policy.sampling import EPSILON, NO_EXPLORATION, SOFTMAX, THOMPSON
from recsys.policy.selection import EligiblePool, ExplorationDraws

MODES = {"none": NO_EXPLORATION, "epsilon": EPSILON, "softmax": SOFTMAX, "thompson": THOMPSON}
MAX_RATE = {"thompson": 100.0}
"""upper bound of the rate of a kind, 1 for the others"""
MIN_RATE = 1e-6
"""lower bound of the rate with exploration; a score std below it, in units of the diversity span, counts as 0"""


class Exploration:
    """Choice of the item at a position among the candidates with the fewest violations there.

    none: the best. epsilon: uniform with probability `rate`, else the best. softmax: probability proportional to
    exp(score / rate) (Plackett-Luce; Luce 1959), with the diversity score within its window. thompson: the maximum of
    normal draws with `rate` times the std of the score (Thompson 1933; 1 is the posterior itself); the best where the
    ranker gave no std. Positions before `first` always have the best.
    """

    def __init__(self, *, kind: str, rate: float, first: int) -> None:
        if kind not in MODES:
            raise ConfigError(f"exploration.kind is {kind!r}; choose one of {', '.join(MODES)}")
        most = MAX_RATE.get(kind, 1.0)
        check_ranges("exploration", rate=(rate, 0.0 if kind == "none" else MIN_RATE, most), first=(first, 0, 1_000))
        self.kind, self.rate, self.first = kind, float(rate), first

    def to_document(self) -> dict[str, Any]:
        return {"kind": self.kind, "rate": self.rate, "first": self.first}

    @property
    def needs_uncertainty(self) -> bool:
        """Return whether the ranker has to give standard deviations."""
        return self.kind == "thompson"

    def draws(
        self, queries: Sequence[Query], pool: EligiblePool, utility_std: np.ndarray | None, spans: np.ndarray
    ) -> ExplorationDraws:
        """Return the random numbers of a batch, the same for the same requests.

        utility_std: [B, C], None where unknown. spans: [B] utility difference of one unit of score.
        """
        size, num_positions = pool.pinned.shape
        unused = ExplorationDraws.none(size, num_positions)
        if self.kind == "none" or (self.needs_uncertainty and utility_std is None):
            return unused
        if utility_std is not None:
            return self._normal_draws(queries, pool, utility_std / spans[:, None])
        for row, query in enumerate(queries):
            unused.uniforms[row, : query.k] = request_generator(query).random((query.k, 2))[:num_positions]
        return ExplorationDraws(
            mode=MODES[self.kind],
            rate=self.rate,
            first=self.first,
            uniforms=unused.uniforms,
            normals=unused.normals,
            score_std=unused.score_std,
        )

    def _normal_draws(self, queries: Sequence[Query], pool: EligiblePool, utility_std: np.ndarray) -> ExplorationDraws:
        """Return normal draws, generated column by column: padding for other queries of the batch then changes none."""
        (size, num_positions), columns = pool.pinned.shape, pool.rows.shape[1]
        normals = np.zeros((size, num_positions, columns))
        for row, query in enumerate(queries):
            noise = request_generator(query).standard_normal((columns, query.k))[:, :num_positions]
            normals[row, : noise.shape[1]] = noise.T
        score_std = self.rate * utility_std
        return ExplorationDraws(
            mode=MODES[self.kind],
            rate=self.rate,
            first=self.first,
            uniforms=np.empty((size, num_positions, 2)),
            normals=normals,
            score_std=np.where(score_std >= MIN_RATE, score_std, 0.0),
        )


def request_generator(query: Query) -> np.random.Generator:
    """Return a generator seeded by the request id; without one by user and time."""
    named = query.request_id or f"{query.user} {query.now!r}"
    digest = hashlib.blake2b(named.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest)))


def exploration_from_document(document: Any) -> Exploration:
    """Read a document; ConfigError names a key that is absent, unknown or out of range."""
    if not isinstance(document, Mapping) or set(document) != {"kind", "rate", "first"}:
        raise ConfigError(f"policy.exploration is {document!r}; write a mapping with kind, rate and first")
    return Exploration(**document)
