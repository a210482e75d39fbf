"""Positions of an ordered list that are kept for some of its candidates, such as items without any event.

Shapes: B queries, W candidates, C positions, K waiting.
"""

from dataclasses import dataclass

import numpy as np

from recsys.contracts import PAD
from recsys.jit import compiled


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptPositions:
    """One position of every so many, `num` of them at most."""

    num: int
    every: int

    def fill(
        self, order: np.ndarray, scores: np.ndarray, favoured: np.ndarray, waiting: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the order [B, C] with favoured candidates in the kept positions, and its scores [B, C].

        order: columns of candidates, best first, PAD at the end. scores, favoured: [B, W]. waiting: [B, K] columns of
        favoured candidates, best first, PAD at the end. In the first n * every positions stand at least n favoured ones, n
        up to `num`, as long as any wait. One that was moved up gets a score between those of its neighbours, all others
        keep theirs and their order.
        """
        return _fill(order, scores, favoured, waiting, self.num, self.every)


@compiled()
def _fill(order, scores, favoured, waiting, num, every):
    """As `KeptPositions.fill`."""
    num_queries, total = order.shape
    filled = np.full((num_queries, total), PAD, np.int64)
    values = np.full((num_queries, total), -np.inf, scores.dtype)
    used = np.zeros(scores.shape[1], np.bool_)
    for b in range(num_queries):
        used[:] = False
        following, next_waiting, favoured_so_far = 0, 0, 0
        for position in range(total):
            while following < total and order[b, following] != PAD and used[order[b, following]]:
                following += 1
            while (
                next_waiting < waiting.shape[1] and waiting[b, next_waiting] != PAD and used[waiting[b, next_waiting]]
            ):
                next_waiting += 1
            column = order[b, following] if following < total else PAD
            if column == PAD:
                break
            score = scores[b, column]
            is_due = favoured_so_far < min(num, (position + 1) // every) and not favoured[b, column]
            if is_due and next_waiting < waiting.shape[1] and waiting[b, next_waiting] != PAD:
                column = waiting[b, next_waiting]
                if position:
                    score = values[b, position - 1] + (score - values[b, position - 1]) / 2
            filled[b, position], values[b, position] = column, score
            used[column] = True
            favoured_so_far += favoured[b, column]
    return filled, values
