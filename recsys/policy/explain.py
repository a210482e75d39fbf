"""Why each item stands on the slate: its sources, its probabilities, the rules that touched it and what chance did.

Shapes: C candidates of a query, S candidate sources, K places, T objectives.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from recsys.contracts import Slate, SlateItem
from recsys.policy.batch import Batch
from recsys.policy.compiled import CompiledRules
from recsys.policy.popularity import TOLD

RULES_SOURCE = "rules"
"""source of an item that no candidate source offered and a pin put there"""


def slates(
    batch: Batch,
    items: np.ndarray,
    rules: CompiledRules,
    sources: Sequence[str],
    objectives: Sequence[str],
    bundle: str,
) -> list[Slate]:
    """One a query. A utility that is unknown is shown as 0."""
    return [
        Slate(
            user=query.user,
            request_id=query.request_id,
            items=_items(batch, index, items, rules, sources, objectives),
            degraded=batch.degraded(index, rules.quotas.broken(int(batch.selection.relaxed[index]))),
            bundle=bundle,
            rules=rules.hash,
        )
        for index, query in enumerate(batch.queries)
    ]


def _items(
    batch: Batch,
    index: int,
    items: np.ndarray,
    rules: CompiledRules,
    sources: Sequence[str],
    objectives: Sequence[str],
) -> tuple[SlateItem, ...]:
    pool, selection = batch.pool, batch.selection
    columns = selection.columns[index, : pool.sizes[index]]
    came = batch.offer.order[index, columns]
    candidates = np.where(came < batch.candidates.items.shape[1], came, -1)
    utility = pool.utility[index, columns]
    ranks = np.cumsum(pool.eligible[index])[columns] - 1
    pinned = pool.pinned[index, : len(columns)] >= 0
    told = zip(
        items[pool.rows[index, columns]].tolist(),
        np.where(np.isnan(utility), 0, utility).tolist(),
        offered_by(batch.candidates.source_scores[index], candidates, sources),
        _probabilities(batch, index, candidates, objectives),
        _touching(batch, index, columns, came, rules),
        np.where(pinned, -1, ranks).tolist(),
        selection.propensities[index, : len(columns)].tolist(),
        selection.explored[index, : len(columns)].tolist(),
        strict=True,
    )
    return tuple(
        SlateItem(
            item=item,
            utility=value,
            sources=names,
            probabilities=probabilities,
            rules=touched,
            rank=rank,
            propensity=propensity,
            explored=explored,
        )
        for item, value, names, probabilities, touched, rank, propensity, explored in told
    )


def offered_by(source_scores: np.ndarray, candidates: np.ndarray, sources: Sequence[str]) -> list[tuple[str, ...]]:
    """Names of the sources that offered each of these candidates [K], the one that ranks it highest first.

    The scores [C, S] of different sources do not compare, ranks within the query do. Equal ranks keep the order of
    `sources`; -1 was offered by none and came by a rule.
    """
    offered = candidates[candidates >= 0]
    shown = source_scores[offered]
    falling = np.sort(-source_scores, axis=0)
    ranks = [np.searchsorted(column, -values) for column, values in zip(falling.T, shown.T, strict=True)]
    order = np.argsort(np.where(np.isnan(shown), np.inf, np.reshape(ranks, shown.T.shape).T), axis=1, kind="stable")
    num_offers = (~np.isnan(shown)).sum(axis=1)
    names = iter(
        tuple(sources[place] for place in row[:num])
        for row, num in zip(order.tolist(), num_offers.tolist(), strict=True)
    )
    return [next(names) if candidate >= 0 else (RULES_SOURCE,) for candidate in candidates.tolist()]


def _probabilities(
    batch: Batch, index: int, candidates: np.ndarray, objectives: Sequence[str]
) -> list[Mapping[str, float]]:
    """What is not finite is left out, since JSON cannot say it."""
    if batch.probabilities is None or not batch.probabilities.shape[1]:
        return [{} for _ in candidates]
    shown = np.where(candidates[:, None] >= 0, batch.probabilities[index][candidates], np.nan)
    if np.isfinite(shown).all():
        return [dict(zip(objectives, row, strict=True)) for row in shown.tolist()]
    return [
        {name: value for name, value in zip(objectives, row, strict=True) if math.isfinite(value)}
        for row in shown.tolist()
    ]


def _touching(
    batch: Batch, index: int, columns: np.ndarray, came: np.ndarray, rules: CompiledRules
) -> list[Mapping[str, str]]:
    """name of each rule that touched an item, and of the dial -> what it did to it."""
    touched: list[dict[str, str]] = [{} for _ in columns]
    places, where = _touches(batch, index, columns, came, rules)
    named = [(rules.rules[place].name, rules.effects[place]) for place in places]
    for which, column in zip(*(one.tolist() for one in np.nonzero(where)), strict=True):
        name, does = named[which]
        touched[column][name] = does
    if batch.offer.discounts is not None:
        for mine, factor in zip(touched, batch.offer.discounts[index, came].tolist(), strict=True):
            mine |= {TOLD: f"utility x{factor:.3g}"} if factor != 1 else {}
    return list(touched)


def _touches(
    batch: Batch, index: int, columns: np.ndarray, came: np.ndarray, rules: CompiledRules
) -> tuple[list[int], np.ndarray]:
    """Places of rules in the document, and where each touched what is shown, [number of them, K] bool."""
    active, holds = batch.offer.applied.active[index], batch.offer.applied.holds[index]
    rows, held = batch.pool.rows[index, columns], batch.pool.pinned[index, : len(columns)] >= 0
    scales = [place for place in rules.scales.tolist() if active[place]]
    touches: list[tuple[int, np.ndarray]] = list(zip(scales, holds[came][:, scales].T, strict=True))
    for pin in rules.pins:
        if active[pin.rule] and held.any():
            touches.append((pin.rule, held & (holds[came, pin.rule] if pin.row is None else rows == pin.row)))
    cost = batch.selection.passed_over[index, columns]
    if cost.any():
        touches += zip(rules.quota_places.tolist(), (cost & rules.quotas.bits[:, None]) != 0, strict=True)
    for place, balance in rules.balances:
        if active[place]:
            touches.append((place, balance.factors([batch.queries[index]], rows[None])[0] != 1))
    touches.sort(key=lambda one: one[0])
    return [place for place, _ in touches], np.array([where for _, where in touches]).reshape(
        len(touches), len(columns)
    )
