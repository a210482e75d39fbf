"""Maximal marginal relevance. Shapes: C columns of the pool."""

import math

from recsys.jit import compiled
from recsys.policy.diversity.diversity import weighted_relevance
from recsys.policy.diversity.item_vectors import CosineDiversity, cosines_with


@compiled()
def _start(b, scoring, state):
    state.columns[0] = -math.inf


@compiled()
def _score(b, scoring, state, scores):
    weight = 1 - scoring.trade_off
    for c in range(len(scores)):
        scores[c] = weighted_relevance(b, scoring, c)
        if state.number[0]:
            scores[c] -= weight * state.columns[0, c]


@compiled()
def _add(b, chosen, scoring, remaining, state):
    """Keep, per column, the greatest cosine to an item above."""
    cosines = cosines_with(scoring.units[b], chosen, remaining)
    for c in range(len(cosines)):
        state.columns[0, c] = max(state.columns[0, c], cosines[c])


class MaximalMarginalRelevance(CosineDiversity):
    """Position by position, argmax of trade_off * relevance - (1 - trade_off) * greatest cosine to the items above.

    Source: Carbonell and Goldstein, The Use of MMR, Diversity-Based Reranking, SIGIR 1998.
    """

    start, score, add = _start, _score, _add
