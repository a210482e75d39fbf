"""Explain stage, on request: the contribution of each part of the input to the utility of each item of a slate.

The ranker is asked again without it, all variants of a query in one batch (`recsys.features.occlusion`).

Shapes: C candidates, P items of a slate that a source offered.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from recsys.contracts import CANDIDATE_ROWS, PAD, PROBABILITIES, Query, Slate
from recsys.features.occlusion import occluded_variants
from recsys.features.spec import FeatureSpec
from recsys.features.state import history_events, item_key
from recsys.items.catalogue_overlay import CatalogueOverlay
from recsys.items.live_state import LiveState
from recsys.items.store import Change
from recsys.policy.compose import REFUSED_OVERRIDES
from recsys.policy.value import CompiledValue
from recsys.stages.release import check_release, check_slates
from recsys.stages.stage import QUERY, SLATE, Rank, Tensors
from recsys.stores.change_watcher import POLL_INTERVAL_S, ChangeWatcher
from recsys.tensors import Arrays, TensorSpec

EVENT = "event "

Rows = Mapping[str, int]
"""item id -> catalogue row"""


@dataclass(frozen=True, kw_only=True)
class Explain:
    """Slates -> the same slates with `adds` and `because_of` of every item that a source offered."""

    spec: FeatureSpec
    rank: Rank
    value: CompiledValue
    rows: Callable[[], Rows]
    """of the items as they are now"""
    popular: np.ndarray
    """columns of the scores that lists of the popular give"""
    name: str = "explain"
    optional_inputs: tuple[TensorSpec, ...] = ()

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return (QUERY, SLATE, *self.rank.inputs, CANDIDATE_ROWS)

    @property
    def release(self) -> str:
        """Fingerprint of the bundle."""
        return self.rank.release

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return (SLATE,)

    def __call__(self, tensors: Tensors) -> dict[str, list[Slate]]:
        check_release(self.name, self.release, tensors)
        check_slates(self.name, self.release, tensors["SLATE"])
        rows = self.rows()
        explained = []
        for number, (query, slate) in enumerate(zip(tensors["QUERY"], tensors["SLATE"], strict=True)):
            arrays = {tensor.name: tensors[tensor.name][[number]] for tensor in self.rank.features}
            places = _places(slate, tensors[CANDIDATE_ROWS.name][number], rows)
            explained.append(self._explained(query, slate, arrays, places, rows) if places else slate)
        return {"SLATE": explained}

    def _explained(self, query: Query, slate: Slate, arrays: Arrays, places: Mapping[int, int], rows: Rows) -> Slate:
        """arrays: what the ranker reads of this query, [1, ...]; places: of the slate -> among the candidates."""
        names, occluded = occluded_variants(
            self.spec, arrays, np.array(list(places.values()), dtype=np.int64), self.popular
        )
        refused = REFUSED_OVERRIDES in slate.degraded
        value = self.value if refused else self.value.with_weights(query.policy.get("weights", {}))
        utilities = value(self.rank.model(occluded)[PROBABILITIES]).astype(np.float64)
        added = np.nan_to_num(utilities[0] - utilities[1:])
        groups = [name for name in names[1:] if not name.startswith(EVENT)]
        events = self._events(query, rows, len(names) - 1 - len(groups))
        items = list(slate.items)
        for shown, effects in zip(places, added.T.tolist(), strict=True):
            adds = dict(zip(groups, effects, strict=False))
            items[shown] = replace(items[shown], adds=adds, because_of=_strongest(events, effects[len(groups) :]))
        return replace(slate, items=tuple(items))

    def _events(self, query: Query, rows: Rows, read: int) -> list[str]:
        """Items of the `read` events that the ranker reads, the newest first; none where retrieval knows others than this
        stage does at the moment.
        """
        known = [event for event in query.history if event.item in rows]
        order = {item: place for place, item in enumerate(sorted({one.item for one in known}, key=item_key))}
        ties = np.array([order[event.item] for event in known], dtype=np.int64)
        places, *_ = history_events(known, np.zeros(len(known)), ties, self.spec)
        events = [known[place].item for place in places[::-1]][: self.spec.history_length]
        return events if len(events) == read else []


def _places(slate: Slate, offered: np.ndarray, rows: Rows) -> dict[int, int]:
    """Place on the slate -> place among the candidates, catalogue rows `offered` [C]; without what no source offered."""
    among = {row: place for place, row in enumerate(offered.tolist()) if row != PAD}
    found = {shown: among.get(rows.get(item.item, PAD)) for shown, item in enumerate(slate.items)}
    return {shown: place for shown, place in found.items() if place is not None}


def _strongest(events: Sequence[str], adds: Sequence[float]) -> str | None:
    """Of the items of the history, newest first, the one that adds most; None where none adds anything or is known."""
    best = max(range(len(events)), key=lambda place: adds[place], default=None)
    return events[best] if best is not None and adds[best] > 0 else None


@dataclass(frozen=True, kw_only=True)
class KnownItems:
    """Rows of the current items, up to a position of the item store."""

    overlay: CatalogueOverlay

    def after(self, changes: Sequence[Change]) -> Self:
        return replace(self, overlay=self.overlay.after(changes)[0])


class RowsNow:
    """The rows of a bundle's items and of those in an item store."""

    def __init__(self, items: LiveState[KnownItems]) -> None:
        self._items = items
        self._watcher = ChangeWatcher(items.stamp, self._follow)
        if not self._follow():
            self._watcher.mark_failed()
        self._watcher.start_polling(POLL_INTERVAL_S)

    def __call__(self) -> Rows:
        self._watcher.poll()
        return self._items.state.overlay.row_of

    def _follow(self) -> bool:
        self._items.follow()
        return not self._items.stale
