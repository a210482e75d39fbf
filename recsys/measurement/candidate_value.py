"""Value of a candidate from the own log: logged requests answered by another bundle, rules or policy, beside what was
shown and its propensities.

The candidate answers without exploration, so its slates are those that it would show but for chance. It reads the logged
queries: history, profile, context and items barred for the user are those of the moment.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl

from recsys.bundle import Bundle
from recsys.contracts import Query, Slate
from recsys.errors import ConfigError, DataError
from recsys.experiments.slate_off_policy import NO_ITEM, SlateLog
from recsys.expressions import suggestion
from recsys.measurement.consistency import ServedSlate, served_slates
from recsys.measurement.log_rows import CREDIT
from recsys.measurement.outcomes import IMPRESSIONS, MeasuredLog
from recsys.pipeline import recommend
from recsys.policy.overrides import overridden
from recsys.policy.rules.rule_set import RuleSet
from recsys.progress import Progress, silent, tracked
from recsys.stages import load_rules, load_stages

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
        last = load_rules(self.bundle, rules=self.rules)
        overrides = {**self.overrides, **GREEDY}
        overridden(last.policy, overrides)
        stages = (*load_stages(self.bundle)[:-1], last)
        batches = [queries[start : start + BATCH] for start in range(0, len(queries), BATCH)]
        found: list[Slate] = []
        for batch in tracked(batches, len(batches), progress, "requests answered by the candidate"):
            own = [replace(query, policy=overrides, arms={}) for query in batch]
            found += recommend(own, stages)
        return found


def slate_log(
    log: MeasuredLog,
    candidate: Candidate,
    outcome: str,
    *,
    requests: int,
    days: int | None,
    progress: Progress = silent,
) -> SlateLog:
    """Return logged slates with their credit, beside those of a candidate; DataError where none can be compared.

    requests: at most, always the same of a log; days: the newest ones alone
    """
    if outcome not in log.settings.outcomes:
        raise ConfigError(f"{outcome!r} is no outcome; {suggestion(outcome, log.settings.outcomes)}")
    served = {one.id: one for one in served_slates(log.log, requests, days) if one.rung in RUNGS}
    rows = _credited(log, served, outcome)
    kept = [served[name] for name in rows["id"].unique(maintain_order=True)]
    if not kept:
        raise DataError(
            f"no slate of the whole cascade has a window of {outcome!r} that is over; log longer, or take another outcome"
        )
    slates = candidate.answers([one.query for one in kept], progress)
    return _joined(rows, kept, slates, CREDIT + outcome)


def _credited(log: MeasuredLog, served: Mapping[str, ServedSlate], outcome: str) -> pl.DataFrame:
    """Rows of the items of served slates whose window is over, by slate and position."""
    columns = ["id", "user", "position", "item", "propensity", CREDIT + outcome]
    parts = [log.table(IMPRESSIONS, day, columns) for day in sorted(log.days(IMPRESSIONS))]
    known = pl.Series("id", list(served), dtype=pl.String)
    rows = pl.concat(parts).filter(pl.col("id").is_in(known.implode()), pl.col(CREDIT + outcome).is_not_null())
    return rows.filter(pl.col("item").is_not_null()).sort("id", "position")


def _joined(rows: pl.DataFrame, served: Sequence[ServedSlate], slates: Sequence[Slate], credit: str) -> SlateLog:
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
    for number, (one, slate) in enumerate(zip(served, slates, strict=True)):
        own = [items.setdefault(item.item, len(items)) for item in slate.items[: len(one.items)]]
        evaluated[number, : len(own)] = own
    return SlateLog(
        shown=shown,
        propensities=propensities,
        rewards=rewards,
        evaluated=evaluated,
        users=np.array([users.setdefault(one.query.user, len(users)) for one in served]),
    )
