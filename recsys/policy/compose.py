"""The policy pipeline: value, rules, popularity, utility order, kept positions, pins, then per position quotas, diversity and
exploration.

Shapes: B queries of a batch, C candidates of a query and behind them the items of pins, S candidate sources, T objectives,
K positions, N items of the catalogue, D dim of the vectors.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from recsys.contracts import PAD, CandidateBatch, Query, Slate
from recsys.errors import BundleError, ConfigError
from recsys.expressions import Columns, suggestion
from recsys.jit import compiled
from recsys.policy.cold_share import ColdShare
from recsys.policy.diversity import DIVERSITIES, Diversity
from recsys.policy.diversity.diversity import ItemSimilarity
from recsys.policy.excluded_items import HiddenItems, excluded_rows
from recsys.policy.explanation.slates import slates
from recsys.policy.exploration import EXPLORATIONS, Exploration
from recsys.policy.interleaving import InterleavedPolicy
from recsys.policy.kind_documents import from_document, to_document
from recsys.policy.overrides import variant_of
from recsys.policy.pool import EligiblePool
from recsys.policy.popularity import CompiledDial, PopularityDial, dial_from_document
from recsys.policy.repeat import Repeat, SeenFilter, repeat_from_document
from recsys.policy.rules import RuleSet
from recsys.policy.rules.compiled_rules import CompiledRules
from recsys.policy.rules.effects import QueryScale
from recsys.policy.slate.pins import place_pins
from recsys.policy.slate.row_sets import rows_in_sets
from recsys.policy.slate.selection import QuotaLimits, select
from recsys.policy.slate.slate_batch import ScoredCandidates, SlateBatch, utility_order
from recsys.policy.value import CompiledValue, ValueFormula

INHERITED = {"popularity": PopularityDial.off().to_document(), "repeat": Repeat.never().to_document()}
"""defaults of sections that older bundles lack"""
REFUSED_OVERRIDES = "experiment:refused"
"""overrides of an arm do not fit this bundle: the slate is that of its own policy"""
MAX_VARIANTS = 64
"""policies with overrides that are kept; experiments have a few arms"""


class Policy:
    """Configuration of value, popularity, diversity, exploration and repeats; `compile` binds it to a bundle."""

    def __init__(
        self,
        *,
        value: ValueFormula,
        popularity: PopularityDial,
        diversity: Diversity,
        exploration: Exploration,
        repeat: Repeat,
    ) -> None:
        self.value = value
        self.popularity = popularity
        self.diversity = diversity
        self.exploration = exploration
        self.repeat = repeat

    def expand(self, target: str, means: Mapping[str, str]) -> "Policy":
        """Return the policy with `ValueFormula.of_target` and `ValueFormula.expand_means` applied."""
        return Policy(
            value=self.value.of_target(target).expand_means(means),
            popularity=self.popularity,
            diversity=self.diversity,
            exploration=self.exploration,
            repeat=self.repeat,
        )

    def to_document(self) -> dict[str, Any]:
        """Return a plain document for the bundle; from_document reads it."""
        return {
            "value": {"formula": self.value.formula, "weights": dict(self.value.weights)},
            "popularity": self.popularity.to_document(),
            "diversity": to_document(self.diversity, DIVERSITIES),
            "exploration": to_document(self.exploration, EXPLORATIONS),
            "repeat": self.repeat.to_document(),
        }

    @staticmethod
    def from_document(document: Mapping[str, Any]) -> "Policy":
        """Read a document; ConfigError names a key that is absent, unknown or out of range.

        Without `popularity` the dial is off, without `repeat` no item is shown again.
        """
        own = document if not isinstance(document, Mapping) else {**INHERITED, **document}
        sections = _section("policy", own, ("value", "popularity", "diversity", "exploration", "repeat"))
        return Policy(
            value=ValueFormula(**_section("policy.value", sections["value"], ("formula", "weights"))),
            popularity=dial_from_document(sections["popularity"]),
            diversity=from_document("policy.diversity", _with_span(sections["diversity"]), DIVERSITIES, Diversity),
            exploration=from_document(
                "policy.exploration", _without_rate(sections["exploration"]), EXPLORATIONS, Exploration
            ),
            repeat=repeat_from_document(sections["repeat"]),
        )

    def compile(
        self,
        rules: RuleSet,
        catalogue: Columns,
        types: Mapping[str, str],
        request_types: Mapping[str, str],
        vectors: np.ndarray,
        objectives: Sequence[str],
        sources: Sequence[str],
        bundle_fingerprint: str,
        popularity: np.ndarray | None = None,
        withdrawn: np.ndarray | None = None,
        seen: SeenFilter | None = None,
        cold: ColdShare | None = None,
    ) -> "CompiledPolicy":
        """Validate the policy and the rules against one bundle and compile them to arrays.

        catalogue: columns [N], "item" holds the ids. types: of the columns that rules may read. request_types: of
        `user.column` and `context.column`. vectors: [N, D], any length; a row of zeros is similar to
        nothing. objectives: of the last axis of the probabilities. sources: of the last axis of
        Candidates.source_scores. popularity: [N] share of each item in known events, None where unknown. withdrawn: [N]
        bool, items that are never shown, not even by a pin. seen: filter of items in the history; None removes all of them.
        cold: positions that are kept for items without events; None keeps none.
        ConfigError for a rule or a formula that does not fit the bundle, BundleError for vectors or a popularity.
        """
        _check_vectors(vectors, len(catalogue["item"]))
        return CompiledPolicy(
            value=self.value.compile(objectives),
            popularity=self.popularity.compile(catalogue["item"], popularity),
            diversity=self.diversity,
            similarity=self.diversity.similarity(vectors, catalogue, types),
            exploration=self.exploration,
            rules=CompiledRules.compile(rules, catalogue, types, request_types),
            items=catalogue["item"],
            sources=tuple(sources),
            bundle=bundle_fingerprint,
            withdrawn=withdrawn,
            seen=SeenFilter.never() if seen is None else seen,
            hiding=HiddenItems(types=types, column=catalogue.__getitem__),
            cold=cold,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledPolicy:
    """Policy compiled for one bundle. Stateless: the same queries get the same slates."""

    value: CompiledValue
    popularity: CompiledDial
    diversity: Diversity
    similarity: ItemSimilarity
    exploration: Exploration
    rules: CompiledRules
    items: np.ndarray
    """[N] object, ids"""
    sources: tuple[str, ...]
    bundle: str
    seen: SeenFilter
    hiding: HiddenItems
    """index of the values in Query.hidden"""
    withdrawn: np.ndarray | None = None
    """[N] bool, withdrawn items; None where there are none"""
    cold: ColdShare | None = None
    variants: "dict[str, CompiledPolicy | InterleavedPolicy | None]" = field(
        init=False, default_factory=dict, repr=False, compare=False
    )
    """overrides as JSON -> the policy with them, None where they do not fit this bundle"""

    def excluded_rows(self, queries: Sequence[Query]) -> list[list[int]]:
        """Return [B] ascending catalogue rows that each query may not be shown: barred by history, excluded or hidden."""
        return excluded_rows(queries, self.rules.row_of, self.seen, self.hiding)

    def exposure_keys(self, rows: np.ndarray) -> list[str]:
        """Return the keys of Query.exposure that exposure rules and the dial read for candidate rows [C].

        PAD and rows beyond the catalogue are ignored.
        """
        offered = rows[(rows >= 0) & (rows < len(self.items))]
        known = np.concatenate([offered, self.rules.pinned_rows])
        parts: list[QueryScale | CompiledDial] = [*(scale for _, scale in self.rules.query_scales), self.popularity]
        return [key for part in parts for key in part.exposure_keys(known)]

    def compose(self, queries: Sequence[Query], candidates: CandidateBatch) -> list[Slate]:
        """Return one slate per query, independent of the batch.

        candidates: distinct items per query; PAD and a score of -inf are never shown.
        """
        if not queries:
            return []
        if any(query.policy for query in queries):
            return self._compose_apart(queries, candidates)
        batch = self.fill(queries, candidates)
        return slates(batch, self.items, self.rules, self.sources, self.value.objectives, self.bundle)

    def _compose_apart(self, queries: Sequence[Query], candidates: CandidateBatch) -> list[Slate]:
        """Return the slates of queries with overrides: those with the same ones together."""
        found: dict[int, Slate] = {}
        for policy, indices, flags in self._apart(queries):
            own = [replace(queries[index], policy={}) for index in indices]
            for index, slate in zip(indices, policy.compose(own, candidates.at(indices)), strict=True):
                found[index] = replace(slate, degraded=(*slate.degraded, *flags)) if flags else slate
        return [found[index] for index in range(len(queries))]

    def _apart(
        self, queries: Sequence[Query]
    ) -> list[tuple["CompiledPolicy | InterleavedPolicy", list[int], tuple[str, ...]]]:
        """Group queries by their overrides: the policy with them, its queries, and flags of overrides that do not fit."""
        groups: dict[str, list[int]] = {}
        for index, query in enumerate(queries):
            groups.setdefault(json.dumps(query.policy, sort_keys=True) if query.policy else "", []).append(index)
        found: list[tuple[CompiledPolicy | InterleavedPolicy, list[int], tuple[str, ...]]] = []
        for indices in groups.values():
            policy = self.variant(queries[indices[0]].policy)
            found.append((policy or self, indices, () if policy is not None else (REFUSED_OVERRIDES,)))
        return found

    def variant(self, overrides: Mapping[str, Any]) -> "CompiledPolicy | InterleavedPolicy | None":
        """Return the policy with overrides, made once; None where they do not fit."""
        if not overrides:
            return self
        text = json.dumps(overrides, sort_keys=True)
        if text not in self.variants:
            if len(self.variants) >= MAX_VARIANTS:
                self.variants.clear()
            try:
                self.variants[text] = variant_of(self, overrides)
            except ConfigError:  # a slate without the arm's overrides is better than none; its flag says so
                self.variants[text] = None
        return self.variants[text]

    def rows(self, queries: Sequence[Query], candidates: CandidateBatch) -> np.ndarray:
        """Return only the items of the slates: [B, K] catalogue rows, K of the longest slate, PAD behind the last."""
        if not queries:
            return np.empty((0, 0), dtype=np.int64)
        if any(query.policy for query in queries):
            return self._rows_apart(queries, candidates)
        batch = self.fill(queries, candidates)
        columns = batch.selection.columns
        return np.where(columns >= 0, np.take_along_axis(batch.pool.rows, np.maximum(columns, 0), axis=1), PAD)

    def _rows_apart(self, queries: Sequence[Query], candidates: CandidateBatch) -> np.ndarray:
        parts = [
            (indices, policy.rows([replace(queries[index], policy={}) for index in indices], candidates.at(indices)))
            for policy, indices, _ in self._apart(queries)
        ]
        rows = np.full((len(queries), max(part.shape[1] for _, part in parts)), PAD, dtype=np.int64)
        for indices, part in parts:
            rows[indices, : part.shape[1]] = part
        return rows

    def fill(self, queries: Sequence[Query], candidates: CandidateBatch) -> SlateBatch:
        """Return the slates of a batch with their inputs."""
        _check_shapes(queries, candidates)
        scored = self._score_candidates(queries, candidates, self.excluded_rows(queries))
        pool = place_pins(queries, self.rules, scored)
        limits = self._limits(queries, pool, scored)
        histories = [_history(self.rules.row_of, query) for query in queries]
        ranked = candidates.probabilities is not None
        scoring = self.diversity.scoring(pool, self.similarity, histories, ranked=ranked)
        return SlateBatch(
            queries=queries,
            candidates=candidates,
            without_uncertainty=self.exploration.needs_uncertainty and scored.utility_std is None,
            unknown=[self.hiding.unknown(query) for query in queries],
            scored=scored,
            pool=pool,
            selection=select(
                pool,
                limits,
                self.diversity,
                scoring,
                self.exploration,
                self.exploration.draws(queries, pool, scored.utility_std, scoring.spans),
            ),
        )

    def _score_candidates(
        self, queries: Sequence[Query], candidates: CandidateBatch, excluded: Sequence[Sequence[int]]
    ) -> ScoredCandidates:
        """Apply value, rules and popularity to the candidates and, appended to them, the items of pins."""
        raw = candidates.scores if candidates.probabilities is None else self.value(candidates.probabilities)
        offered = (candidates.rows != PAD) & ~np.isneginf(candidates.scores)
        rows = _followed_by(candidates.rows, np.tile(self.rules.pinned_rows, (len(queries), 1)))
        applied = self.rules(queries, rows)
        discounts = self.popularity.factors(queries, rows)
        factors = (applied.factors if discounts is None else applied.factors * discounts)[:, : offered.shape[1]]
        utility = scale_utility(np.where(offered, raw, np.nan), factors)
        utility_std = self._utility_std(candidates, utility, factors)
        padded = partial(_padded, width=rows.shape[1])
        order = utility_order(rows, utility, offered.shape[1])
        showable = ~applied.banned & ~rows_in_sets(rows, excluded)
        if self.withdrawn is not None:
            showable &= ~self.withdrawn[rows]
        utility = padded(utility, np.nan)
        natural = utility
        if self.cold is not None:
            order, utility = self.cold.fill(order, utility, candidates.source_scores, showable)
        flat = order + rows.shape[1] * np.arange(len(rows))[:, None]
        return ScoredCandidates(
            applied=applied,
            discounts=discounts,
            raised=None if utility is natural else utility > natural,
            order=order,
            rows=rows.ravel()[flat],
            utility=utility.ravel()[flat],
            utility_std=None if utility_std is None else padded(utility_std, 0.0).ravel()[flat],
            offered=padded(offered, False).ravel()[flat],
            showable=showable.ravel()[flat],
            holds=applied.holds.reshape(rows.size, len(self.rules.rules))[flat],
        )

    def _utility_std(self, candidates: CandidateBatch, utility: np.ndarray, factors: np.ndarray) -> np.ndarray | None:
        """Return [B, C] float64 standard deviations of the scaled utilities; 0 where the utility is unknown."""
        probabilities, logit_std = candidates.probabilities, candidates.logit_std
        if not self.exploration.needs_uncertainty or probabilities is None or logit_std is None:
            return None
        utility_std = self.value.utility_std(probabilities, logit_std)
        return np.where(np.isnan(utility), 0.0, np.where(utility < 0, utility_std / factors, utility_std * factors))

    def _limits(self, queries: Sequence[Query], pool: EligiblePool, scored: ScoredCandidates) -> QuotaLimits:
        quotas = self.rules.quotas
        holds, active = scored.holds[..., quotas.rules], scored.applied.active[:, quotas.rules]
        return QuotaLimits(
            bits=quotas.bits,
            numbers=quotas.limits,
            tops=quotas.tops,
            active=active,
            group_quota=quotas.group_quota,
            groups=quotas.groups(pool.rows, holds),
            floors=quotas.floors,
            satisfies=holds[..., quotas.floors],
            item_violations=quotas.item_violations(queries, pool.rows, holds & active[:, None]),
        )


def scale_utility(utility: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Return utility [B, C] float64 times factors, NaN where not finite; a negative utility is divided, so that a larger
    factor never lowers an item.
    """
    values = utility.astype(np.float64)
    _scale(values, factors)
    return values


