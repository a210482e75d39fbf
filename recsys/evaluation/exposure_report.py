"""Exposure section of a report: concentration, popularity and diversity of the first positions.

Shapes: B users, K positions of a ranking.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from recsys.evaluation.attributes import Attributes
from recsys.evaluation.exposure import (
    average_popularity,
    distance,
    exposure,
    gini,
    intra_list_distance,
    popularity_lift,
    top_share,
)
from recsys.replay.evaluation_queries import EvaluationQueries

POSITIONS = 10
"""number of first positions that are measured"""
MEASURES = {
    "gini": "Gini",
    "top_1_percent": "top 1%",
    "top_5_percent": "top 5%",
    "average_popularity": "popularity",
    "popularity_lift": "popularity lift",
    "intra_list_distance": "intra-list distance",
}
"""measure -> its title"""
FROM_CATALOGUE, FROM_RELEVANCE = "from_catalogue/", "from_relevance/"
"""prefixes of a column name: distance of its exposure from the shares in the catalogue, and among relevant items"""


def exposure_metrics(queries: EvaluationQueries, ranking: np.ndarray, attributes: Attributes) -> dict[str, float]:
    """Return MEASURES of the first POSITIONS of rankings [B, K], and per column the distance of its exposure from two targets.

    Items count by impressions, groups by discounted exposure. Popularity is the share of the users known before the
    period who interacted with the item. Relevance is the distribution of the targets, each user counted once.
    """
    shown = exposure(ranking, queries.num_items, POSITIONS, discounted=False)
    popularity = queries.known.popularity / max(len(np.unique(queries.known.users)), 1)
    found: dict[str, float | None] = {
        "gini": gini(shown),
        "top_1_percent": top_share(shown, 0.01),
        "top_5_percent": top_share(shown, 0.05),
        "average_popularity": float(average_popularity(ranking, popularity, POSITIONS).mean()),
        "popularity_lift": popularity_lift(ranking, popularity, queries.histories, POSITIONS),
        **_of_groups(queries, ranking, attributes),
    }
    return {name: value for name, value in found.items() if value is not None}


def _of_groups(queries: EvaluationQueries, ranking: np.ndarray, attributes: Attributes) -> dict[str, float | None]:
    if not attributes.columns:
        return {}
    shown = exposure(ranking, queries.num_items, POSITIONS, discounted=True)
    targets = queries.targets
    relevant = np.bincount(targets.items, 1 / targets.num_targets[targets.users], minlength=queries.num_items)
    target_weights = {FROM_CATALOGUE: np.ones(queries.num_items), FROM_RELEVANCE: relevant}
    distances: dict[str, float | None] = {
        target + name: distance(column.shares(shown), column.shares(weights))
        for name, column in attributes.columns.items()
        for target, weights in target_weights.items()
    }
    return {
        "intra_list_distance": float(intra_list_distance(ranking, attributes.units, POSITIONS).mean()),
        **distances,
    }


def title_of(measure: str) -> str:
    """Return the title of a measure; a distance of groups names its column and its target."""
    for before, target in ((FROM_CATALOGUE, "catalogue"), (FROM_RELEVANCE, "relevance")):
        if measure.startswith(before):
            return f"{measure.removeprefix(before)}\nfrom {target}"
    return MEASURES[measure]


def mean(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Average measures over seeds and splits, each over the parts that have it."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: float(np.mean([part[name] for part in parts if name in part])) for name in names}
