"""Encodings of one number: standardised, logarithmic, as the id of a quantile bucket, or piecewise linear over quantiles.

Shapes: R rows, Q bins.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from recsys.errors import ConfigError, check_ranges

Encoding = Literal["standard", "log", "buckets", "piecewise"]
ENCODINGS: tuple[str, ...] = get_args(Encoding)
BINNED = ("buckets", "piecewise")
"""encodings over quantiles of the training rows"""
DEFAULT_BINS = 16
MAX_BINS = 1_024


@dataclass(frozen=True, kw_only=True)
class NumberEncoding:
    """Choice of an encoding of a number."""

    kind: Encoding = "standard"
    """`standard` (x - mean) / scale; `log` the same of sign(x) log(1 + |x|); `buckets` an id, embedded like a category;
    `piecewise` one value a bin, 1 below x, the fraction in the bin of x, 0 above (Gorishniy et al. 2022)"""
    bins: int = DEFAULT_BINS
    """of buckets and piecewise, of equal mass on the training rows; equal quantiles are merged"""

    def __post_init__(self) -> None:
        if self.kind not in ENCODINGS:
            raise ConfigError(f"the encoding of a number is {self.kind!r}; choose one of {', '.join(ENCODINGS)}")
        check_ranges(self.kind, bins=(self.bins, 2, MAX_BINS))

    def edges(self, values: np.ndarray) -> tuple[float, ...]:
        """Edges of the bins of finite values [R]: of buckets only the inner ones; none without values or for other kinds."""
        if self.kind not in BINNED or not len(values):
            return ()
        quantiles = np.quantile(values, np.linspace(0, 1, self.bins + 1), method="lower")
        if self.kind == "buckets":
            quantiles = quantiles[1:-1][quantiles[1:-1] > quantiles[0]]
        return tuple(np.unique(quantiles).tolist())


def signed_log(values: np.ndarray) -> np.ndarray:
    """sign(x) log(1 + |x|)"""
    return np.sign(values) * np.log1p(np.abs(values))


def bucket_of(values: np.ndarray, edges: tuple[float, ...]) -> np.ndarray:
    """Bucket of each value [R], 0 to len(edges); an edge belongs to the bucket above it."""
    return np.searchsorted(edges, values, side="right")


def piecewise_linear(values: np.ndarray, edges: tuple[float, ...]) -> np.ndarray:
    """[R] -> [R, Q] in [0, 1], Q = len(edges) - 1; values beyond the outer edges count as at the edge."""
    lower, upper = np.array(edges[:-1]), np.array(edges[1:])
    return np.clip((values[:, None] - lower) / (upper - lower), 0.0, 1.0)
