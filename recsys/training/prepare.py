"""Prepare a data set and its split for the training of both models: replay, fitted spec, encoded catalogue."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from recsys.cache.fingerprint import fingerprint
from recsys.cache.stage_cache import NO_CACHE, Result, StageCache
from recsys.content.text_encoder import TEXT_COLUMN as TEXT
from recsys.content.text_encoder import TextEncoder, TextVectorizer
from recsys.data.dataset import Dataset
from recsys.data.description import ITEM, USER, Description
from recsys.data.splits import Split
from recsys.errors import DataError
from recsys.features.encode import DAY, ItemTable, column_array
from recsys.features.spec import TIME_NUMBERS, Columns, Features, FeatureSpec
from recsys.policy.repeat import CompiledRepeat, Repeat
from recsys.progress import Progress, silent
from recsys.replay.replay import Replay

RECENT_DAYS = 30.0
"""window of events that count for recent popularity"""
VECTORS = "vectors"
"""array of a cached text encoder: the vectors of the catalogue"""
RULE_TYPES = {"text": "category", "category": "category", "categories": "categories"}
RULE_TYPES |= {"number": "number", "timestamp": "number"}
"""type of a catalogue column for rules, by its kind; vectors are not for rules"""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Training data that do not depend on a model."""

    dataset: Dataset
    split: Split
    replay: Replay
    features: Features
    catalogue: Columns
    """[N, ...] by name, text columns replaced by one vector column"""
    item_kinds: dict[str, str]
    text: TextEncoder | None
    """fitted encoder of the text columns, None where there are none"""
    notes: tuple[str, ...] = ()
    """what was decided here, as sentences for a report"""

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of everything but the text encoder, whose vectors the catalogue has."""
        parts = {"dataset": self.dataset, "split": self.split, "repeat": self.replay.repeat, "features": self.features}
        return fingerprint({**parts, "catalogue": self.catalogue, "kinds": self.item_kinds})

    def spec(self, known: np.ndarray) -> tuple[FeatureSpec, ItemTable]:
        """Fit the spec on rows of the log, [R] bool, and encode the catalogue with it."""
        described, frame = self.dataset.description, self.dataset.interactions.filter(pl.Series(known))
        positives = self.dataset.interactions.filter(pl.Series(known & self.replay.positives))
        if not positives.height:
            raise DataError(
                f"{self.dataset.name}: no positive event of {described.target!r} lies in the training periods"
            )
        users = self.dataset.users.filter(pl.col(USER).is_in(frame[USER].unique().to_list()))
        spec = FeatureSpec(
            items=self.features.fit_table(
                "items", self.item_kinds, {**self.catalogue, ITEM: column_array("category", positives[ITEM].to_list())}
            ),
            profile=self.features.fit_table("profile", described.users, _columns(users, described.users)),
            context=self.features.fit_table(
                "context",
                described.context,
                _columns(frame, described.context),
                TIME_NUMBERS if described.clock else (),
            ),
            history_length=self.features.history_length,
            actions=described.actions,
            objectives=described.objectives,
            target=described.target,
            clock=described.clock,
        )
        return spec, ItemTable.encode(spec.items, self.dataset.items[ITEM].to_list(), self.catalogue)

    def recent_events(self, known: np.ndarray) -> np.ndarray:
        """[N] int64, positive events of each item in the last RECENT_DAYS of the rows [R] bool; without timestamps all."""
        rows = np.flatnonzero(known & self.replay.positives)
        age = np.nan_to_num(self.replay.seconds[rows].max() - self.replay.seconds[rows])
        recent = self.replay.items[rows[age < RECENT_DAYS * DAY]]
        return np.bincount(recent, minlength=self.dataset.num_items).astype(np.int64)

    def rule_types(self) -> dict[str, str]:
        """Types of the catalogue's columns in rules."""
        return {name: RULE_TYPES[kind] for name, kind in self.dataset.description.items.items() if kind in RULE_TYPES}


def prepare(
    dataset: Dataset,
    split: Split,
    features: Features,
    content: TextVectorizer,
    repeat: Repeat | None = None,
    cache: StageCache = NO_CACHE,
    progress: Progress = silent,
) -> Prepared:
    """Group the log by user and encode item texts as vectors. repeat: when items may be recommended again; None: never"""
    described = dataset.description
    features.check({ITEM, *described.items, *described.users, *described.context})
    kinds: dict[str, str] = {ITEM: "category", **described.items}
    texts, text = text_columns(dataset, features), None
    catalogue = _columns(dataset.items, {name: kind for name, kind in kinds.items() if kind != "text"})
    if texts:
        text, catalogue[TEXT] = _encoded(content, texts, cache, progress)
        kinds[TEXT] = "vector"
    return Prepared(
        dataset=dataset,
        split=split,
        replay=Replay(dataset, split, compile_repeat(repeat or Repeat.never(), described)),
        features=features,
        catalogue=catalogue,
        item_kinds=kinds,
        text=text,
    )


def text_columns(dataset: Dataset, features: Features) -> dict[str, list[str | None]]:
    """Return the text columns of the items that are features, [N] each."""
    kinds = dataset.description.items
    named = [name for name, kind in kinds.items() if kind == "text" and name not in features.leave_out]
    return {name: dataset.items[name].to_list() for name in named}


def _encoded(
    content: TextVectorizer, texts: Mapping[str, Sequence[str | None]], cache: StageCache, progress: Progress
) -> tuple[TextEncoder, np.ndarray]:
    """Fit the text encoder; return it with the vectors [N, D] of the texts."""

    def fit() -> Result:
        encoder, vectors = content.fit_transform(texts, progress)
        document, arrays = encoder.to_documents()
        return document, {**arrays, VECTORS: vectors}

    document, arrays = cache.arrays("text", fit, content=type(content), config=content.parameters, texts=dict(texts))
    return content.fitted(document, dict(arrays)), arrays[VECTORS]


def compile_repeat(repeat: Repeat, described: Description) -> CompiledRepeat:
    """Compile the repeat rules for one data set; ConfigError where they do not fit it."""
    return repeat.compile(tuple(described.objectives), clock=described.clock)


def _columns(frame: pl.DataFrame, kinds: Mapping[str, str]) -> dict[str, np.ndarray]:
    return {
        name: column_array(kind, values := frame[name].to_list(), _length(kind, values)) for name, kind in kinds.items()
    }


def _length(kind: str, values: Sequence[Any]) -> int:
    """Length of the vectors of a column, 0 for other kinds."""
    return max((len(one) for one in values if one is not None), default=0) if kind == "vector" else 0
