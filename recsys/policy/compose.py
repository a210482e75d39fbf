"""The order of the policy: value, seen items, filters, boosts, greedy selection with caps, pins, explanations.

Shapes: B queries of a batch, C candidates of a query, S candidate sources, T objectives, P pins, K places, N items of
the catalogue, D dim of the vectors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recsys.contracts import PAD, Candidates, Query, Slate
from recsys.errors import BundleError, ConfigError
from recsys.expressions import Columns, suggestion
from recsys.policy.diversity import MaximalMarginalRelevance, Pool, Selection
from recsys.policy.explain import Evidence, explain
from recsys.policy.rules import CompiledRules, RuleSet
from recsys.policy.value import CompiledValue, ValueFormula

UNRANKED = "rank"
"""no probabilities came: the retrieval score is the utility"""
NOT_FINITE = "value:not-finite"
"""an item had no finite utility and went to the end"""
CAP_RELAXED = "rules:cap-relaxed"
"""a cap could not be kept"""
SHORT = "candidates:short"
"""fewer items than asked for"""


class Policy:
    """What turns probabilities into slates, before it knows a bundle."""

    def __init__(self, *, value: ValueFormula, diversity: MaximalMarginalRelevance) -> None:
        self.value = value
        self.diversity = diversity

    def to_document(self) -> dict[str, Any]:
        """A plain document for the bundle; from_document reads it."""
        return {
            "value": {"formula": self.value.formula, "weights": dict(self.value.weights)},
            "diversity": {"trade_off": self.diversity.trade_off, "window": self.diversity.window},
        }

    @staticmethod
    def from_document(document: Mapping[str, Any]) -> "Policy":
        """ConfigError names a key that is absent, unknown or out of range."""
        sections = _section("policy", document, ("value", "diversity"))
        value = _section("policy.value", sections["value"], ("formula", "weights"))
        diversity = _section("policy.diversity", sections["diversity"], ("trade_off", "window"))
        return Policy(value=ValueFormula(**value), diversity=MaximalMarginalRelevance(**diversity))

    def compile(
        self,
        rules: RuleSet,
        catalogue: Columns,
        types: Mapping[str, str],
        vectors: np.ndarray,
        objectives: Sequence[str],
        sources: Sequence[str],
        bundle_fingerprint: str,
    ) -> "CompiledPolicy":
        """Check everything against one bundle and make arrays of it.

        catalogue: columns [N], "item" holds the ids. types: of the columns that rules may read. vectors: [N, D],
        rows need not be of length 1, a row of zeros resembles nothing. objectives: of the last axis of the
        probabilities. sources: of the last axis of Candidates.source_scores.
        ConfigError for a rule or a formula that does not fit, BundleError for vectors that do not.
        """
        items = catalogue["item"]
        return CompiledPolicy(
            value=self.value.compile(objectives),
            diversity=self.diversity,
            rules=rules.compile(catalogue, types),
            items=items,
            row_of={item: row for row, item in enumerate(items.tolist())},
            vectors=vectors,
            lengths=_lengths(vectors, len(items)),
            sources=tuple(sources),
            bundle=bundle_fingerprint,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledPolicy:
    """A policy made ready for one bundle. It holds no state: the same queries get the same slates."""

    value: CompiledValue
    diversity: MaximalMarginalRelevance
    rules: CompiledRules
    items: np.ndarray
    """[N] object, ids"""
    row_of: Mapping[str, int]
    vectors: np.ndarray
    lengths: np.ndarray
    sources: tuple[str, ...]
    bundle: str

    def compose(
        self, queries: Sequence[Query], candidates: Candidates, probabilities: np.ndarray | None
    ) -> list[Slate]:
        """One slate a query; a query gets the same slate alone and in any batch.

        candidates: the items of a query are distinct; PAD and a score of -inf are never shown. probabilities:
        [B, C, T] float32, or None when the ranker was skipped.
        """
        _check_shapes(queries, candidates, probabilities)
        if not queries:
            return []
        batch = self._selected(queries, candidates, probabilities)
        return [self._slate(index, query, batch) for index, query in enumerate(queries)]

    def rows(self, queries: Sequence[Query], candidates: Candidates, probabilities: np.ndarray | None) -> np.ndarray:
        """The items of the same slates and nothing else: [B, K] catalogue rows, K of the longest, PAD behind the last."""
        _check_shapes(queries, candidates, probabilities)
        if not queries:
            return np.empty((0, 0), dtype=np.int64)
        batch = self._selected(queries, candidates, probabilities)
        columns = batch.selection.columns
        return np.where(columns >= 0, np.take_along_axis(batch.pool.rows, np.maximum(columns, 0), axis=1), PAD)

    def _selected(self, queries: Sequence[Query], candidates: Candidates, probabilities: np.ndarray | None) -> "_Batch":
        offer = self._offer(queries, candidates, probabilities)
        pool = self._pool(queries, offer)
        selection = self.diversity.select(pool, self.vectors, self.lengths, self.rules.caps)
        return _Batch(candidates, probabilities, offer, pool, selection)

    def _offer(self, queries: Sequence[Query], candidates: Candidates, probabilities: np.ndarray | None) -> "_Offer":
        rows = candidates.items
        raw = candidates.scores if probabilities is None else self.value(probabilities)
        offered = (rows != PAD) & ~np.isneginf(candidates.scores)
        boosted = self.rules.boost(np.where(offered, raw, np.nan), rows)
        utility = np.where(np.isfinite(boosted), boosted, np.nan)
        order = np.lexsort((rows, np.where(np.isnan(utility), np.inf, -utility)), axis=-1)
        eligible = offered & self._showable(queries, rows)
        return _Offer(order, *(np.take_along_axis(one, order, axis=1) for one in (rows, utility, offered, eligible)))

    def _showable(self, queries: Sequence[Query], rows: np.ndarray) -> np.ndarray:
        """[B, any] bool: neither filtered, nor seen, nor excluded by the query."""
        num_items = len(self.items)
        hidden = [
            index * num_items + row
            for index, query in enumerate(queries)
            for item in (*(event.item for event in query.history), *query.exclude)
            if (row := self.row_of.get(item)) is not None
        ]
        keys = rows + num_items * np.arange(len(queries))[:, None]
        return self.rules.allowed[rows] & ~np.isin(keys, np.array(hidden, dtype=np.int64))

    def _pool(self, queries: Sequence[Query], offer: "_Offer") -> Pool:
        """The candidates, and behind them one column for the item of each pin."""
        pins = self.rules.pins
        pin_rows = np.tile(np.array([pin.row for pin in pins], dtype=np.int64), (len(queries), 1))
        shown = self._shown_pins(queries, pin_rows)
        columns = _pin_columns(offer, pin_rows)
        eligible = np.concatenate([offer.eligible, np.zeros_like(shown)], axis=1)
        which = np.nonzero(shown)
        eligible[which[0], columns[which]] = False
        sizes, places = _places(queries, eligible.sum(axis=1), shown, [pin.position for pin in pins])
        pinned = np.full((len(queries), sizes.max()), -1, dtype=np.int64)
        pinned[which[0], places[which]] = columns[which]
        unknown = np.full(pin_rows.shape, np.nan)
        return Pool(
            rows=np.concatenate([offer.rows, pin_rows], axis=1),
            utility=np.concatenate([offer.utility, unknown], axis=1),
            eligible=eligible,
            pinned=pinned,
            sizes=sizes,
        )

    def _shown_pins(self, queries: Sequence[Query], pin_rows: np.ndarray) -> np.ndarray:
        """[B, P] bool: on this surface, within the page and showable."""
        fits = [
            [pin.surface in (None, query.surface) and pin.position < query.k for pin in self.rules.pins]
            for query in queries
        ]
        return np.array(fits, dtype=bool).reshape(pin_rows.shape) & self._showable(queries, pin_rows)

    def _slate(self, index: int, query: Query, batch: "_Batch") -> Slate:
        columns = batch.selection.columns[index, : batch.pool.sizes[index]]
        rows = batch.pool.rows[index, columns]
        evidence = Evidence(
            items=self.items[rows].tolist(),
            utility=batch.pool.utility[index, columns],
            candidates=batch.origins(index)[columns],
            source_scores=batch.candidates.source_scores[index],
            probabilities=None if batch.probabilities is None else batch.probabilities[index],
            rules=self._touched(index, query, columns, batch),
        )
        return Slate(
            user=query.user,
            request_id=query.request_id,
            items=explain(evidence, self.sources, self.value.objectives),
            degraded=batch.degraded(index, query.k),
            bundle=self.bundle,
            rules=self.rules.hash,
        )

    def _touched(self, index: int, query: Query, columns: np.ndarray, batch: "_Batch") -> dict[str, np.ndarray]:
        """name of each rule -> [K] bool; a cap touched what it had cost a better place."""
        rows = batch.pool.rows[index, columns]
        held = batch.pool.pinned[index, : len(columns)] >= 0
        pins = [pin for pin in self.rules.pins if pin.surface in (None, query.surface)]
        passed_over = batch.selection.passed_over[:, index, columns]
        return {
            **dict(zip(self.rules.boosts, self.rules.boosted[:, rows], strict=True)),
            **{pin.name: held & (rows == pin.row) for pin in pins},
            **dict(zip([cap.name for cap in self.rules.caps], passed_over, strict=True)),
        }


@dataclass(frozen=True, slots=True)
class _Offer:
    """The candidates [B, C] in plain order: utility falling, then row rising, unknown utilities last."""

    order: np.ndarray
    """[B, C] int64, index among the candidates as they came"""
    rows: np.ndarray
    utility: np.ndarray
    offered: np.ndarray
    eligible: np.ndarray


@dataclass(frozen=True, slots=True)
class _Batch:
    """All that the slates of a batch are built from."""

    candidates: Candidates
    probabilities: np.ndarray | None
    offer: _Offer
    pool: Pool
    selection: Selection

    def origins(self, index: int) -> np.ndarray:
        """Index among the candidates for each column of the pool, -1 for the columns of the pins."""
        order = self.offer.order[index]
        return np.concatenate([order, np.full(self.pool.rows.shape[1] - len(order), -1)])

    def degraded(self, index: int, k: int) -> tuple[str, ...]:
        happened = {
            UNRANKED: self.probabilities is None,
            NOT_FINITE: bool(np.isnan(self.offer.utility[index][self.offer.eligible[index]]).any()),
            CAP_RELAXED: bool(self.selection.relaxed[index]),
            SHORT: bool(self.pool.sizes[index] < k),
        }
        reasons = [reason for reason, holds in happened.items() if holds]
        return tuple(dict.fromkeys([*self.candidates.degraded[index], *reasons]))


def _pin_columns(offer: _Offer, pin_rows: np.ndarray) -> np.ndarray:
    """[B, P] column of each pinned item: its own among the candidates, or the one behind them."""
    same = (offer.rows[:, None, :] == pin_rows[:, :, None]) & offer.offered[:, None, :]
    behind = offer.rows.shape[1] + np.arange(pin_rows.shape[1])
    first = same.argmax(axis=2) if same.size else np.zeros(pin_rows.shape, dtype=np.int64)
    return np.where(same.any(axis=2), first, behind)


def _places(
    queries: Sequence[Query], num_eligible: np.ndarray, shown: np.ndarray, positions: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Sizes of the slates [B] and places of the pins [B, P], which move up where there is too little above them."""
    sizes = np.minimum([query.k for query in queries], num_eligible + shown.sum(axis=1))
    reachable = num_eligible[:, None] + np.cumsum(shown, axis=1) - 1
    return sizes, np.minimum(np.array(positions, dtype=np.int64), reachable)


