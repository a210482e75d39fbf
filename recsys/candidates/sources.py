"""The candidate sources of one retrieve stage: how to fit them, and what they offer.

Shapes: B queries, L history, D dim, E excluded items, C candidates, S sources.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from recsys.candidates.linear import ItemItem, ItemNeighbours
from recsys.candidates.merge import Quota, merge
from recsys.candidates.popular import Popular, PopularItems
from recsys.errors import check_ranges
from recsys.index import Index

Document = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Sources:
    """All fitted sources, merged into `total` candidates a query."""

    index: Index
    item_item: ItemNeighbours
    popular: PopularItems
    quotas: tuple[Quota, ...]
    """of two_tower, item_item and popular, in this order"""
    total: int

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(quota.name for quota in self.quotas)

    def search(
        self, vectors: np.ndarray, history: np.ndarray, excluded: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """User vectors [B, D], history rows [B, L], excluded rows [B, E] -> what `merge` returns."""
        beyond = excluded.shape[1]
        two_tower, item_item, popular = (quota.num + beyond for quota in self.quotas)
        offers = [
            self.index.search(vectors, two_tower),
            self.item_item.search(history, item_item),
            self.popular.search(len(history), popular),
        ]
        return merge(offers, self.quotas, excluded, self.total)

    def to_documents(self) -> tuple[Document, dict[str, np.ndarray]]:
        """What a bundle stores beside the index."""
        quotas = [{"name": quota.name, "num": quota.num, "weight": quota.weight} for quota in self.quotas]
        document = {"total": self.total, "quotas": quotas, "decay": self.item_item.decay}
        return document, {
            "item_item_rows": self.item_item.rows,
            "item_item_weights": self.item_item.weights,
            "popular_rows": self.popular.rows,
            "popular_scores": self.popular.scores,
        }

    @staticmethod
    def from_documents(document: Mapping[str, Any], arrays: Mapping[str, np.ndarray], index: Index) -> "Sources":
        return Sources(
            index=index,
            item_item=ItemNeighbours(
                rows=arrays["item_item_rows"], weights=arrays["item_item_weights"], decay=document["decay"]
            ),
            popular=PopularItems(rows=arrays["popular_rows"], scores=arrays["popular_scores"]),
            quotas=tuple(Quota(**quota) for quota in document["quotas"]),
            total=document["total"],
        )


class CandidateSources:
    """How to fit the sources that stand beside the towers."""

    def __init__(self, *, total: int, two_tower: Mapping[str, Any], item_item: ItemItem, popular: Popular) -> None:
        """
        total: candidates a query after the merge, 1 to 10,000
        two_tower: {num, weight} of the towers' own offers
        """
        check_ranges("candidates", total=(total, 1, 10_000))
        self.total = total
        self.item_item = item_item
        self.popular = popular
        self.quotas = (
            Quota(name="two_tower", **two_tower),
            Quota(name="item_item", num=item_item.num, weight=item_item.weight),
            Quota(name="popular", num=popular.num, weight=popular.weight),
        )

    def fit(
        self, users: np.ndarray, items: np.ndarray, timestamps: np.ndarray, num_items: int, index: Index
    ) -> Sources:
        """Training positives: user codes [M], catalogue rows [M] and unix seconds [M], with the towers' index."""
        return Sources(
            index=index,
            item_item=self.item_item.fit(users, items, num_items),
            popular=self.popular.fit(items, timestamps, num_items),
            quotas=self.quotas,
            total=min(self.total, num_items),
        )
