"""Exploration: chance has a say, its exact probability is logged, and a request can be replayed.

The probability of a slate is the product of the propensities of its places: each is that of the item at its place given
those above it, computed, not estimated. So an off-policy estimate can be made of whatever was logged.

Shapes: B queries of a batch, K places, C columns of the pool.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recsys.contracts import Query
from recsys.errors import ConfigError, check_ranges
from recsys.policy.draws import EPSILON, NOBODY, SOFTMAX
from recsys.policy.selection import Draws, Pool

MODES = {"none": NOBODY, "epsilon": EPSILON, "softmax": SOFTMAX}
LEAST = 1e-6
"""of the rate, where there is exploration"""


class Exploration:
    """Who stands at a place, among those that break the fewest rules there.

    none: the best. epsilon: with the chance `rate` any of them, all alike. softmax: each with a chance that falls by
    exp(-1) with every `rate` of score (Plackett-Luce; Luce 1959), the score being that of diversity within its window.
    Places before `first` always have the best.
    """

    def __init__(self, *, kind: str, rate: float, first: int) -> None:
        if kind not in MODES:
            raise ConfigError(f"exploration.kind is {kind!r}; choose one of {', '.join(MODES)}")
        check_ranges("exploration", rate=(rate, 0.0 if kind == "none" else LEAST, 1.0), first=(first, 0, 1_000))
        self.kind, self.rate, self.first = kind, float(rate), first

    def to_document(self) -> dict[str, Any]:
        return {"kind": self.kind, "rate": self.rate, "first": self.first}

    def draws(self, queries: Sequence[Query], pool: Pool) -> Draws:
        """The same for the same requests."""
        size, places = pool.pinned.shape
        nobody = Draws.none(size, places, pool.rows.shape[1])
        if self.kind == "none":
            return nobody
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


def seeded(query: Query) -> np.random.Generator:
    """By the id of the request; without one by its user and moment."""
    named = query.request_id or f"{query.user} {query.now!r}"
    digest = hashlib.blake2b(named.encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest)))


def exploration_from_document(document: Any) -> Exploration:
    """ConfigError names a key that is absent, unknown or out of range."""
    if not isinstance(document, Mapping) or set(document) != {"kind", "rate", "first"}:
        raise ConfigError(f"policy.exploration is {document!r}; write a mapping with kind, rate and first")
    return Exploration(**document)