def _lengths(vectors: np.ndarray, num_items: int) -> np.ndarray:
    if vectors.ndim != 2 or len(vectors) != num_items:
        raise BundleError(
            f"the item vectors are {vectors.shape}, the catalogue has {num_items} items; build both again"
        )
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float32))
    if broken := np.flatnonzero(~np.isfinite(lengths)).tolist():
        raise BundleError(f"the item vector of row {broken[0]} is not finite; train again")
    return lengths


def _check_shapes(queries: Sequence[Query], candidates: Candidates, probabilities: np.ndarray | None) -> None:
    shapes = {candidates.items.shape, candidates.scores.shape, candidates.source_scores.shape[:2]}
    if probabilities is not None:
        shapes.add(probabilities.shape[:2])
    if len(shapes) > 1 or len(queries) != len(candidates.items) or len(queries) != len(candidates.degraded):
        raise ValueError(f"{len(queries)} queries do not go with candidates and probabilities of the shapes {shapes}")


def _section(where: str, document: Any, keys: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(document, Mapping):
        raise ConfigError(f"{where} is a {type(document).__name__}; write a mapping with {' and '.join(keys)}")
    if unknown := [str(key) for key in document if key not in keys]:
        raise ConfigError(f"{where} has the unknown key {unknown[0]!r}; {suggestion(unknown[0], keys)}")
    if absent := [key for key in keys if key not in document]:
        raise ConfigError(f"{where} lacks the key {absent[0]!r}; give {' and '.join(keys)}")
    return dict(document)
