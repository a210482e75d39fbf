"""Statistics of a data set that predict the quality of a training; advice.py turns them into sentences.

R events, U users, N items.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from recsys.data.dataset import Dataset
from recsys.data.description import ITEM, TIMESTAMP, USER
from recsys.data.ids import ids_of
from recsys.data.inspection.ids import NOBODY, NUMBERS_FOR_NOBODY, IdVariants, id_variants
from recsys.data.inspection.times import TimeFacts, time_facts
from recsys.data.validation import RawTable

CRAWLER_FACTOR, CRAWLER_EVENTS = 10, 1_000
"""a crawler has more events than this many times the 99th percentile of a user, and at least so many"""
NEWEST = 0.2
"""share of newest events that are compared with all before them"""


@dataclass(frozen=True, kw_only=True)
class TableFacts:
    """Rows of one file before and after validation."""

    table: str
    """interactions, items or users"""
    file: str
    rows: int
    kept: int


@dataclass(frozen=True, kw_only=True)
class ActivityFacts:
    """Events of one user or of one item, over all users or items that have any."""

    key: str
    """user or item"""
    count: int
    once: int
    """number with one event"""
    quantiles: Mapping[float, int]
    """quantile -> number of events"""
    top_share: float
    """share of all events on the most active 1%"""
    histogram: tuple[tuple[str, int], ...]
    """events -> users or items, in powers of two"""


@dataclass(frozen=True, kw_only=True)
class ColumnFacts:
    """One described column."""

    table: str
    column: str
    kind: str
    filled: float
    """share of the rows"""
    distinct: int


@dataclass(frozen=True, kw_only=True)
class ObjectiveFacts:
    """One objective over all events."""

    name: str
    expression: str
    reached: int
    unknown: int
    """events whose label is missing"""
    rate: float
    """of the known labels; 0 where none is known"""
    users: int
    """users that reached it at least once"""


@dataclass(frozen=True, kw_only=True)
class LinkFacts:
    """Ids of the interactions compared with those of their record table."""

    key: str
    file: str
    ids: int
    """distinct ids of the interactions"""
    unknown: int
    """ids without a row in the table"""
    example: str | None
    event_share: float
    """share of events of unknown ids"""
    unused: int
    """ids of the table that occur in no event"""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All findings that `data check` prints."""

    name: str
    tables: tuple[TableFacts, ...]
    activity: tuple[ActivityFacts, ...]
    repeats: float
    """share of events whose user had an earlier event of the same item"""
    crawlers: tuple[tuple[str, int], ...]
    """user, events; most first"""
    nobody: tuple[tuple[str, int], ...]
    """users with an id such as guest, and their events"""
    columns: tuple[ColumnFacts, ...]
    time: TimeFacts | None
    order: str
    predefined: bool
    """the log has a published split"""
    variants: tuple[IdVariants, ...]
    links: tuple[LinkFacts, ...]
    objectives: tuple[ObjectiveFacts, ...]
    target: str
    newcomers: Mapping[str, float] | None
    """user, item -> share of the newest events whose user or item occurs in none of the older ones; None without time"""
    notes: tuple[str, ...]
    """notes of reading and validation"""

    @property
    def events(self) -> int:
        return self.tables[0].kept

    def activity_of(self, key: str) -> ActivityFacts:
        return next(one for one in self.activity if one.key == key)


def find(tables: Mapping[str, RawTable], dataset: Dataset, *, now: float) -> Findings:
    """Inspect the raw tables and the validated data set; now: unix seconds."""
    log, described = dataset.interactions, dataset.description
    counts = {key: log.group_by(key).len().sort("len", key, descending=[True, False]) for key in (USER, ITEM)}
    records = {key: _record_ids(tables[f"{key}s"], key) for key in (USER, ITEM) if f"{key}s" in tables}
    kept = {"interactions": log.height} | {f"{key}s": len(ids) for key, ids in records.items()}
    return Findings(
        name=dataset.name,
        tables=tuple(
            TableFacts(table=key, file=table.file, rows=table.frame.height, kept=kept[key])
            for key, table in tables.items()
        ),
        activity=tuple(_activity(key, counts[key]["len"].to_numpy()) for key in (USER, ITEM)),
        repeats=1 - log.select(pl.struct(USER, ITEM).n_unique()).item() / log.height,
        crawlers=_crawlers(counts[USER]),
        nobody=_nobody(counts[USER]),
        columns=tuple(_column_facts(dataset)),
        time=time_facts(log[TIMESTAMP], now) if described.clock else None,
        order=described.order,
        predefined=described.split,
        variants=tuple(_variants(dataset)),
        links=tuple(_link(key, ids, tables[f"{key}s"].file, log[key]) for key, ids in records.items()),
        objectives=tuple(_objectives(dataset)),
        target=described.target,
        newcomers=_newcomers(log) if described.timeline else None,
        notes=dataset.notes,
    )


