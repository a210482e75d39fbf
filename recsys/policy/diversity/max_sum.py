"""Max-sum diversification. Shapes: C columns of the pool."""

from recsys.jit import compiled
from recsys.policy.diversity.diversity import weighted_relevance
from recsys.policy.diversity.item_vectors import CosineDiversity, cosines_with


@compiled()
def _score(b, scoring, state, scores):
    number, weight = state.number[0], 1 - scoring.trade_off
    for c in range(len(scores)):
        scores[c] = weighted_relevance(b, scoring, c)
        if number:
            scores[c] -= weight * state.columns[0, c] / number


@compiled()
def _add(b, chosen, scoring, remaining, state):
    """Keep, per column, the sum of cosines to the items above."""
    cosines = cosines_with(scoring.units[b], chosen, remaining)
    for c in range(len(cosines)):
        state.columns[0, c] += cosines[c]


class MaxSum(CosineDiversity):
    """Position by position, argmax of trade_off * relevance - (1 - trade_off) * mean cosine to the items above.

    It optimises the intra-list distance itself, the mean over pairs. Without exploration the chosen items are then sorted
    by falling utility, since the sum does not depend on the order; pins stay, and items that a quota counts stay in its
    `top`. Source: Borodin, Lee and Ye, Max-Sum Diversification, Monotone Submodular Functions and Dynamic Updates,
    PODS 2012; the greedy choice reaches half of the optimum.
    """

    score, add = _score, _add
    sorts = True
