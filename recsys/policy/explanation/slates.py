"""Slates with explanations: sources, probabilities, applied rules and propensities of each item.

Shapes: C candidates of a query, S candidate sources, K positions, T objectives.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from recsys.contracts import Slate, SlateItem
from recsys.policy import cold_share
from recsys.policy.popularity import REASON_KEY
from recsys.policy.rules.compiled_rules import CompiledRules
from recsys.policy.slate.slate_batch import SlateBatch

RULES_SOURCE = "rules"
"""source of a pinned item that no candidate source offered"""


def slates(
    batch: SlateBatch,
    items: np.ndarray,
    rules: CompiledRules,
    sources: Sequence[str],
    objectives: Sequence[str],
    bundle: str,
) -> list[Slate]:
    """Return one slate per query. An unknown utility is reported as 0."""
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
    batch: SlateBatch,
    index: int,
    items: np.ndarray,
    rules: CompiledRules,
    sources: Sequence[str],
    objectives: Sequence[str],
) -> tuple[SlateItem, ...]:
    pool, selection = batch.pool, batch.selection
    columns = selection.columns[index, : pool.sizes[index]]
    sources_of_columns = batch.scored.order[index, columns]
    candidates = np.where(sources_of_columns < batch.candidates.rows.shape[1], sources_of_columns, -1)
    utility = pool.utility[index, columns]
    ranks = np.cumsum(pool.eligible[index])[columns] - 1
    pinned = pool.pinned[index, : len(columns)] >= 0
    columns_of_items = zip(
        items[pool.rows[index, columns]].tolist(),
        np.where(np.isnan(utility), 0, utility).tolist(),
        offering_sources(batch.candidates.source_scores[index], candidates, sources),
        _probabilities(batch, index, candidates, objectives),
        _touching(batch, index, columns, sources_of_columns, rules),
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
        for item, value, names, probabilities, touched, rank, propensity, explored in columns_of_items
    )


def offering_sources(
    source_scores: np.ndarray, candidates: np.ndarray, sources: Sequence[str]
) -> list[tuple[str, ...]]:
    """Return the names of the sources that offered each candidate [K], the one that ranks it highest first.

    Scores [C, S] of different sources are not comparable, ranks within the query are. Equal ranks keep the order of
    `sources`; a candidate of -1 was offered by none and came by a rule.
    """
    offered = candidates[candidates >= 0]
    shown = source_scores[offered]
    falling = np.sort(-source_scores, axis=0)
    ranks = [np.searchsorted(column, -values) for column, values in zip(falling.T, shown.T, strict=True)]
    order = np.argsort(np.where(np.isnan(shown), np.inf, np.reshape(ranks, shown.T.shape).T), axis=1, kind="stable")
    num_offers = (~np.isnan(shown)).sum(axis=1)
    names = iter(
        tuple(sources[source] for source in row[:num])
        for row, num in zip(order.tolist(), num_offers.tolist(), strict=True)
    )
    return [next(names) if candidate >= 0 else (RULES_SOURCE,) for candidate in candidates.tolist()]


def _probabilities(
    batch: SlateBatch, index: int, candidates: np.ndarray, objectives: Sequence[str]
) -> list[Mapping[str, float]]:
    """Return probabilities by objective; non-finite values are left out, since JSON has none."""
    probabilities = batch.candidates.probabilities
    if probabilities is None or not probabilities.shape[1]:
        return [{} for _ in candidates]
    shown = np.where(candidates[:, None] >= 0, probabilities[index][candidates], np.nan)
    if np.isfinite(shown).all():
        return [dict(zip(objectives, row, strict=True)) for row in shown.tolist()]
    return [
        {name: value for name, value in zip(objectives, row, strict=True) if math.isfinite(value)}
        for row in shown.tolist()
    ]


def _touching(
    batch: SlateBatch, index: int, columns: np.ndarray, came: np.ndarray, rules: CompiledRules
) -> list[Mapping[str, str]]:
    """Return, per shown item, rule name -> effect, for the rules, the popularity dial and the kept positions that moved it."""
    touched: list[dict[str, str]] = [{} for _ in columns]
    touching, where = _touches(batch, index, columns, came, rules)
    named = [(rules.rules[rule].name, getattr(rules.effects[rule], "text", "")) for rule in touching]
    for which, column in zip(*(one.tolist() for one in np.nonzero(where)), strict=True):
        name, does = named[which]
        touched[column][name] = does
    if batch.scored.discounts is not None:
        for reasons, factor in zip(touched, batch.scored.discounts[index, came].tolist(), strict=True):
            reasons |= {REASON_KEY: f"utility x{factor:.3g}"} if factor != 1 else {}
    if batch.scored.raised is not None:
        place = np.arange(len(columns))
        by_utility = ~batch.selection.explored[index, place] & (batch.pool.pinned[index, place] < 0)
        for reasons, raised in zip(touched, (batch.scored.raised[index, came] & by_utility).tolist(), strict=True):
            reasons |= {cold_share.REASON_KEY: cold_share.REASON} if raised else {}
    return list(touched)


def _touches(
    batch: SlateBatch, index: int, columns: np.ndarray, came: np.ndarray, rules: CompiledRules
) -> tuple[list[int], np.ndarray]:
    """Return the indices of the rules that touched shown items, and [number of them, K] bool where."""
    active, holds = batch.scored.applied.active[index], batch.scored.applied.holds[index]
    rows, held = batch.pool.rows[index, columns], batch.pool.pinned[index, : len(columns)] >= 0
    scales = [rule for rule in rules.scales.tolist() if active[rule]]
    touches: list[tuple[int, np.ndarray]] = list(zip(scales, holds[came][:, scales].T, strict=True))
    for rule, hold in rules.holds:
        if active[rule] and held.any():
            touches.append((rule, held & (holds[came, rule] if hold.row is None else rows == hold.row)))
    cost = batch.selection.skipped[index, columns]
    if cost.any():
        touches += zip(rules.quotas.rules.tolist(), (cost & rules.quotas.bits[:, None]) != 0, strict=True)
    for rule, scale in rules.query_scales:
        if active[rule]:
            factors = scale.factors([batch.queries[index]], rows[None])[0]
            touches.append((rule, (factors != 1) & holds[came, rule]))
    touches.sort(key=lambda one: one[0])
    return [rule for rule, _ in touches], np.array([where for _, where in touches]).reshape(len(touches), len(columns))
