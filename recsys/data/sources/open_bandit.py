"""Open Bandit: logged recommendations of a fashion shop with propensities and clicks (Saito et al. 2021), Apache-2.0."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from recsys.data.bandit import BanditLog
from recsys.data.sources.delimited import read_columns
from recsys.errors import DataError

POLICIES = ("random", "bts")
"""uniform, and Bernoulli Thompson sampling, which ran in the same week"""
CAMPAIGNS = ("all", "men", "women")
FEATURES = tuple(f"user_feature_{number}" for number in range(4))
NUMBERS = ("item_id", "position", "click", "propensity_score")


@dataclass(frozen=True, kw_only=True)
class OpenBandit:
    """Log of one campaign and policy. Three positions of a page are shown at once; each is a round of its own.

    Contexts are the four hashed features of the visitor, one column per value; affinities to items are left out.
    """

    folder: str
    """holds <policy>/<campaign>.csv, or .csv.gz, and <policy>/<campaign>_items.csv"""
    policy: str
    campaign: str

    def load(self) -> BanditLog:
        """Load the data set; DataError names file, column, value and remedy."""
        for key, names in (("policy", POLICIES), ("campaign", CAMPAIGNS)):
            if (value := getattr(self, key)) not in names:
                raise DataError(f"{key} is {value!r}; write one of {', '.join(names)}")
        folder = Path(self.folder, self.policy)
        path = folder / f"{self.campaign}.csv"
        path = path if path.exists() else path.with_suffix(".csv.gz")
        return _log(path, _num_items(folder / f"{self.campaign}_items.csv"))


def _num_items(path: Path) -> int:
    items = _numbers(path, read_columns(path, {"item_id": "item_id"}, separator=","), "item_id")
    if sorted(items) != list(range(len(items))):
        raise DataError(f"{path}: item_id is not each whole number from 0 once; fetch the file anew")
    return len(items)


def _log(path: Path, num_items: int) -> BanditLog:
    frame = read_columns(path, {name: name for name in (*NUMBERS, *FEATURES)}, separator=",")
    items, positions, clicks, propensities = (_numbers(path, frame, name) for name in NUMBERS)
    _check(path, "item_id", items, np.isin(items, np.arange(num_items)), f"0 to {num_items - 1}, as in the items")
    _check(path, "position", positions, np.isin(positions, (1, 2, 3)), "1, 2 or 3")
    _check(path, "click", clicks, np.isin(clicks, (0, 1)), "0 or 1")
    _check(path, "propensity_score", propensities, (propensities > 0) & (propensities <= 1), "above 0 and at most 1")
    return BanditLog(
        contexts=_one_hot(frame),
        actions=items.astype(np.int64),
        rewards=clicks,
        propensities=propensities,
        positions=positions.astype(np.int64) - 1,
        num_actions=num_items,
    )


def _numbers(path: Path, frame: pl.DataFrame, name: str) -> np.ndarray:
    if frame.is_empty():
        raise DataError(f"{path}: there are no rows; fetch the file anew")
    numbers = frame[name].cast(pl.Float64, strict=False)
    if len(odd := frame.filter(numbers.is_null() | numbers.is_nan())):
        raise DataError(f"{path}: {name} is {odd[name][0]!r}; wanted a number")
    return numbers.to_numpy()


def _check(path: Path, name: str, values: np.ndarray, right: np.ndarray, expected: str) -> None:
    if not right.all():
        row = int(np.argmin(right))
        raise DataError(f"{path}: {name} is {values[row]:g} in row {row + 1}; wanted {expected}")


def _one_hot(frame: pl.DataFrame) -> np.ndarray:
    """Return the one-hot encoding [R, F], values in alphabetical order; a missing value has no 1."""
    columns = [
        (frame[name] == value).fill_null(False).to_numpy()
        for name in FEATURES
        for value in sorted(frame[name].drop_nulls().unique())
    ]
    return np.stack(columns, axis=1).astype(np.float64) if columns else np.zeros((frame.height, 0))
