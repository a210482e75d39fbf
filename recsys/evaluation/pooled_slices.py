"""Metric values of one slice pooled over all splits: a user in several splits counts once, with the mean value.

Shapes: B queries of a split, b of them in a slice, q in all splits, U users of all splits, N items, K positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from recsys.evaluation.further_metrics import POSITIONS, CatalogueShares, further_metrics
from recsys.evaluation.slices import EVERYTHING, Slice
from recsys.metrics import FURTHER_METRICS, METRICS, per_user, shown_items, weight_per_user
from recsys.replay.evaluation_queries import EvaluationQueries


@dataclass(frozen=True, kw_only=True)
class SliceResult:
    """Metric values of one ranking in one slice."""

    values: dict[str, np.ndarray]
    """metric -> [b]"""
    top: np.ndarray
    """[b, POSITIONS] catalogue rows, PAD in empty positions"""


@dataclass(frozen=True, kw_only=True)
class SplitResults:
    """Queries of one split, and the results of every system and seed."""

    queries: EvaluationQueries
    slices: dict[str, Slice]
    results: dict[tuple[str, int], dict[str, SliceResult]] = field(default_factory=dict)
    """(system, seed) -> slice -> result"""

    def evaluate(self, ranking: np.ndarray) -> dict[str, SliceResult]:
        """Return the result of a ranking [B, K] in every slice; that of EVERYTHING has the further metrics too."""
        found = {
            name: SliceResult(
                values=per_user(ranking[part.rows], part.targets, part.item_weights),
                top=ranking[part.rows, :POSITIONS],
            )
            for name, part in self.slices.items()
        }
        found[EVERYTHING].values.update(further_metrics(self.queries, ranking))
        return found


@dataclass(frozen=True, kw_only=True)
class PooledSlice:
    """One slice, pooled over the splits that have it."""

    name: str
    splits: Sequence[SplitResults]

    @cached_property
    def num_users(self) -> int:
        return len(self.users)

    @cached_property
    def users(self) -> np.ndarray:
        """Return [U] codes, ascending."""
        return np.unique(np.concatenate([part.users for part in self._parts]))

    @property
    def metrics(self) -> tuple[str, ...]:
        """Return the metrics with one value per user."""
        return (*METRICS, *FURTHER_METRICS) if self.name == EVERYTHING else METRICS

    @cached_property
    def num_targets(self) -> int:
        return sum(len(part.targets.items) for part in self._parts)

    def values(self, metric: str, system: str, seed: int) -> np.ndarray:
        """Return [U] float64, the mean value of each user."""
        values = np.concatenate([evaluate.values[metric] for evaluate in self._results(system, seed)])
        weights = self._weights(metric)
        return np.bincount(self._user_index, weights * values) / np.bincount(self._user_index, weights)

    def weights(self, metric: str) -> np.ndarray:
        """Return [U] float64 weights of the users in the mean; 1 for most metrics."""
        return np.bincount(self._user_index, self._weights(metric)) / np.bincount(self._user_index)

    def coverage(self, system: str, seed: int) -> float:
        """Return the share of the catalogue in the first ten positions of any user in any split."""
        tops = [shown_items(evaluate.top, self._num_items, POSITIONS) for evaluate in self._results(system, seed)]
        return float(np.any(tops, axis=0).mean())

    def catalogue_shares(self, system: str, seed: int) -> CatalogueShares:
        """Return coverage and entropy of the first positions of all users in all splits."""
        top = np.concatenate([evaluate.top for evaluate in self._results(system, seed)])
        return CatalogueShares.of(top, self._user_index, self._num_items)

    @property
    def _num_items(self) -> int:
        return self.splits[0].queries.num_items

    @cached_property
    def _parts(self) -> list[Slice]:
        return [split.slices[self.name] for split in self.splits]

    @cached_property
    def _user_index(self) -> np.ndarray:
        """Return [q] int64 indices of the queries' users among the U."""
        return np.searchsorted(self.users, np.concatenate([part.users for part in self._parts]))

    def _weights(self, metric: str) -> np.ndarray:
        return np.concatenate([weight_per_user(metric, part.targets, part.item_weights) for part in self._parts])

    def _results(self, system: str, seed: int) -> list[SliceResult]:
        return [split.results[system, seed][self.name] for split in self.splits]
