"""Consistency of predictions: logged requests answered again in this process, and compared with what was served.

A logged query holds history, profile, context and request id, so the bundle that served it gives the same slate again; where it
does not, the difference has a cause:

    release     another bundle served it: not compared
    fallback    an earlier or a general slate was served in the place of a prediction: not compared
    rules       the rules that served it give the same slate
    numeric     the same items, but for places whose utilities differ by rounding
    exposure    a rule or the dial reads what was shown to everybody, and the log lacks it for this request
    items       the items as they were then give the same slate
    unexplained none of these
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl

from recsys.bundle import Bundle
from recsys.contracts import Query, Slate
from recsys.data.sources.log_files import log_files, read_log_file
from recsys.errors import ConfigError, DataError
from recsys.items.store import Change, ItemStore
from recsys.pipeline import light, recommend
from recsys.policy.rules.rule_set import RuleSet
from recsys.policy.rules.store import RuleStore
from recsys.progress import Progress, silent, tracked
from recsys.stages import Rules, Stages, load_stages, rules_maker

SAME, RELEASE, FALLBACK, RULES, EXPOSURE, ITEMS, NUMERIC, UNEXPLAINED = (
    "same",
    "release",
    "fallback",
    "rules",
    "exposure",
    "items",
    "numeric",
    "unexplained",
)
COMPARED = (SAME, RULES, NUMERIC, EXPOSURE, ITEMS, UNEXPLAINED)
PREDICTIONS = {"recommend": False, "recommend_explained": False, "recommend_light": True}
"""rungs that ask the models -> whether without the ranker"""
TOLERANCE = 1e-4
"""difference of utilities that rounding explains, relative to the largest one of both slates"""
BATCH = 64
SHOWN = ("sequence", "id", "timestamp", "item", "position", "utility", "bundle", "rules", "rung", "query")


@dataclass(frozen=True, kw_only=True)
class ServedSlate:
    """A slate as the log has it."""

    id: str
    timestamp: float
    query: Query
    items: tuple[str, ...]
    utilities: tuple[float, ...]
    bundle: str
    rules: str
    rung: str


@dataclass(frozen=True, kw_only=True)
class Consistency:
    """Comparison of served slates with their answers now."""

    causes: Mapping[str, int]
    """SAME or a cause -> number of slates"""
    largest: float
    """relative difference of the utilities of slates with the same items in the same places"""
    examples: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    """some slates that differ: id, cause, served and found items"""

    @property
    def compared(self) -> int:
        return sum(self.causes.get(one, 0) for one in COMPARED)

    @property
    def unexplained(self) -> float:
        """Share of the compared slates whose difference has no known cause."""
        return self.causes.get(UNEXPLAINED, 0) / max(1, self.compared)

    def to_document(self) -> dict[str, Any]:
        causes = {one: self.causes.get(one, 0) for one in (*COMPARED, RELEASE, FALLBACK)}
        figures = {"compared": self.compared, "unexplained": self.unexplained, "largest": self.largest}
        return {"causes": causes, **figures, "examples": [dict(one) for one in self.examples]}


def served_slates(log: Path, num: int, days: int | None = None, bundle: str | None = None) -> list[ServedSlate]:
    """Return `num` slates of the log at most, those with the lowest ids, which are hashes; of copies the first.

    days: of the newest ones alone. bundle: fingerprint of the one whose slates are taken. DataError where there are none.
    """
    folders = sorted((log / "impressions").glob("day=*"))[-days if days else None :]
    files = log_files(file for folder in folders for file in folder.glob("*.parquet")).current
    if not files:
        raise DataError(f"{log} holds no impressions; name the folder that the event log is written to, live/events")
    known = pl.concat([read_log_file(file.path, ["id", "sequence", "bundle"]) for file in files])
    own = known if bundle is None else known.filter(pl.col("bundle") == bundle)
    if own.is_empty():
        newest = known.sort("sequence")["bundle"][-1]
        raise DataError(
            f"no slate of the log was served by the bundle {bundle}; the newest is of {newest}: give its folder"
        )
    copies = own.group_by("id").agg(pl.col("sequence").min()).sort("id").head(num)
    parts = [read_log_file(file.path, SHOWN).join(copies, on=["id", "sequence"], how="semi") for file in files]
    slates = pl.concat(parts).unique(["id", "position"], keep="first", maintain_order=True).sort("id", "position")
    return [_served(slate) for slate in slates.partition_by("id", maintain_order=True)]


def _served(rows: pl.DataFrame) -> ServedSlate:
    """Read the rows of one slate; an empty one has a row without an item."""
    first, shown = rows.row(0, named=True), rows.filter(pl.col("item").is_not_null())
    return ServedSlate(
        query=Query.from_json(rows["query"].drop_nulls()[0]),
        items=tuple(shown["item"]),
        utilities=tuple(shown["utility"]),
        **{name: first[name] for name in ("id", "timestamp", "bundle", "rules", "rung")},
    )


@dataclass(frozen=True, kw_only=True)
class LogReplay:
    """Cascade of a bundle that answers logged requests again."""

    bundle: Bundle
    rules_store: Path | None
    items_store: Path | None
    most_examples: int = 10
    """of a cause"""
    _by_version: dict[str, Rules | None] = field(default_factory=dict)

    def of(self, served: Sequence[ServedSlate], progress: Progress = silent) -> Consistency:
        """Answer the requests of served slates again and name the cause of each difference."""
        with TemporaryDirectory() as folder:
            past = _PastItems(folder=Path(folder), bundle=self.bundle, rules_store=self.rules_store)
            return self._compared(served, past, progress)

    def _compared(self, served: Sequence[ServedSlate], past: "_PastItems", progress: Progress) -> Consistency:
        stages = load_stages(self.bundle, rules_store=self.rules_store, items_store=self.items_store)
        policy = stages[-1].policy
        reads_exposure = bool(policy.exposure_keys(np.arange(len(policy.items))))
        causes: Counter[str] = Counter()
        largest = 0.0
        examples: list[dict[str, Any]] = []
        batches = [served[start : start + BATCH] for start in range(0, len(served), BATCH)]
        for batch in tracked(batches, len(batches), progress, "requests answered again"):
            for slate, found in zip(batch, self._answers(batch, stages), strict=True):
                cause = self._cause(slate, found, stages, reads_exposure, past)
                causes[cause] += 1
                if found is not None and found_items(found) == slate.items:
                    largest = max([largest, *differences(slate, found)])
                if cause in COMPARED[1:] and causes[cause] <= self.most_examples:
                    now = [] if found is None else list(found_items(found))
                    examples.append({"id": slate.id, "cause": cause, "served": list(slate.items), "found": now})
        return Consistency(causes=causes, largest=largest, examples=examples)

    def _answers(self, served: Sequence[ServedSlate], stages: Stages) -> list[Slate | None]:
        """Answer the requests that this bundle served by its models; None for the others."""
        answers: dict[str, Slate] = {}
        for without_ranker in (False, True):
            own = [one for one in served if self._comparable(one) and PREDICTIONS[one.rung] == without_ranker]
            cascade = light(stages) if without_ranker else stages
            if own:
                answers |= {
                    one.id: slate
                    for one, slate in zip(own, recommend([one.query for one in own], cascade), strict=True)
                }
        return [answers.get(one.id) for one in served]

    def _comparable(self, served: ServedSlate) -> bool:
        return served.bundle == self.bundle.fingerprint and served.rung in PREDICTIONS

    def _cause(
        self, served: ServedSlate, found: Slate | None, stages: Stages, reads_exposure: bool, past: "_PastItems"
    ) -> str:
        if found is None:
            return RELEASE if served.bundle != self.bundle.fingerprint else FALLBACK
        if is_same(served, found):
            return SAME
        if found.rules != served.rules and self._same_by_its_rules(served, stages):
            return RULES
        if is_exchanged(served, found):
            return NUMERIC
        if reads_exposure and not served.query.exposure:
            return EXPOSURE
        return ITEMS if self._items_explain(served, found, past) else UNEXPLAINED

    def _same_by_its_rules(self, served: ServedSlate, stages: Stages) -> bool:
        """Answer by the version of the rules that served."""
        if (last := self._stage_of(served.rules, stages)) is None:
            return False
        cascade = [*stages[:-1], last]
        return is_same(served, recommend([served.query], light(cascade) if PREDICTIONS[served.rung] else cascade)[0])

    def _stage_of(self, version: str, stages: Stages) -> Rules | None:
        """Return the last stage by a version of the rules, over the items as they are now; None where it is not known."""
        if version not in self._by_version:
            items = getattr(stages[-1], "items", None)
            own = rules_maker(self.bundle, items=items)(self._rules_of(version))
            self._by_version[version] = own if own.policy.rules.hash == version else None
        return self._by_version[version]

    def _rules_of(self, version: str) -> RuleSet | None:
        """Read a version from the store; None, for the bundle's own rules, where it holds none."""
        try:
            return None if self.rules_store is None else RuleSet.parse(RuleStore(self.rules_store).read(version))
        except ConfigError:
            return None

    def _items_explain(self, served: ServedSlate, found: Slate, past: "_PastItems") -> bool:
        """Return whether the items as they were when the slate was served give it.

        Where the store has put changes together since, an item of one of both slates that was changed is enough.
        """
        if self.items_store is None:
            return False
        moment, changes = datetime.fromtimestamp(served.timestamp, UTC), ItemStore(self.items_store).history()
        before = [one for one in changes if datetime.fromisoformat(one.when) <= moment]
        if len(before) == len(changes):
            return False
        if [one.number for one in changes] != [*range(1, len(changes) + 1)]:
            both = {*served.items, *found_items(found)}
            return any(one.item in both for one in changes if one not in before)
        stages = past.stages(before)
        return is_same(served, recommend([served.query], light(stages) if PREDICTIONS[served.rung] else stages)[0])


