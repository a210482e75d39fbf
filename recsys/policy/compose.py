"""The order of the policy: value, rules, popularity, plain order, pins, then place by place quotas, diversity, exploration.

Shapes: B queries of a batch, C candidates of a query and behind them the items of pins, S candidate sources, T objectives,
K places, N items of the catalogue, D dim of the vectors.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from recsys.contracts import PAD, Candidates, Query, Slate
from recsys.errors import BundleError, ConfigError
from recsys.expressions import Columns, suggestion
from recsys.jit import compiled
from recsys.policy.batch import Batch, Offer, plain_order
from recsys.policy.compiled import CompiledRules
from recsys.policy.diversity import Diversity, Likeness, diversity_from_document
from recsys.policy.explain import slates
from recsys.policy.explore import Exploration, exploration_from_document
from recsys.policy.hiding import HiddenItems, not_shown
from recsys.policy.membership import among
from recsys.policy.pins import place_pins
from recsys.policy.popularity import CompiledDial, PopularityDial, dial_from_document
from recsys.policy.quotas import Balance
from recsys.policy.repeat import Repeat, SeenFilter, repeat_from_document
from recsys.policy.rules import RuleSet
from recsys.policy.selection import Limits, Pool, select
from recsys.policy.value import CompiledValue, ValueFormula

INHERITED = {"popularity": PopularityDial.off().to_document(), "repeat": Repeat.never().to_document()}
"""sections that an older bundle does not have"""


class Policy:
    """What turns probabilities into slates, before it knows a bundle."""

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

    def spelled(self, means: Mapping[str, str]) -> "Policy":
        """As `ValueFormula.spelled`."""
        return Policy(
            value=self.value.spelled(means),
            popularity=self.popularity,
            diversity=self.diversity,
            exploration=self.exploration,
            repeat=self.repeat,
        )

    def to_document(self) -> dict[str, Any]:
        """A plain document for the bundle; from_document reads it."""
        return {
            "value": {"formula": self.value.formula, "weights": dict(self.value.weights)},
            "popularity": self.popularity.to_document(),
            "diversity": self.diversity.to_document(),
            "exploration": self.exploration.to_document(),
            "repeat": self.repeat.to_document(),
        }

    @staticmethod
    def from_document(document: Mapping[str, Any]) -> "Policy":
        """ConfigError names a key that is absent, unknown or out of range. Without popularity the dial is off, without repeat
        nothing is shown again.
        """
        own = document if not isinstance(document, Mapping) else {**INHERITED, **document}
        sections = _section("policy", own, ("value", "popularity", "diversity", "exploration", "repeat"))
        return Policy(
            value=ValueFormula(**_section("policy.value", sections["value"], ("formula", "weights"))),
            popularity=dial_from_document(sections["popularity"]),
            diversity=diversity_from_document(sections["diversity"]),
            exploration=exploration_from_document(sections["exploration"]),
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
        hidden: np.ndarray | None = None,
        seen: SeenFilter | None = None,
    ) -> "CompiledPolicy":
        """Check everything against one bundle and make arrays of it.

        catalogue: columns [N], "item" holds the ids. types: of the columns that rules may read. request_types: of
        `user.column` and `context.column`. vectors: [N, D], rows need not be of length 1, a row of zeros resembles
        nothing. objectives: of the last axis of the probabilities. sources: of the last axis of
        Candidates.source_scores. popularity: [N] share of each item in known events, None where nobody counted. hidden: [N]
        bool, items that are never shown, not even by a pin. seen: items that histories bar; None bars all of them.
        ConfigError for a rule or a formula that does not fit, BundleError for vectors or a popularity that do not.
        """
        _check_vectors(vectors, len(catalogue["item"]))
        return CompiledPolicy(
            value=self.value.compile(objectives),
            popularity=self.popularity.compile(catalogue["item"], popularity),
            diversity=self.diversity,
            likeness=self.diversity.likeness(vectors, catalogue, types),
            exploration=self.exploration,
            rules=CompiledRules.compile(rules, catalogue, types, request_types),
            items=catalogue["item"],
            sources=tuple(sources),
            bundle=bundle_fingerprint,
            hidden=hidden,
            seen=SeenFilter.never() if seen is None else seen,
            hiding=HiddenItems(types=types, column=catalogue.__getitem__),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledPolicy:
    """A policy made ready for one bundle. It holds no state: the same queries get the same slates."""

    value: CompiledValue
    popularity: CompiledDial
    diversity: Diversity
    likeness: Likeness
    exploration: Exploration
    rules: CompiledRules
    items: np.ndarray
    """[N] object, ids"""
    sources: tuple[str, ...]
    bundle: str
    seen: SeenFilter
    hiding: HiddenItems
    """what queries do not want to see"""
    hidden: np.ndarray | None = None
    """[N] bool, items that are never shown; None where all may be"""

    def barred(self, queries: Sequence[Query]) -> list[list[int]]:
        """[B] rising catalogue rows that may not be shown to each: seen and not to be repeated, excluded or hidden."""
        return not_shown(queries, self.rules.row_of, self.seen, self.hiding)

    def reads(self, rows: np.ndarray) -> list[str]:
        """What exposure rules and the dial may read of Query.exposure where catalogue rows [C] are candidates; there may be
        PAD and items that are unknown here.
        """
        offered = rows[(rows >= 0) & (rows < len(self.items))]
        known = np.concatenate([offered, self.rules.brought])
        parts: list[Balance | CompiledDial] = [*(balance for _, balance in self.rules.balances), self.popularity]
        return [key for part in parts for key in part.reads(known)]

    def compose(
        self,
        queries: Sequence[Query],
        candidates: Candidates,
        probabilities: np.ndarray | None,
        deviations: np.ndarray | None = None,
    ) -> list[Slate]:
        """One slate a query; a query gets the same slate alone and in any batch.

        candidates: the items of a query are distinct; PAD and a score of -inf are never shown. probabilities:
        [B, C, T] float32, or None when the ranker was skipped. deviations: [B, C, T] float32, how unsure their logits
        are, for Thompson sampling.
        """
        if not queries:
            return []
        batch = self.filled(queries, candidates, probabilities, deviations)
        return slates(batch, self.items, self.rules, self.sources, self.value.objectives, self.bundle)

    def rows(
        self,
        queries: Sequence[Query],
        candidates: Candidates,
        probabilities: np.ndarray | None,
        deviations: np.ndarray | None = None,
    ) -> np.ndarray:
        """The items of the same slates and nothing else: [B, K] catalogue rows, K of the longest, PAD behind the last."""
        if not queries:
            return np.empty((0, 0), dtype=np.int64)
        batch = self.filled(queries, candidates, probabilities, deviations)
        columns = batch.selection.columns
        return np.where(columns >= 0, np.take_along_axis(batch.pool.rows, np.maximum(columns, 0), axis=1), PAD)

    def filled(
        self,
        queries: Sequence[Query],
        candidates: Candidates,
        probabilities: np.ndarray | None,
        deviations: np.ndarray | None = None,
    ) -> Batch:
        """The slates of a batch, and all that they were made from."""
        for figures in (probabilities, deviations):
            _check_shapes(queries, candidates, figures)
        offer = self._offer(queries, candidates, probabilities, deviations, self.barred(queries))
        pool = place_pins(queries, self.rules, offer)
        limits = self._limits(queries, pool, offer)
        histories, ranked = [_history(self.rules.row_of, query) for query in queries], probabilities is not None
        scoring = self.diversity.scoring(pool, self.likeness, histories, ranked=ranked)
        return Batch(
            queries=queries,
            candidates=candidates,
            probabilities=probabilities,
            unsure=self.exploration.by_doubt and offer.spread is None,
            unknown=[self.hiding.unknown(query) for query in queries],
            offer=offer,
            pool=pool,
            selection=select(pool, limits, scoring, self.exploration.draws(queries, pool, offer.spread, scoring.spans)),
        )

    def _offer(
        self,
        queries: Sequence[Query],
        candidates: Candidates,
        probabilities: np.ndarray | None,
        deviations: np.ndarray | None,
        hidden: Sequence[Sequence[int]],
    ) -> Offer:
        """What rules and value say of the candidates and, behind them, of the items of pins."""
        raw = candidates.scores if probabilities is None else self.value(probabilities)
        offered = (candidates.items != PAD) & ~np.isneginf(candidates.scores)
        rows = _followed_by(candidates.items, np.tile(self.rules.brought, (len(queries), 1)))
        applied = self.rules(queries, rows)
        discounts = self.popularity.factors(queries, rows)
        factors = (applied.factors if discounts is None else applied.factors * discounts)[:, : offered.shape[1]]
        utility = scaled(np.where(offered, raw, np.nan), factors)
        spread = self._spread(probabilities, deviations, utility, factors)
        padded = partial(_padded, width=rows.shape[1])
        order = plain_order(rows, utility, offered.shape[1])
        place = order + rows.shape[1] * np.arange(len(rows))[:, None]
        showable = ~applied.banned & ~among(rows, hidden)
        if self.hidden is not None:
            showable &= ~self.hidden[rows]
        return Offer(
            applied=applied,
            discounts=discounts,
            order=order,
            rows=rows.ravel()[place],
            utility=padded(utility, np.nan).ravel()[place],
            spread=None if spread is None else padded(spread, 0.0).ravel()[place],
            offered=padded(offered, False).ravel()[place],
            showable=showable.ravel()[place],
            holds=applied.holds.reshape(rows.size, len(self.rules.rules))[place],
        )

    def _spread(
        self,
        probabilities: np.ndarray | None,
        deviations: np.ndarray | None,
        utility: np.ndarray,
        factors: np.ndarray,
    ) -> np.ndarray | None:
        """[B, C] float64 of the utilities that came of these factors; an unknown one is certain to be last."""
        if not self.exploration.by_doubt or probabilities is None or deviations is None:
            return None
        spread = self.value.spread(probabilities, deviations)
        return np.where(np.isnan(utility), 0.0, np.where(utility < 0, spread / factors, spread * factors))

    def _limits(self, queries: Sequence[Query], pool: Pool, offer: Offer) -> Limits:
        quotas, places = self.rules.quotas, self.rules.quota_places
        own, on = offer.holds[..., places], offer.applied.active[:, places]
        return Limits(
            bits=quotas.bits,
            limits=quotas.limits,
            tops=quotas.tops,
            active=on,
            group_quota=quotas.group_quota,
            groups=quotas.groups(pool.rows, own),
            floors=quotas.floors,
            satisfies=own[..., quotas.floors],
            burdens=self.rules.burdens(queries, pool.rows, own & on[:, None]),
        )


def scaled(utility: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """[B, C] float64, NaN where it is not finite; a larger factor never lowers a utility."""
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
    """Catalogue rows of a query's history."""
    return [row for event in query.history if (row := row_of.get(event.item)) is not None]


def _padded(array: np.ndarray, value: Any, width: int) -> np.ndarray:
    return _followed_by(array, np.full((len(array), width - array.shape[1]), value, dtype=array.dtype))


def _followed_by(array: np.ndarray, others: np.ndarray) -> np.ndarray:
    return np.concatenate([array, others], axis=1) if others.size else array


def _check_vectors(vectors: np.ndarray, num_items: int) -> None:
    if vectors.ndim != 2 or len(vectors) != num_items:
        raise BundleError(
            f"the item vectors are {vectors.shape}, the catalogue has {num_items} items; build both again"
        )
    if broken := np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist():
        raise BundleError(f"the item vector of row {broken[0]} is not finite; train again")


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
