"""Positions of the utility order that are kept for the candidates of one source, those without any event.

A ranker learns from what was reached, so it ranks items without events last. The positions that the merge kept for them are
kept again here, behind value and rules.

Shapes: B queries, C candidates and behind them the items of pins, S candidate sources, K waiting.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from recsys.contracts import PAD
from recsys.kept_positions import KeptPositions

COLD = "cold"
"""kind of the source in a bundle"""
REASON_KEY = "policy.cold"
"""key of a kept position among the rules of a slate item"""
REASON = "position kept for an item without events"


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdShare:
    """Positions for the candidates that one source offered."""

    source: int
    """number among the sources"""
    positions: KeptPositions

    @staticmethod
    def of(sources: list[Mapping[str, Any]]) -> "ColdShare | None":
        """Read the documents of the sources of a bundle; None where none of them offers cold items."""
        for number, one in enumerate(sources):
            if one["kind"] == COLD:
                return ColdShare(source=number, positions=KeptPositions(num=one["num"], every=one["every"]))
        return None

    def fill(
        self, order: np.ndarray, utility: np.ndarray, source_scores: np.ndarray, showable: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the order [B, C] and the utility [B, C], in their original columns, with cold items in the kept positions.

        order: utility falling, unknown ones behind, then pins. source_scores: [B, C', S], NaN where not offered. An item that
        may not be shown waits for no position.
        """
        num_offered = source_scores.shape[1]
        cold = np.zeros(order.shape, dtype=bool)
        cold[:, :num_offered] = ~np.isnan(source_scores[..., self.source])
        cold &= showable & np.isfinite(utility)
        if not cold.any():
            return order, utility
        by_utility = np.take_along_axis(cold, order, axis=1)
        first = np.argsort(~by_utility, axis=1, kind="stable")[:, : self.positions.num]
        waiting = np.where(np.take_along_axis(by_utility, first, axis=1), np.take_along_axis(order, first, axis=1), PAD)
        known = np.take_along_axis(np.isfinite(utility), order, axis=1)
        filled, values = self.positions.fill(np.where(known, order, PAD), utility, cold, waiting)
        order, raised = np.where(filled == PAD, order, filled), utility.copy()
        query, position = np.nonzero(filled != PAD)
        raised[query, filled[query, position]] = values[query, position]
        return order, raised
