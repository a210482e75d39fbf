"""Proportions of the user's own history. Shapes: N items of the catalogue, C columns of the pool, V values of a category."""

import math
from collections.abc import Mapping

import numpy as np

from recsys.expressions import Columns
from recsys.jit import compiled
from recsys.policy.category_values import NO_GROUP, category_values, number_values
from recsys.policy.diversity.diversity import Diversity, ItemSimilarity, weighted_relevance

SMOOTHING = 0.01
"""share of the target in the smoothed distribution of a slate, so that the KL divergence stays finite (Steck 2018)"""


@compiled()
def _score(b, scoring, state, scores):
    weight = 1 - scoring.trade_off
    for c in range(len(scores)):
        divergence = _divergence(scoring.target_shares[b], state.sums, scoring.shares[b, c], state.number[0])
        scores[c] = weighted_relevance(b, scoring, c) - weight * divergence


@compiled()
def _divergence(target_shares, sums, own, number):
    """Return KL(target || slate with one more item); values [V]."""
    total = 0.0
    for v in range(len(target_shares)):
        if target_shares[v] > 0:
            slate_share = (1 - SMOOTHING) * (sums[v] + own[v]) / (number + 1) + SMOOTHING * target_shares[v]
            total += target_shares[v] * math.log(target_shares[v] / slate_share)
    return total


@compiled()
def _add(b, chosen, scoring, remaining, state):
    """Keep the summed shares of the items above."""
    for v in range(len(state.sums)):
        state.sums[v] += scoring.shares[b, chosen, v]


class Proportions(Diversity):
    """The categories of the slate in the proportions of the user's own history.

    Position by position, argmax of trade_off * relevance - (1 - trade_off) * KL(history || slate). Source: Steck, Calibrated
    Recommendations, RecSys 2018. A user without history gets the utility order.
    """

    score, add = _score, _add

    def __init__(self, *, trade_off: float, window: int, span: float | None, of: str) -> None:
        """of: a category or categories column of the items"""
        super().__init__(trade_off=trade_off, window=window, span=span)
        self.of = of

    def similarity(self, vectors: np.ndarray, catalogue: Columns, types: Mapping[str, str]) -> ItemSimilarity:
        groups, num = number_values(category_values("diversity.of", self.of, catalogue, types))
        shares = np.zeros((len(vectors), num + 1), dtype=np.float32)
        np.add.at(shares, (np.arange(len(groups))[:, None], np.where(groups == NO_GROUP, num, groups)), 1)
        shares = shares[:, :num] / np.maximum(shares[:, :num].sum(axis=1, keepdims=True), 1)
        return ItemSimilarity(units=np.empty((len(vectors), 0), dtype=np.float32), shares=np.ascontiguousarray(shares))
