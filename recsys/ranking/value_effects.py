"""Additive effects of the values of categories on the logits of labels, out of fold for the rows they were estimated on.

A value of few rows tells little of its rate; its effect is estimated beside those of all other columns and drawn towards 0 the
more, the fewer its rows are: logistic regression with a normal random effect for each value (McCulloch & Searle 2001), whose
variance is one a column. A model that learns from the rows of the estimate would trust it too much, so each of these rows
reads effects of the other folds alone, as with target statistics (Micci-Barreca 2001; Prokhorenkova et al. 2018).

Shapes: R rows, I id slots, V columns, T labels, K folds, W values of all columns.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from recsys.features.spec import MISSING, Column

SWEEPS = 4
"""over all columns, each by a Newton step; the variances are estimated anew after each"""
INITIAL_VARIANCE, LEAST_VARIANCE, MOST_VARIANCE = 0.1, 1e-4, 4.0
LEAST_DEVIATION = 1e-3
"""of a column's effects over the rows, below which it says nothing"""
MULTIPLIER = 0x9E3779B97F4A7C15 - 2**64
"""odd, of a multiplicative hash (Knuth 1998, 6.4)"""


class ValueEffects(nn.Module):
    """Effects of the values of a row, a number for each column and label; 0 before `fit`."""

    starts: Tensor
    effects: Tensor
    of_folds: Tensor

    def __init__(self, columns: Sequence[Column], *, num_labels: int, folds: int) -> None:
        """columns: those with ids, in the order of their slots"""
        super().__init__()
        self.folds = folds
        self.slots = [column.slots for column in columns]
        self.sizes = [column.num_ids for column in columns]
        starts = np.repeat(np.cumsum([0, *self.sizes[:-1]]), self.slots)
        self.register_buffer("starts", torch.from_numpy(starts), persistent=False)
        self.register_buffer("effects", torch.zeros(sum(self.sizes), num_labels))
        # read in training alone, which fits them anew
        self.register_buffer("of_folds", torch.zeros(folds, sum(self.sizes), num_labels), persistent=False)

    @property
    def width(self) -> int:
        """Number of effects of a row."""
        return len(self.slots) * self.effects.shape[1]

    def forward(self, ids: Tensor, rows: Tensor | None = None) -> Tensor:
        """Ids [..., I] -> effects [..., V T], in units of the standard deviation of their column over the training rows.

        rows: [...] of the table of items, which training needs: a row's fold is theirs
        """
        if not self.training:
            return self._joined(self.effects, ids + self.starts, ids)
        assert rows is not None
        return self._out_of_fold(ids, self.fold_of(rows))

    def _out_of_fold(self, ids: Tensor, fold: Tensor) -> Tensor:
        values = ids + self.starts + self.effects.shape[0] * fold.unsqueeze(-1)
        return self._joined(self.of_folds.flatten(0, 1), values, ids)

    def _joined(self, effects: Tensor, values: Tensor, ids: Tensor) -> Tensor:
        """Rows of `effects` at values [..., I], a mean over the slots of each column."""
        columns = zip(values.split(self.slots, dim=-1), ids.split(self.slots, dim=-1), strict=True)
        found = [(nn.functional.embedding(one, effects) * shares_of(own).unsqueeze(-1)).sum(-2) for one, own in columns]
        return torch.cat(found, dim=-1)

    def fold_of(self, rows: Tensor) -> Tensor:
        """Rows [...] of the table of items -> the fold of each, a hash: all requests of an item are in one fold."""
        return (rows.long() * MULTIPLIER >> 33).remainder(self.folds)

    @torch.no_grad()
    def fit(self, ids: Tensor, rows: Tensor, labels: Tensor, weights: Tensor | None = None) -> None:
        """Estimate the effects from ids [N, I] of the items, rows [R] of them, labels [R, T], NaN where unknown, weights [R].

        A column of values that are all in one row or in one fold, such as an id, says nothing out of fold: it gets no effects.
        """
        fold, ids = self.fold_of(rows), ids[rows].long()
        weights = torch.ones_like(labels[:, 0]) if weights is None else weights
        for label in range(labels.shape[1]):
            known = ~labels[:, label].isnan()
            self.effects[:, label] = self._estimate(ids[known], labels[known, label], weights[known])
            for number in range(self.folds):
                others = known & (fold != number)
                self.of_folds[number, :, label] = self._estimate(ids[others], labels[others, label], weights[others])
        deviations = self._out_of_fold(ids, fold).std(0, correction=0).view(len(self.sizes), -1)
        units = torch.where(deviations < LEAST_DEVIATION, 0.0, 1 / deviations)
        of_values = units.repeat_interleave(torch.tensor(self.sizes, device=ids.device), dim=0)
        self.effects *= of_values
        self.of_folds *= of_values

    def _estimate(self, ids: Tensor, reached: Tensor, weights: Tensor) -> Tensor:
        """Return the effects [W] of one label by backfitting: modes of their posterior, variances by its approximation."""
        reached, weights = reached.double().clamp(0, 1), weights.double().unsqueeze(-1)
        effects = [torch.zeros(size, dtype=torch.float64, device=ids.device) for size in self.sizes]
        if not len(reached) or not 0 < (rate := (reached * weights[:, 0]).sum() / weights.sum()) < 1:
            return torch.cat(effects).float()
        logits, variances = rate.logit().expand_as(reached), [INITIAL_VARIANCE] * len(effects)
        columns = [(own, shares_of(own).double(), weights * shares_of(own)) for own in ids.split(self.slots, dim=-1)]
        for _ in range(SWEEPS):
            for number, (own, shares, weighed) in enumerate(columns):
                chances = logits.sigmoid()
                gradient, curvature = (
                    torch.bincount(own.flatten(), (one.unsqueeze(-1) * weighed).flatten(), self.sizes[number])
                    for one in (reached - chances, chances * (1 - chances))
                )
                # shares of a row add up to 1, so all steps together are at most a Newton step of the row (Jensen)
                precision = curvature + 1 / variances[number]
                steps = (gradient - effects[number] / variances[number]) / precision
                effects[number] += steps
                logits = logits + (steps[own] * shares).sum(-1)
                determined = (curvature / precision).sum()  # effective number of parameters (MacKay 1992)
                variance = float(effects[number].square().sum() / determined)
                variances[number] = min(max(variance, LEAST_VARIANCE), MOST_VARIANCE)
        return torch.cat(effects).float()


def shares_of(ids: Tensor) -> Tensor:
    """Share of each slot [..., S] of a column in its row: equal over the values, the first slot's where there is none."""
    if ids.shape[-1] == 1:
        return torch.ones_like(ids, dtype=torch.float32)
    present = (ids != MISSING).float()
    shares = present / present.sum(-1, keepdim=True).clamp(min=1)
    none = 1 - present.amax(-1, keepdim=True)
    return torch.cat([shares[..., :1] + none, shares[..., 1:]], dim=-1)
