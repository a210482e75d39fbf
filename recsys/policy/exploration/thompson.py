"""Thompson sampling with exact propensities. Shapes: B queries of a batch, K positions, C columns of the pool."""

from collections.abc import Sequence

import numpy as np

from recsys.contracts import Query
from recsys.jit import compiled
from recsys.policy.exploration.exploration import MIN_RATE, Exploration, ExplorationDraws, request_generator
from recsys.policy.exploration.probability_of_max import probability_of_max
from recsys.policy.pool import EligiblePool


@compiled()
def _sample(rate, allowed, scores, best, uniforms, stds, normals):
    chosen, highest = -1, 0.0
    for c in range(len(allowed)):
        value = scores[c] + stds[c] * normals[c]
        if allowed[c] and (chosen < 0 or value > highest):
            chosen, highest = c, value
    return chosen


@compiled()
def _propensity(rate, allowed, scores, best, chosen, stds):
    return probability_of_max(allowed, scores, stds, chosen)


class Thompson(Exploration):
    """The maximum of normal draws with `rate` times the std of the score (Thompson 1933; 1 is the posterior itself).

    It draws anew at every position: the utility of each allowed candidate from a normal distribution around its mean with
    the std of `value.CompiledValue.utility_std`, and the maximum is placed. The propensity is then the probability that one
    normal variable is the maximum of many, a one-dimensional integral (`probability_of_max`). It is exact for the draws as
    made, however roughly they approximate the posterior. Where the ranker gave no std the best is placed.
    """

    needs_uncertainty = True
    max_rate = 100.0
    sample, propensity = _sample, _propensity

    def draws(
        self, queries: Sequence[Query], pool: EligiblePool, utility_std: np.ndarray | None, spans: np.ndarray
    ) -> ExplorationDraws:
        """Return normal draws, generated column by column: padding for other queries of the batch then changes none."""
        (size, num_positions), columns = pool.pinned.shape, pool.rows.shape[1]
        unused = ExplorationDraws.none(size, num_positions)
        if utility_std is None:
            return unused
        normals = np.zeros((size, num_positions, columns))
        for row, query in enumerate(queries):
            noise = request_generator(query).standard_normal((columns, query.k))[:, :num_positions]
            normals[row, : noise.shape[1]] = noise.T
        score_std = self.rate * (utility_std / spans[:, None])
        return unused._replace(
            explores=True,
            rate=self.rate,
            first=self.first,
            normals=normals,
            score_std=np.where(score_std >= MIN_RATE, score_std, 0.0),
        )