@compiled()
def _scale(values, factors):
    for b in range(values.shape[0]):
        for c in range(values.shape[1]):
            one = values[b, c] / factors[b, c] if values[b, c] < 0 else values[b, c] * factors[b, c]
            values[b, c] = one if math.isfinite(one) else math.nan


def _history(row_of: Mapping[str, int], query: Query) -> list[int]:
    """Return the catalogue rows of a query's history."""
    return [row for event in query.history if (row := row_of.get(event.item)) is not None]


def _padded(array: np.ndarray, value: Any, width: int) -> np.ndarray:
    return _followed_by(array, np.full((len(array), width - array.shape[1]), value, dtype=array.dtype))


def _followed_by(array: np.ndarray, others: np.ndarray) -> np.ndarray:
    return np.concatenate([array, others], axis=1) if others.size else array


def _with_span(document: Any) -> Any:
    """Add the key that bundles of the first kinds of diversity lack."""
    first_kinds = isinstance(document, Mapping) and document.get("kind") in DIVERSITIES
    return {"span": None, **document} if first_kinds else document


def _without_rate(document: Any) -> Any:
    """Leave out the keys that exploration of kind none had in earlier bundles, and that had no effect."""
    return {"kind": "none"} if isinstance(document, Mapping) and document.get("kind") == "none" else document


