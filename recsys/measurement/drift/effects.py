"""Distances of two distributions over the same bins, with the chance in them.

Sizes of an effect, not p values: with many requests any difference is significant, and with few a large one is none. A distance
of two samples is above 0 by chance alone, so each figure is a jackknife over groups of users: its bias is removed, and its
standard error holds that users come back (Quenouille, Notes on bias in estimation, Biometrika 1956; Tukey 1958).

Shapes: G groups, B bins; the first bin is that of missing values.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from recsys.measurement.drift.bins import BinnedColumn

FLOOR = 1e-4
"""least share of a bin in a logarithm"""

Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""live shares [..., B] and expected ones -> [...]"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftEffect:
    """Estimate of a figure with its standard error."""

    value: float
    error: float

    def above(self, limit: float, errors: float) -> bool:
        """Return whether it exceeds a limit by more than this many standard errors."""
        return self.value - errors * self.error > limit


def jackknife(whole: float, without: np.ndarray) -> DriftEffect:
    """Return the estimate of a figure from its value for all groups and without each of them [G]."""
    num = len(without)
    value = num * whole - (num - 1) * float(without.mean())
    error = np.sqrt((num - 1) / num * float(((without - without.mean()) ** 2).sum()))
    return DriftEffect(value=value, error=float(error))


def effects_of(column: BinnedColumn, live: np.ndarray, expected: np.ndarray) -> dict[str, DriftEffect]:
    """Return the effects by name: `missing`, `psi` and, of a category, `unknown` and `js`, of numbers `wasserstein`.

    live: [G, B] requests by group; expected: [G, B] shares without each group of the reference
    """
    shares = np.concatenate([_shares(live.sum(axis=0))[None], _shares(live.sum(axis=0) - live)])
    usual = np.concatenate([expected.mean(axis=0)[None], expected])
    distances: Mapping[str, Distance] = {"missing": _more_missing, "psi": population_stability}
    if column.kind == "category":
        distances = {**distances, "unknown": _more_unknown, "js": jensen_shannon}
    else:
        distances = {**distances, "wasserstein": lambda one, other: wasserstein(one, other, column)}
    if not live[:, 1:].any():
        distances = {"missing": _more_missing}
    found = {name: distance(shares, usual) for name, distance in distances.items()}
    return {name: jackknife(float(values[0]), values[1:]) for name, values in found.items()}


def population_stability(live: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Population stability index of what is not missing, sum (p - q) log(p / q): .1 is a small shift, .25 a large one."""
    one, other = (np.maximum(_known(part), FLOOR) for part in (live, expected))
    return ((one - other) * np.log(one / other)).sum(axis=-1)


def jensen_shannon(live: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Jensen-Shannon distance of what is not missing, base 2: 0 to 1."""
    one, other = _known(live), _known(expected)
    middle = (one + other) / 2
    parts = [
        np.where(p > 0, p * np.log2(np.where(p > 0, p, 1) / np.where(middle > 0, middle, 1)), 0) for p in (one, other)
    ]
    return np.sqrt(np.maximum((parts[0] + parts[1]).sum(axis=-1) / 2, 0))


def wasserstein(live: np.ndarray, expected: np.ndarray, column: BinnedColumn) -> np.ndarray:
    """First Wasserstein distance of numbers in standard deviations of the reference, each bin at its mean there."""
    difference = np.abs(np.cumsum(_known(live) - _known(expected), axis=-1))[..., :-1]
    return (difference * np.diff(column.centres)).sum(axis=-1) / column.scale


def _more_missing(live: np.ndarray, expected: np.ndarray) -> np.ndarray:
    return live[..., 0] - expected[..., 0]


def _more_unknown(live: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Share of what has no bin of its own, beyond the expected one."""
    return _known(live)[..., 0] - _known(expected)[..., 0]


def _known(shares: np.ndarray) -> np.ndarray:
    """Shares [..., B - 1] of the bins but that of missing values."""
    known = shares[..., 1:]
    total = known.sum(axis=-1, keepdims=True)
    return known / np.where(total > 0, total, 1)


def _shares(counts: np.ndarray) -> np.ndarray:
    return counts / np.maximum(counts.sum(axis=-1, keepdims=True), 1)
