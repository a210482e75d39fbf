"""Exploration: chance has a say, its exact probability is logged, and a request can be replayed.

The probability of a slate is the product of the propensities of its places: each is that of the item at its place given
those above it, computed, not estimated. So an off-policy estimate can be made of whatever was logged.

Thompson sampling draws at every place anew: the utility of each candidate that may stand there from a normal distribution
around what it is, as wide as the ranker is unsure of it (`value.CompiledValue.spread`), and the greatest draw stands there. So
the propensity is the chance of one normal variable to be the greatest of many, an integral in one dimension
(`greatest`), and it is that of the very draws that are made, however roughly they stand for the posterior.

Shapes: B queries of a batch, K places, C columns of the pool.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recsys.contracts import Query
from recsys.errors import ConfigError, check_ranges
from recsys.policy.draws import EPSILON, NOBODY, SOFTMAX, THOMPSON
from recsys.policy.selection import Draws, Pool

MODES = {"none": NOBODY, "epsilon": EPSILON, "softmax": SOFTMAX, "thompson": THOMPSON}
MOST = {"thompson": 100.0}
"""of the rate, where it is not a share"""
LEAST = 1e-6
"""of the rate, where there is exploration, and of a deviation, whose unit is the span of diversity: less is none"""


class Exploration:
    """Who stands at a place, among those that break the fewest rules there.

    none: the best. epsilon: with the chance `rate` any of them, all alike. softmax: each with a chance that falls by
    exp(-1) with every `rate` of score (Plackett-Luce; Luce 1959), the score being that of diversity within its window.
    thompson: the greatest draw, `rate` times as wide as the ranker is unsure (Thompson 1933; at 1 it is that very
    posterior), the score as above; without deviations from the ranker the best. Places before `first` always have the best.
    """

    def __init__(self, *, kind: str, rate: float, first: int) -> None:
        if kind not in MODES:
            raise ConfigError(f"exploration.kind is {kind!r}; choose one of {', '.join(MODES)}")
        most = MOST.get(kind, 1.0)
        check_ranges("exploration", rate=(rate, 0.0 if kind == "none" else LEAST, most), first=(first, 0, 1_000))
        self.kind, self.rate, self.first = kind, float(rate), first

    def to_document(self) -> dict[str, Any]:
        return {"kind": self.kind, "rate": self.rate, "first": self.first}

    @property
    def by_doubt(self) -> bool:
        """Whether it needs to know how sure the ranker is."""
        return self.kind == "thompson"

    def draws(self, queries: Sequence[Query], pool: Pool, spread: np.ndarray | None, spans: np.ndarray) -> Draws:
        """The same for the same requests. spread: standard deviations of the utilities [B, C], None where nobody knows;
        spans: utility [B] that makes a score of 1.
        """
        size, places = pool.pinned.shape
        nobody = Draws.none(size, places)
        if self.kind == "none" or (self.by_doubt and spread is None):
            return nobody
        if spread is not None:
            return self._normal(queries, pool, spread / spans[:, None])
        for row, query in enumerate(queries):
            nobody.uniforms[row, : query.k] = seeded(query).random((query.k, 2))[:places]
        return Draws(
            mode=MODES[self.kind],
            rate=self.rate,
            first=self.first,
            uniforms=nobody.uniforms,
            normals=nobody.normals,
            deviations=nobody.deviations,
        )

    def _normal(self, queries: Sequence[Query], pool: Pool, spread: np.ndarray) -> Draws:
        """Draws lie column after column, so that columns of other queries' candidates change none."""
        (size, places), columns = pool.pinned.shape, pool.rows.shape[1]
        normals = np.zeros((size, places, columns))
        for row, query in enumerate(queries):
            drawn = seeded(query).standard_normal((columns, query.k))[:, :places]
            normals[row, : drawn.shape[1]] = drawn.T
        deviations = self.rate * spread
        return Draws(
            mode=MODES[self.kind],
            rate=self.rate,
            first=self.first,
            uniforms=np.empty((size, places, 2)),
            normals=normals,
            deviations=np.where(deviations >= LEAST, deviations, 0.0),
        )


def seeded(query: Query) -> np.random.Generator:
    """By the id of the request; without one by its user and moment."""
    named = query.request_id or f"{query.user} {query.now!r}"
    digest = hashlib.blake2b(named.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest)))


def exploration_from_document(document: Any) -> Exploration:
    """ConfigError names a key that is absent, unknown or out of range."""
    if not isinstance(document, Mapping) or set(document) != {"kind", "rate", "first"}:
        raise ConfigError(f"policy.exploration is {document!r}; write a mapping with kind, rate and first")
    return Exploration(**document)
