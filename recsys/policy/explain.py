"""Why each item stands on the slate: its sources, its probabilities and the rules that touched it.

Shapes: C candidates of a query, S candidate sources, K places, T objectives.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recsys.contracts import SlateItem

RULES_SOURCE = "rules"
"""source of an item that no candidate source offered and a pin put there"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known of the items of one slate, place by place."""

    items: Sequence[str]
    utility: np.ndarray
    """[K] float64, NaN where unknown"""
    candidates: np.ndarray
    """[K] int64, index among the candidates of the query, -1 for an item that only a pin brought"""
    source_scores: np.ndarray
    """[C, S] float32, NaN where the source did not offer the item"""
    probabilities: np.ndarray | None
    """[C, T] float32"""
    rules: Mapping[str, np.ndarray]
    """name of each rule -> [K] bool, True where it touched the item"""


def explain(evidence: Evidence, sources: Sequence[str], objectives: Sequence[str]) -> tuple[SlateItem, ...]:
    """The items of one slate. A utility that is unknown is shown as 0."""
    columns = zip(
        evidence.items,
        np.where(np.isnan(evidence.utility), 0, evidence.utility).tolist(),
        _sources(evidence, sources),
        _probabilities(evidence, objectives),
        _touching(evidence),
        strict=True,
    )
    return tuple(
        SlateItem(item=item, utility=utility, sources=offered_by, probabilities=probabilities, rules=rules)
        for item, utility, offered_by, probabilities, rules in columns
    )


def strongest_sources(
    source_scores: np.ndarray, candidates: np.ndarray, sources: Sequence[str]
) -> list[tuple[str, ...]]:
    """Names of the sources that offered each of these candidates, the one that ranks it highest first.

    The scores of different sources do not compare, ranks within the query do. Equal ranks keep the order of `sources`.
    """
    shown = source_scores[candidates]
    falling = np.sort(-source_scores, axis=0)
    ranks = [np.searchsorted(column, -values) for column, values in zip(falling.T, shown.T, strict=True)]
    order = np.argsort(np.where(np.isnan(shown), np.inf, np.reshape(ranks, shown.T.shape).T), axis=1, kind="stable")
    num_offers = (~np.isnan(shown)).sum(axis=1)
    return [
        tuple(sources[place] for place in row[:num])
        for row, num in zip(order.tolist(), num_offers.tolist(), strict=True)
    ]


def _sources(evidence: Evidence, sources: Sequence[str]) -> Iterator[tuple[str, ...]]:
    offered = evidence.candidates[evidence.candidates >= 0]
    names = iter(strongest_sources(evidence.source_scores, offered, sources))
    return (next(names) if candidate >= 0 else (RULES_SOURCE,) for candidate in evidence.candidates.tolist())


def _probabilities(evidence: Evidence, objectives: Sequence[str]) -> list[Mapping[str, float]]:
    """What is not finite is left out, since JSON cannot say it."""
    if evidence.probabilities is None or not len(evidence.probabilities):
        return [{} for _ in evidence.items]
    shown = evidence.probabilities[evidence.candidates]
    shown = np.where(evidence.candidates[:, None] >= 0, shown, np.nan)
    return [
        {name: value for name, value in zip(objectives, row, strict=True) if math.isfinite(value)}
        for row in shown.tolist()
    ]


def _touching(evidence: Evidence) -> list[tuple[str, ...]]:
    touched = {name: places.tolist() for name, places in evidence.rules.items()}
    return [tuple(name for name, places in touched.items() if places[place]) for place in range(len(evidence.items))]