def _check_vectors(vectors: np.ndarray, num_items: int) -> None:
    if vectors.ndim != 2 or len(vectors) != num_items:
        raise BundleError(
            f"the item vectors are {vectors.shape}, the catalogue has {num_items} items; build both again"
        )
    if broken := np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist():
        raise BundleError(f"the item vector of row {broken[0]} is not finite; train again")


def _check_shapes(queries: Sequence[Query], candidates: CandidateBatch) -> None:
    ranked = (candidates.probabilities, candidates.logit_std)
    shapes = {candidates.rows.shape, candidates.scores.shape, candidates.source_scores.shape[:2]}
    shapes |= {figures.shape[:2] for figures in ranked if figures is not None}
    if len(shapes) > 1 or len(queries) != len(candidates.rows) or len(queries) != len(candidates.degraded):
        raise ValueError(f"{len(queries)} queries do not go with candidates and probabilities of the shapes {shapes}")


def _section(where: str, document: Any, keys: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(document, Mapping):
        raise ConfigError(f"{where} is a {type(document).__name__}; write a mapping with {' and '.join(keys)}")
    if unknown := [str(key) for key in document if key not in keys]:
        raise ConfigError(f"{where} has the unknown key {unknown[0]!r}; {suggestion(unknown[0], keys)}")
    if absent := [key for key in keys if key not in document]:
        raise ConfigError(f"{where} lacks the key {absent[0]!r}; give {' and '.join(keys)}")
    return dict(document)