def _record_ids(table: RawTable, key: str) -> pl.Series:
    """Return the ids of items or users of a table, as validation reads them."""
    ids, _ = ids_of(table.frame[table.names[key]], table.file, table.missing)
    return ids.drop_nulls()


def _activity(key: str, events: np.ndarray) -> ActivityFacts:
    """Return activity facts from event counts [U] or [N], largest first."""
    shares = (0.1, 0.5, 0.9, 0.99, 1.0)
    powers = np.bincount(np.floor(np.log2(events)).astype(int))
    top = max(1, round(len(events) / 100))
    return ActivityFacts(
        key=key,
        count=len(events),
        once=int((events == 1).sum()),
        quantiles={share: int(np.quantile(events, share, method="lower")) for share in shares},
        top_share=float(events[:top].sum() / events.sum()),
        histogram=tuple((_range_text(power), int(number)) for power, number in enumerate(powers)),
    )


def _range_text(power: int) -> str:
    low, high = 2**power, 2 ** (power + 1) - 1
    return str(low) if low == high else f"{low:,}-{high:,}"


def _crawlers(counts: pl.DataFrame) -> tuple[tuple[str, int], ...]:
    found = counts.filter((pl.col("len") >= CRAWLER_EVENTS) & (pl.col("len") > CRAWLER_FACTOR * _usual(counts)))
    return tuple((user, int(number)) for user, number in found.iter_rows())


def _nobody(counts: pl.DataFrame) -> tuple[tuple[str, int], ...]:
    many = pl.col("len") > CRAWLER_FACTOR * _usual(counts)
    called = pl.col(USER).str.to_lowercase().is_in(NOBODY) | (pl.col(USER).is_in(NUMBERS_FOR_NOBODY) & many)
    return tuple((user, int(number)) for user, number in counts.filter(called).iter_rows())


def _usual(counts: pl.DataFrame) -> float:
    """Return the number of events of a busy user, the 99th percentile."""
    return float(np.quantile(counts["len"].to_numpy(), 0.99, method="lower"))


def _column_facts(dataset: Dataset) -> list[ColumnFacts]:
    described = dataset.description
    actions = {name: f"{kind}, an action" for name, kind in described.actions.items()}
    kinds: dict[str, tuple[pl.DataFrame, Mapping[str, str]]] = {
        "interactions": (dataset.interactions, actions | dict(described.context)),
        "items": (dataset.items, described.items),
        "users": (dataset.users, described.users),
    }
    return [
        ColumnFacts(
            table=table,
            column=column,
            kind=kind,
            filled=1 - frame[column].null_count() / frame.height,
            distinct=frame[column].drop_nulls().n_unique(),
        )
        for table, (frame, columns) in kinds.items()
        for column, kind in columns.items()
    ]


def _variants(dataset: Dataset) -> list[IdVariants]:
    """Return similar ids of users and items that validation keeps distinct, across all tables."""
    ids = {USER: dataset.users[USER], ITEM: dataset.items[ITEM]}
    return [variants for key, column in ids.items() for variants in id_variants(key, column)]


def _link(key: str, known: pl.Series, file: str, used: pl.Series) -> LinkFacts:
    """Compare the ids of a table with those of the events [R]."""
    ids = used.unique().sort()
    unknown = ids.filter(~ids.is_in(known.implode()))
    return LinkFacts(
        key=key,
        file=file,
        ids=len(ids),
        unknown=len(unknown),
        example=unknown[0] if len(unknown) else None,
        event_share=float(used.is_in(unknown.implode()).mean()),  # type: ignore[arg-type]
        unused=len(known) - (len(ids) - len(unknown)),
    )


def _objectives(dataset: Dataset) -> list[ObjectiveFacts]:
    labels, users = dataset.labels(), dataset.interactions[USER]
    found = []
    for index, (name, expression) in enumerate(dataset.description.objectives.items()):
        column = labels[:, index]
        known, reached = ~np.isnan(column), column > 0
        found.append(
            ObjectiveFacts(
                name=name,
                expression=expression,
                reached=int(reached.sum()),
                unknown=int((~known).sum()),
                rate=float(reached[known].mean()) if known.any() else 0.0,
                users=users.filter(pl.Series(reached)).n_unique(),
            )
        )
    return found


def _newcomers(log: pl.DataFrame) -> dict[str, float]:
    """Return newcomer shares of the newest events; the log is in time order."""
    older = log.height - max(1, round(NEWEST * log.height))
    rows = log.select(USER, ITEM).with_row_index("row")
    first = rows.select("row", **{key: pl.col("row").min().over(key) >= older for key in (USER, ITEM)})
    newest = first.filter(pl.col("row") >= older)
    return {key: float(newest[key].mean()) for key in (USER, ITEM)}  # type: ignore[arg-type]
