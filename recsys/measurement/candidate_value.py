"""Value of a candidate from the own log: logged requests answered by another bundle, rules or policy, beside what was
shown and its propensities.

The candidate answers without exploration, so its slates are those that it would show but for chance. It reads the logged
queries: history, profile, context and items barred for the user are those of the moment.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl

from recsys.bundle import Bundle
from recsys.contracts import PAD, Query, Slate
from recsys.errors import ConfigError, DataError
from recsys.experiments.slate_off_policy import NO_ITEM, SlateLog
from recsys.expressions import suggestion
from recsys.measurement.consistency import ServedSlate, served_slates
from recsys.measurement.log_rows import CREDIT
from recsys.measurement.outcomes import IMPRESSIONS, MeasuredLog
from recsys.pipeline import Stage, through
from recsys.policy.compose import CompiledPolicy
from recsys.policy.overrides import INTERLEAVE, SOURCES, overridden
from recsys.policy.rules.rule_set import RuleSet
from recsys.progress import Progress, silent, tracked
from recsys.stages import Rules, load_rules, load_stages

BATCH = 64
RUNGS = ("recommend", "recommend_explained")
"""slates of the whole cascade, whose propensities are those of its exploration"""
GREEDY: Mapping[str, Any] = {"exploration": {"kind": "none"}}


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A bundle with rules and overrides of its policy; raises ConfigError for those that do not fit it."""

    bundle: Bundle
    rules: RuleSet | None = None
    """None for those of the bundle"""
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def answers(self, queries: Sequence[Query], progress: Progress = silent) -> list[Slate]:
        """Answer logged queries without exploration."""
        prepared = self.prepared(queries, progress)
        return prepared.slates(self.overrides)

    def policy(self) -> CompiledPolicy:
        """Return its policy without the overrides."""
        return load_rules(self.bundle, rules=self.rules).policy

    def prepared(self, queries: Sequence[Query], progress: Progress = silent) -> "PreparedRequests":
        """Retrieve and rank for logged queries, once for all policies that leave the sources as they are here."""
        last = load_rules(self.bundle, rules=self.rules)
        overridden(last.policy, {**self.overrides, **GREEDY})  # refused here, before all requests are answered
        prepared = PreparedRequests(queries=queries, stages=load_stages(self.bundle)[:-1], last=last)
        prepared.retrieve(self.overrides, progress)
        return prepared


