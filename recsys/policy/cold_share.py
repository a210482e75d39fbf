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

    def compile(self) -> None:
        """Compile the kernel, which no slate without a cold item calls."""
        offered = np.zeros((1, 2, self.source + 1), dtype=np.float32)
        self.fill(np.array([[0, 1]]), np.array([[1.0, 0.5]]), offered, np.ones((1, 2), dtype=bool))

    def fill(
        self, order: np.ndarray, utility: np.ndarray, source_scores: np.ndarray, showable: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the order [B, C] and the utility [B, C], in their original columns, with cold items in the kept positions.

        order: utility falling, unknown ones behind, then pins. source_scores: [B, C', S], NaN where not offered. Positions are
        those of items that may be shown; others keep their places in the order. Exploration reads the raised utility.
        """
        num_offered, known = source_scores.shape[1], showable & np.isfinite(utility)
        cold = np.zeros(order.shape, dtype=bool)
        cold[:, :num_offered] = ~np.isnan(source_scores[..., self.source])
        cold &= known
        if not cold.any():
            return order, utility
        places, shown = _packed(np.take_along_axis(known, order, axis=1), order)
        _, by_utility = _packed(np.take_along_axis(cold, order, axis=1), order)
        waiting = np.ascontiguousarray(by_utility[:, : self.positions.num])  # another layout would be compiled anew
        filled, values = self.positions.fill(shown, utility, cold, waiting)
        query, position = np.nonzero(filled != PAD)
        order, raised = order.copy(), utility.copy()
        order[query, places[query, position]] = filled[query, position]
        raised[query, filled[query, position]] = values[query, position]
        return order, raised


def _packed(chosen: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the places [B, C] of an order, chosen ones first, and the columns that stand there, PAD behind the chosen."""
    places = np.argsort(~chosen, axis=1, kind="stable")
    is_chosen = np.take_along_axis(chosen, places, axis=1)
    return places, np.where(is_chosen, np.take_along_axis(order, places, axis=1), PAD)
