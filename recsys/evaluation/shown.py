"""What the first places of a system show, beside how right they are: the part of a report on exposure.

Shapes: B users, K places of a ranking.
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
from recsys.evaluation.questions import Questions

PLACES = 10
"""of a page that is measured"""
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
"""before the name of a column: how far its exposure lies from the shares in the catalogue, and in what is relevant"""


def measured(questions: Questions, ranking: np.ndarray, attributes: Attributes) -> dict[str, float]:
    """MEASURES of the first PLACES of rankings [B, K], and for each column how far its exposure lies from two targets.

    Items count by how often they are shown, groups by discounted exposure. Popularity is the share of the users known
    before the period who met the item. Relevance is what the users then met, each user counted once.
    """
    shown = exposure(ranking, questions.num_items, PLACES, discounted=False)
    popularity = questions.known.popularity / max(len(np.unique(questions.known.users)), 1)
    found: dict[str, float | None] = {
        "gini": gini(shown),
        "top_1_percent": top_share(shown, 0.01),
        "top_5_percent": top_share(shown, 0.05),
        "average_popularity": float(average_popularity(ranking, popularity, PLACES).mean()),
        "popularity_lift": popularity_lift(ranking, popularity, questions.histories, PLACES),
        **_of_groups(questions, ranking, attributes),
    }
    return {name: value for name, value in found.items() if value is not None}


def _of_groups(questions: Questions, ranking: np.ndarray, attributes: Attributes) -> dict[str, float | None]:
    if not attributes.columns:
        return {}
    shown = exposure(ranking, questions.num_items, PLACES, discounted=True)
    targets = questions.targets
    relevant = np.bincount(targets.items, 1 / targets.num_targets[targets.users], minlength=questions.num_items)
    wanted = {FROM_CATALOGUE: np.ones(questions.num_items), FROM_RELEVANCE: relevant}
    distances: dict[str, float | None] = {
        target + name: distance(column.shares(shown), column.shares(weights))
        for name, column in attributes.columns.items()
        for target, weights in wanted.items()
    }
    return {
        "intra_list_distance": float(intra_list_distance(ranking, attributes.units, PLACES).mean()),
        **distances,
    }


def title_of(measure: str) -> str:
    """For people; a distance of groups names its column and its target."""
    for before, target in ((FROM_CATALOGUE, "catalogue"), (FROM_RELEVANCE, "relevance")):
        if measure.startswith(before):
            return f"{measure.removeprefix(before)}\nfrom {target}"
    return MEASURES[measure]


def mean(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Over seeds and splits; a measure is that of those which have it."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: float(np.mean([part[name] for part in parts if name in part])) for name in names}
