"""The stages that follow what changes between trainings: published rules, items, what was shown. A batch is answered by one
state.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from recsys.candidates.sources import MergedSources
from recsys.contracts import CANDIDATE_ROWS, CandidateBatch, Query, Slate
from recsys.errors import RulesLostError
from recsys.items.live_state import LiveState
from recsys.items.rule_items import RuleItems
from recsys.items.searchable_items import SearchableItems
from recsys.policy.compose import CompiledPolicy
from recsys.policy.excluded_items import HiddenItems
from recsys.policy.exposure.exposure_file import ExposureShares, LiveShares, Shares
from recsys.policy.rules.hot_reload import ActiveVersion, HotReloader
from recsys.stages.stage import Offered, Retrieve, Rules, Tensors
from recsys.stores.change_watcher import POLL_INTERVAL_S, ChangeWatcher
from recsys.tensors import Arrays, TensorSpec

STALE_RULES = "rules:stale"
"""the version that was published last cannot serve, an older one stands in"""
STALE_ITEMS = "items:stale"
"""changes of items could not be read or applied, they are as they were before"""
STALE_EXPOSURE = "exposure:stale"
"""what was shown to everybody could not be read, older counters stand in"""

NO_SLATE = "no slate may be served"
LOST_RULES = (
    f"{NO_SLATE}: the published rules are missing or damaged and no copy of them is left; restore the rule store, "
    "or publish the rules that shall serve"
)
LOST_ITEMS = (
    f"{NO_SLATE}: the changes of items are missing or damaged and no copy of them is left; restore the item store"
)


class LiveRetrieve:
    """Retrieval over the items as they are now."""

    name = "retrieve"
    optional_inputs: tuple[TensorSpec, ...] = ()

    def __init__(self, trained: Retrieve, items: LiveState[SearchableItems]) -> None:
        """trained: over the items of the bundle"""
        self._trained, self._items = trained, items
        self._watcher = ChangeWatcher(items.stamp, self._follow)
        if not self._follow():
            self._watcher.mark_failed()
        self._watcher.start_polling(POLL_INTERVAL_S)

    @property
    def now(self) -> Retrieve:
        """Return the current stage."""
        self._watcher.poll()
        return self._now

    @property
    def sources(self) -> MergedSources:
        return self.now.sources

    @property
    def release(self) -> str:
        """Fingerprint of the bundle."""
        return self._trained.release

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._trained.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._trained.outputs

    def __call__(self, tensors: Tensors) -> Arrays:
        found = self.now(tensors)
        return _stale(found) if self._items.stale else found

    def _follow(self) -> bool:
        items = self._items.follow()
        sources = self._trained.sources.with_new_items(items.index, items.newest, items.overlay.hidden)
        hiding = HiddenItems(types=items.overlay.schema.rule_types, column=items.overlay.column)
        made = replace(self._trained, items=items.table, sources=sources, hiding=hiding)
        _ = made.items.rows, made.items.ties  # worked out here, not by the first request
        self._now = made
        return not self._items.stale


@dataclass(frozen=True, kw_only=True)
class LiveRules:
    """Rules as they were published last, for the items as they are now and what was shown to everybody until now."""

    follower: HotReloader[Rules]
    items: LiveState[RuleItems] | None
    shares: LiveShares | None = None
    name: str = "rules"

    @property
    def policy(self) -> CompiledPolicy:
        return self.follower.current().value.policy

    @property
    def release(self) -> str:
        """Fingerprint of the bundle."""
        return self.follower.current().value.release

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self.follower.current().value.inputs

    @property
    def optional_inputs(self) -> tuple[TensorSpec, ...]:
        return self.follower.current().value.optional_inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self.follower.current().value.outputs

    @property
    def lost(self) -> str | None:
        """The reason for which no slate may be served, None where there is none."""
        return self._lost(self.follower.current())

    def _lost(self, active: ActiveVersion[Rules]) -> str | None:
        if active.lost:
            return LOST_RULES
        return LOST_ITEMS if self.items is not None and self.items.lost else None

    def _served(self) -> ActiveVersion[Rules]:
        """Return the active version; RulesLostError where its slates could break a `must`."""
        active = self.follower.current()
        if (lost := self._lost(active)) is not None:
            raise RulesLostError(lost)
        return active

    def __call__(self, tensors: Tensors) -> dict[str, list[Slate]]:
        served, shown = self._served(), self._shown()
        taken = _taken(shown.shares, served.value, tensors)
        slates = served.value(_with(taken, tensors))["SLATE"]
        if any(taken):
            slates = [replace(slate, exposure=shares) for slate, shares in zip(slates, taken, strict=True)]
        flags = self._flags(served.stale, shown.stale)
        return {"SLATE": [_flagged(slate, flags) for slate in slates] if flags else slates}

    def rows(self, tensors: Tensors) -> np.ndarray:
        rules = self._served().value
        return rules.rows(_with(_taken(self._shown().shares, rules, tensors), tensors))

    def offered(self, tensors: Tensors) -> Offered:
        rules = self._served().value
        return rules.offered(_with(_taken(self._shown().shares, rules, tensors), tensors))

    def _shown(self) -> ExposureShares:
        return ExposureShares() if self.shares is None else self.shares.current()

    def _flags(self, stale_rules: bool, stale_exposure: bool) -> list[str]:
        stale_items = self.items is not None and self.items.stale
        stale = {STALE_RULES: stale_rules, STALE_ITEMS: stale_items, STALE_EXPOSURE: stale_exposure}
        return [flag for flag, holds in stale.items() if holds]


def _taken(shares: Shares, rules: Rules, tensors: Tensors) -> list[dict[str, float]]:
    """Per query, of the shares what its candidates need and it does not bring itself."""
    queries: Sequence[Query] = tensors["QUERY"]
    if not shares:
        return [{} for _ in queries]
    policies = [rules.policy.variant(query.policy) or rules.policy for query in queries]
    reads = [policy.exposure_keys(rows) for policy, rows in zip(policies, tensors[CANDIDATE_ROWS.name], strict=True)]
    return [
        {key: shares[key] for key in keys if key in shares and key not in query.exposure}
        for query, keys in zip(queries, reads, strict=True)
    ]


def _with(taken: Sequence[dict[str, float]], tensors: Tensors) -> Tensors:
    """The queries with these counters beside their own."""
    if not any(taken):
        return tensors
    queries = [
        replace(query, exposure={**shares, **query.exposure})
        for query, shares in zip(tensors["QUERY"], taken, strict=True)
    ]
    return {**tensors, "QUERY": queries}


def _flagged(slate: Slate, flags: Sequence[str]) -> Slate:
    return replace(slate, degraded=tuple(dict.fromkeys([*slate.degraded, *flags])))


def _stale(found: Arrays) -> Arrays:
    """The candidates with one flag more."""
    candidates = CandidateBatch.of(found)
    flagged = tuple((*flags, STALE_ITEMS) for flags in candidates.degraded)
    return {**found, **replace(candidates, degraded=flagged).tensors()}