@dataclass(frozen=True, kw_only=True)
class _PastItems:
    """Cascades over the items as they were at some moments."""

    folder: Path
    """in which stores of changes are made"""
    bundle: Bundle
    rules_store: Path | None
    known: dict[int, Stages] = field(default_factory=dict)
    """number of changes -> the cascade after them"""

    def stages(self, changes: Sequence[Change]) -> Stages:
        """Return the cascade over the items after these changes."""
        num = len(changes)
        if num not in self.known:
            store = self.folder / str(num)
            if changes:
                ItemStore(store).replace_all(changes, changes[-1].number)
            self.known[num] = load_stages(self.bundle, rules_store=self.rules_store, items_store=store)
        return self.known[num]


def found_items(slate: Slate) -> tuple[str, ...]:
    return tuple(one.item for one in slate.items)


def differences(served: ServedSlate, found: Slate) -> list[float]:
    """Differences of the utilities by place, relative to the largest one."""
    ours = [one.utility for one in found.items]
    largest = max(map(abs, (*served.utilities, *ours)), default=0.0) or 1.0
    return [abs(one - other) / largest for one, other in zip(served.utilities, ours, strict=True)]


def is_same(served: ServedSlate, found: Slate) -> bool:
    """Return whether items and places are the same, and utilities within TOLERANCE."""
    return found_items(found) == served.items and max(differences(served, found), default=0.0) <= TOLERANCE


def is_exchanged(served: ServedSlate, found: Slate) -> bool:
    """Return whether rounding explains the places: utilities within TOLERANCE, the same items but for the last one."""
    ours = found_items(found)
    if len(ours) != len(served.items) or max(differences(served, found), default=0.0) > TOLERANCE:
        return False
    return set(ours) == set(served.items) or set(ours[:-1]) == set(served.items[:-1])
