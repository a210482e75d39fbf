"""Fairness between groups of users: how much worse the worst served group of a user column is than the best served one.

Shapes: U users, G groups.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from recsys.data.dataset import Dataset
from recsys.data.description import USER
from recsys.evaluation.intervals import group_ratio_interval

MIN_USERS = 30
"""a smaller group is named, not judged"""
NAMED = 20
"""groups that are too small, at most, by name"""
DEALS = 50
"""random groupings, for the ratio that chance makes"""
JUDGED = {"recall@10": "recall@10", "ndcg@10": "exposure"}
"""metric -> its title; NDCG is the discounted exposure of the relevant items over the most that they could have"""


@dataclass(frozen=True, kw_only=True)
class UserGroups:
    """Users by the values of one category column of their profiles."""

    names: tuple[str, ...]
    """[G] groups of at least MIN_USERS, sorted"""
    index: np.ndarray
    """[U] int64, group of each user, -1 without a judged one"""
    too_small: Mapping[str, int]
    """other group -> number of its users"""

    @staticmethod
    def of(values: np.ndarray) -> "UserGroups":
        """Group users by their values [U], None for a missing one."""
        known = np.array([value is not None for value in values], dtype=bool)
        found, inverse, sizes = np.unique(values[known].astype(str), return_inverse=True, return_counts=True)
        judged = sizes >= MIN_USERS
        index = np.full(len(values), -1, dtype=np.int64)
        index[known] = np.where(judged, np.cumsum(judged) - 1, -1)[inverse]
        return UserGroups(
            names=tuple(found[judged].tolist()),
            index=index,
            too_small=dict(zip(found[~judged].tolist(), sizes[~judged].tolist(), strict=True)),
        )

    def means(self, values: np.ndarray, index: np.ndarray | None = None) -> np.ndarray:
        """Return [G] means of values [U] over the users of each group."""
        index = self.index if index is None else index
        judged, num = index >= 0, len(self.names)
        return np.bincount(index[judged], values[judged], num) / np.bincount(index[judged], minlength=num)

    def to_document(self, values: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Return size and means of each group, the ratio of the worst to the best, and the groups that are too small.

        values: metric of JUDGED -> [U]
        """
        sizes = np.bincount(self.index[self.index >= 0], minlength=len(self.names))
        means = {metric: self.means(values[metric]) for metric in JUDGED}
        return {
            "groups": {
                name: {"users": int(sizes[at]), **{metric: float(one[at]) for metric, one in means.items()}}
                for at, name in enumerate(self.names)
            },
            "too_small": dict(list(self.too_small.items())[:NAMED]),
            "num_too_small": len(self.too_small),
            "ratios": {
                metric: self._ratio(values[metric], one) for metric, one in means.items() if one.min() < one.max()
            },
        }

    def _ratio(self, values: np.ndarray, means: np.ndarray) -> dict[str, Any]:
        worst, best = int(means.argmin()), int(means.argmax())
        interval = group_ratio_interval(values[self.index == worst], values[self.index == best], seed=0)
        return {
            "worst": self.names[worst],
            "best": self.names[best],
            "ratio": float(means[worst] / means[best]),
            "ci95": list(interval),
            "chance": self._chance(values),
        }

    def _chance(self, values: np.ndarray) -> float:
        """Return the mean ratio of the worst to the best of random groups of the same sizes."""
        rng = np.random.default_rng(0)
        dealt = [self.means(values, rng.permutation(self.index)) for _ in range(DEALS)]
        return float(np.mean([means.min() / max(means.max(), 1e-300) for means in dealt]))


def user_groups(dataset: Dataset, users: np.ndarray) -> dict[str, UserGroups]:
    """Return the groups of the users [U] by name, for each category column of the profiles with at least two judged groups."""
    columns = [name for name, kind in dataset.description.users.items() if kind == "category"]
    frame = pl.DataFrame({USER: users.tolist()}).join(dataset.users, on=USER, how="left", maintain_order="left")
    found = {name: UserGroups.of(frame[name].to_numpy()) for name in columns}
    return {name: groups for name, groups in found.items() if len(groups.names) > 1}