@dataclass(kw_only=True)
class PreparedRequests:
    """Logged requests with their ranked candidates, for which policies fill slates.

    Policies with other factors of the sources retrieve and rank anew.
    """

    queries: Sequence[Query]
    stages: Sequence[Stage]
    """those before the policy"""
    last: Rules
    _factors: Mapping[str, Any] = field(default_factory=dict, init=False)
    """of the sources, that the batches were retrieved with"""
    _batches: list[dict[str, Any]] = field(default_factory=list, init=False)

    def retrieve(self, overrides: Mapping[str, Any], progress: Progress = silent) -> None:
        """Retrieve and rank as these overrides do."""
        self._factors = _factors_of(overrides)
        starts = range(0, len(self.queries), BATCH)
        self._batches = [
            through({"QUERY": self._under(self.queries[start : start + BATCH], overrides)}, self.stages)
            for start in tracked(starts, len(starts), progress, "requests answered by the candidate")
        ]

    def slates(self, overrides: Mapping[str, Any]) -> list[Slate]:
        """Fill slates without exploration; ConfigError for overrides that do not fit the bundle."""
        return [slate for one in self._ranked(overrides) for slate in self.last(one)["SLATE"]]

    def items(self, overrides: Mapping[str, Any]) -> list[list[str]]:
        """Return the ids of the items of the same slates, without their explanations."""
        ids = self.last.policy.items
        return [
            [ids[row] for row in rows if row != PAD] for one in self._ranked(overrides) for rows in self.last.rows(one)
        ]

    def _ranked(self, overrides: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the tensors of each batch, with the overrides in its queries."""
        overridden(self.last.policy, {**overrides, **GREEDY})
        if _factors_of(overrides) != self._factors:
            self.retrieve(overrides)
        for one in self._batches:
            yield {**one, "QUERY": self._under(one["QUERY"], overrides)}

    def _under(self, queries: Sequence[Query], overrides: Mapping[str, Any]) -> list[Query]:
        return [replace(query, arms={}, policy={**overrides, **GREEDY}) for query in queries]


def _factors_of(overrides: Mapping[str, Any]) -> dict[str, float]:
    """Return the factors of the sources that change a weight."""
    return {name: factor for name, factor in overrides.get(SOURCES, {}).items() if factor != 1}


@dataclass(frozen=True, kw_only=True)
class AnsweredLog:
    """A measured log with the candidates of a bundle for its requests."""

    rows: pl.DataFrame
    """credited items of the served slates"""
    served: Sequence[ServedSlate]
    prepared: PreparedRequests
    credit: str

    @staticmethod
    def of(
        log: MeasuredLog,
        candidate: Candidate,
        outcome: str,
        *,
        requests: int,
        days: int | None,
        progress: Progress = silent,
    ) -> "AnsweredLog":
        """Read logged slates with their credit; DataError where none can be compared.

        requests: at most, always the same of a log; days: the newest ones alone
        """
        if outcome not in log.settings.outcomes:
            raise ConfigError(f"{outcome!r} is no outcome; {suggestion(outcome, log.settings.outcomes)}")
        served = {
            one.id: one
            for one in served_slates(log.log, requests, days)
            if one.rung in RUNGS and INTERLEAVE not in one.query.policy  # whose propensities nobody knows
        }
        rows = _credited(log, served, outcome)
        kept = [served[name] for name in rows["id"].unique(maintain_order=True)]
        if not kept:
            raise DataError(
                f"no slate of the whole cascade has a window of {outcome!r} that is over; log longer, or take another outcome"
            )
        prepared = candidate.prepared([one.query for one in kept], progress)
        return AnsweredLog(rows=rows, served=kept, prepared=prepared, credit=CREDIT + outcome)

    def under(self, overrides: Mapping[str, Any]) -> SlateLog:
        """Return the logged slates beside those of the policy with overrides."""
        return _joined(self.rows, self.served, self.prepared.items(overrides), self.credit)


def _credited(log: MeasuredLog, served: Mapping[str, ServedSlate], outcome: str) -> pl.DataFrame:
    """Rows of the items of served slates whose window is over, by slate and position."""
    columns = ["id", "user", "position", "item", "propensity", CREDIT + outcome]
    parts = [log.table(IMPRESSIONS, day, columns) for day in sorted(log.days(IMPRESSIONS))]
    known = pl.Series("id", list(served), dtype=pl.String)
    rows = pl.concat(parts).filter(pl.col("id").is_in(known.implode()), pl.col(CREDIT + outcome).is_not_null())
    return rows.filter(pl.col("item").is_not_null()).sort("id", "position")


def _joined(
    rows: pl.DataFrame, served: Sequence[ServedSlate], answers: Sequence[Sequence[str]], credit: str
) -> SlateLog:
    items: dict[str, int] = {}
    users: dict[str, int] = {}
    depth = max(len(one.items) for one in served)
    shape = (len(served), depth)
    shown, evaluated = np.full(shape, NO_ITEM), np.full(shape, NO_ITEM)
    propensities, rewards = np.ones(shape), np.zeros(shape)
    numbers = {one.id: number for number, one in enumerate(served)}
    at = rows["id"].replace_strict(numbers, return_dtype=pl.Int64).to_numpy(), rows["position"].to_numpy()
    shown[at] = [items.setdefault(item, len(items)) for item in rows["item"].to_list()]
    propensities[at] = rows["propensity"].fill_null(1.0).to_numpy()
    rewards[at] = rows[credit].to_numpy()
    for number, (one, answer) in enumerate(zip(served, answers, strict=True)):
        own = [items.setdefault(item, len(items)) for item in answer[: len(one.items)]]
        evaluated[number, : len(own)] = own
    return SlateLog(
        shown=shown,
        propensities=propensities,
        rewards=rewards,
        evaluated=evaluated,
        users=np.array([users.setdefault(one.query.user, len(users)) for one in served]),
    )
