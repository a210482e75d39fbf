"""A made-up click log in the shape of Criteo's: 13 counts, 26 hashed categories, a quarter clicks, and the truth behind them.

The logit is a sum of one term a count (of its logarithm: linear, with a hinge, or a hill; and of its being missing), one a
value of each category, and ten products: of embeddings of two categories, and of a count with a value of a category. Values
follow Zipf's law, so most of a large category are too rare to be learnt. Rows are independent, in the order of time.

Shapes: R rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import yaml

CARDINALITIES = (
    *(1_460, 583, 100_000, 80_000, 305, 24, 12_517, 633, 3, 60_000, 5_683, 100_000, 3_194),
    *(27, 14_992, 90_000, 10, 5_652, 2_173, 4, 100_000, 18, 15, 40_000, 105, 30_000),
)
"""of the 26 categories, the largest of Criteo's cut to what a million rows hold"""
NUMBERS = tuple(f"I{number}" for number in range(1, 14))
CATEGORIES = tuple(f"C{number}" for number in range(1, 27))
LABEL = "click"
MISSING = (0.45, 0.0, 0.22, 0.22, 0.03, 0.22, 0.04, 0.0, 0.04, 0.45, 0.04, 0.76, 0.22)
"""share of each count that is missing"""
PAIRS = ((1, 8), (4, 5), (5, 19), (8, 22), (13, 16), (2, 24))
"""categories that interact, from 0"""
SCALED = ((0, 5), (3, 16), (6, 8), (10, 21))
"""(count, category) that interact"""
EMBEDDED = 4
ZIPF = 1.1
CHUNK = 100_000
LARGE = 20_000
"""values from which on a category is hashed"""
HASH_SIZE = 200_000


@dataclass(frozen=True, kw_only=True)
class ClickWorld:
    """A world and its log."""

    rows: int
    seed: int
    strength: float = 1.0
    """of all effects; the rate is kept near a quarter"""

    def write(self, folder: Path) -> np.ndarray:
        """Write clicks.tsv, without a header as Criteo's, and clicks.yaml; return the true probabilities [R]."""
        folder.mkdir(parents=True, exist_ok=True)
        described = {
            "task": "ranking",
            "impressions": {
                "file": "clicks.tsv",
                "columns": [LABEL, *NUMBERS, *CATEGORIES],
                "labels": [LABEL],
                "numbers": {name: {"piecewise": 16} for name in NUMBERS} | {"I7": {"buckets": 32}, "I8": "log"},
                "categories": {
                    name: {"hash": HASH_SIZE} if size >= LARGE else "vocabulary"
                    for name, size in zip(CATEGORIES, CARDINALITIES, strict=True)
                },
                "groups": ["C2"],
                "order": "file",
            },
        }
        (folder / "clicks.yaml").write_text(yaml.safe_dump(described, sort_keys=False), encoding="utf-8")
        probabilities = []
        with (folder / "clicks.tsv").open("wb") as file:
            for frame, truth in self.chunks():
                frame.write_csv(file, separator="\t", include_header=False)
                probabilities.append(truth)
        return np.concatenate(probabilities)

    def chunks(self) -> Iterator[tuple[pl.DataFrame, np.ndarray]]:
        """Yield the rows with their true probabilities."""
        truth, drawn = _Truth(self.seed, self.strength), np.random.default_rng((self.seed, 1))
        for start in range(0, self.rows, CHUNK):
            yield truth.rows(min(CHUNK, self.rows - start), drawn)


class _Truth:
    """Effects of a world."""

    def __init__(self, seed: int, strength: float) -> None:
        rng = np.random.default_rng(seed)
        self.scales = rng.uniform(0.5, 1.5, len(NUMBERS))
        self.slopes = strength * rng.normal(0, 0.25, len(NUMBERS))
        self.missing = strength * rng.normal(0, 0.3, len(NUMBERS))
        self.values = [strength * rng.normal(0, 0.25, size) for size in CARDINALITIES]
        self.vectors = {one: rng.normal(0, 1, (CARDINALITIES[one], EMBEDDED)) for pair in PAIRS for one in pair}
        self.pairs = strength * 0.2
        self.scaled = [strength * rng.normal(0, 0.25, CARDINALITIES[category]) for _, category in SCALED]
        self.shift = 0.0
        self.shares = [_zipf(size) for size in CARDINALITIES]
        self.shift = self._shift(rng)

    def _shift(self, rng: np.random.Generator) -> float:
        """Intercept with which a quarter are clicks."""
        logits = self._logits(*self._features(50_000, rng))
        low, high = -20.0, 20.0
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if (1 / (1 + np.exp(-(logits + middle)))).mean() < 0.25 else (low, middle)
        return low

    def rows(self, num_rows: int, rng: np.random.Generator) -> tuple[pl.DataFrame, np.ndarray]:
        """Draw rows and return them with their probabilities."""
        counts, missing, categories = self._features(num_rows, rng)
        probabilities = 1 / (1 + np.exp(-(self._logits(counts, missing, categories) + self.shift)))
        clicks = rng.random(num_rows) < probabilities
        shown = [pl.Series(LABEL, clicks.astype(np.int8))]
        for number, name in enumerate(NUMBERS):
            shown.append(pl.Series(name, counts[:, number]).set(pl.Series(missing[:, number]), None))
        for number, name in enumerate(CATEGORIES):
            shown.append(pl.Series(name, _names(number, CARDINALITIES[number])[categories[:, number]]))
        return pl.DataFrame(shown), probabilities

    def _features(self, num_rows: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        counts = np.floor(rng.lognormal(1.5, 1.0, (num_rows, len(NUMBERS))) ** self.scales).astype(np.int64)
        missing = rng.random(counts.shape) < np.array(MISSING)
        categories = [np.searchsorted(share, rng.random(num_rows)) for share in self.shares]
        return counts, missing, np.stack(categories, axis=1)

    def _logits(self, counts: np.ndarray, missing: np.ndarray, categories: np.ndarray) -> np.ndarray:
        logs = np.where(missing, 0.0, np.log1p(counts) - 1.7)
        shaped = logs.copy()
        shaped[:, 1::3] = np.maximum(logs[:, 1::3], 0) * 2  # a hinge
        shaped[:, 2::3] = -np.square(logs[:, 2::3])  # a hill
        logits = np.where(missing, self.missing, shaped * self.slopes).sum(axis=1)
        for number, values in enumerate(self.values):
            logits += values[categories[:, number]]
        for one, other in PAIRS:
            first, second = self.vectors[one][categories[:, one]], self.vectors[other][categories[:, other]]
            logits += self.pairs * (first * second).sum(axis=1)
        for (number, category), slopes in zip(SCALED, self.scaled, strict=True):
            logits += logs[:, number] * slopes[categories[:, category]]
        return logits


def _zipf(size: int) -> np.ndarray:
    """Cumulative shares of `size` values."""
    shares = np.arange(1, size + 1) ** -ZIPF
    return np.cumsum(shares / shares.sum()).clip(max=1.0)


def _names(number: int, size: int) -> np.ndarray:
    """Hexadecimal words of a category's values, as Criteo's."""
    mixed = (np.arange(size, dtype=np.uint64) + np.uint64(number << 32)) * np.uint64(0x9E3779B97F4A7C15)
    return np.array([f"{value:08x}" for value in (mixed >> np.uint64(32)).tolist()])
