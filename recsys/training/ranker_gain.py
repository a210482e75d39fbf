"""Comparison of a trained ranker with the order of retrieval, which decides whether it is kept.

Shapes: E epochs, B validation requests.
"""

from dataclasses import dataclass

import numpy as np

from recsys.evaluation.intervals import paired_p_value

GAIN_LEVEL, GAIN_SEED = 0.05, 0
"""level of the one-sided test of a ranker against the order of retrieval, and the seed of its bootstrap"""


@dataclass(frozen=True, kw_only=True)
class RankerGain:
    """Comparison of a trained ranker with the order of retrieval, on validation requests that did not choose its epoch."""

    retrieval: float
    """mean NDCG@10 of the target"""
    ranker: float
    p_value: float
    """of a difference of 0, paired over the requests, two-sided"""

    @staticmethod
    def of(validated: np.ndarray, retrieval: np.ndarray) -> "RankerGain | None":
        """Compare NDCG@10 of the same requests: of all epochs [E, B] and of retrieval [B]; None without a request.

        Cross-fitted: each half of the requests is ranked by the epoch that is best on the other half, or by retrieval where
        no epoch is better there, since the best epoch of all looks better than it is on the requests that chose it.
        """
        if not len(retrieval):
            return None
        first = np.random.default_rng(GAIN_SEED).permutation(len(retrieval)) < len(retrieval) / 2
        ranker = retrieval.copy()
        for half in (first, ~first) if len(retrieval) > 1 else ():
            means = validated[:, ~half].mean(axis=1)
            if means.max() > retrieval[~half].mean():
                ranker[half] = validated[means.argmax(), half]
        p_value = paired_p_value(ranker, retrieval, GAIN_SEED)
        return RankerGain(retrieval=float(retrieval.mean()), ranker=float(ranker.mean()), p_value=p_value)

    @property
    def helps(self) -> bool:
        """Return whether the ranker is better beyond chance, at 5% one-sided."""
        return self.ranker > self.retrieval and self.p_value < 2 * GAIN_LEVEL

    def figures(self, period: str) -> str:
        """Return the comparison as words for a report."""
        return f"NDCG@10 on {period} {self.ranker:.4f}, retrieval {self.retrieval:.4f}, p {self.p_value:.3f}"
