"""Values of one slice over all splits: a user who is asked in several counts once, with the mean of their values.

Shapes: B questions of a split, b of them in a slice, q in all splits, U users of all splits, N items, K places.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from recsys.evaluation.metrics import per_user, shown_items, weight_per_user
from recsys.evaluation.questions import Questions
from recsys.evaluation.slices import Slice


@dataclass(frozen=True, kw_only=True)
class Mark:
    """What one answer is worth in one slice."""

    values: dict[str, np.ndarray]
    """metric -> [b]"""
    shown: np.ndarray
    """[N] bool, items in the first ten places"""


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """One split: its questions, and what every system reached with every seed."""

    questions: Questions
    slices: dict[str, Slice]
    marks: dict[tuple[str, int], dict[str, Mark]] = field(default_factory=dict)
    """(system, seed) -> slice -> mark"""

    def mark(self, ranking: np.ndarray) -> dict[str, Mark]:
        """[B, K] -> its worth in every slice."""
        return {
            name: Mark(
                values=per_user(ranking[part.rows], part.targets, part.item_weights),
                shown=shown_items(ranking[part.rows], self.questions.num_items, 10),
            )
            for name, part in self.slices.items()
        }


@dataclass(frozen=True, kw_only=True)
class Pool:
    """One slice of all the sheets that have it."""

    name: str
    sheets: Sequence[Sheet]

    @cached_property
    def num_users(self) -> int:
        return int(self._places.max()) + 1

    @cached_property
    def num_targets(self) -> int:
        return sum(len(part.targets.items) for part in self._parts)

    def values(self, metric: str, system: str, seed: int) -> np.ndarray:
        """[U] float64."""
        values = np.concatenate([mark.values[metric] for mark in self._marks(system, seed)])
        weights = self._weights(metric)
        return np.bincount(self._places, weights * values) / np.bincount(self._places, weights)

    def weights(self, metric: str) -> np.ndarray:
        """[U] float64, what each user weighs in the mean; 1 for most metrics."""
        return np.bincount(self._places, self._weights(metric)) / np.bincount(self._places)

    def coverage(self, system: str, seed: int) -> float:
        """Share of the catalogue that any user sees in the first ten places, in any split."""
        return float(np.any([mark.shown for mark in self._marks(system, seed)], axis=0).mean())

    @cached_property
    def _parts(self) -> list[Slice]:
        return [sheet.slices[self.name] for sheet in self.sheets]

    @cached_property
    def _places(self) -> np.ndarray:
        """[q] int64, place of the user of each question among the U."""
        return np.unique(np.concatenate([part.users for part in self._parts]), return_inverse=True)[1]

    def _weights(self, metric: str) -> np.ndarray:
        return np.concatenate([weight_per_user(metric, part.targets, part.item_weights) for part in self._parts])

    def _marks(self, system: str, seed: int) -> list[Mark]:
        return [sheet.marks[system, seed][self.name] for sheet in self.sheets]
