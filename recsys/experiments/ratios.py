"""Ratios of two sums over users, x / y, with intervals: requests and items of one user are not independent, users are.

Shapes: U users.
"""

import numpy as np

from recsys.experiments.mean_intervals import skew_corrected


def ratio(x: np.ndarray, y: np.ndarray) -> tuple[float, tuple[float | None, float | None]]:
    """Return sum x / sum y over users [U] and its interval, none for fewer than two users."""
    estimate = float(x.sum() / y.sum())
    return estimate, skew_corrected(linearised(x, y)) if len(x) > 1 else (None, None)


def linearised(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return contributions of users [U] to R = sum x / sum y by the delta method, R + (x - R y) / mean y.

    Their mean is the ratio, their standard error that of the ratio. Deng, Knoblich and Lu, Applying the delta method in metric
    analytics, KDD 2018.
    """
    estimate = x.sum() / y.sum()
    contributions: np.ndarray = estimate + (x - estimate * y) / y.mean()
    return contributions
