"""What users did with what was served, from the event log's Parquet partitions, behind what a run was trained on."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from recsys.data.dataset import DTYPES, Dataset
from recsys.data.description import ITEM, TIMESTAMP, USER, Description
from recsys.data.sources.tables import Tables
from recsys.data.validation import Table, shortened, validated
from recsys.errors import DataError

ID, CONTEXT = "id", "context"
ACTION = "action_"
"""before the name of an action in the partitions, which may be that of another column"""
FILES = "feedback/day=*/*.parquet"
SCALAR = ("category", "text")


@dataclass(frozen=True, kw_only=True)
class EventLog:
    """The feedback of the log, with the catalogue, the users and the objectives of the run that was served.

    A record counts once, however often and in whatever order its copies lie in the files.
    """

    folder: str
    """holds feedback/day=<day>/*.parquet"""
    description: str
    """description.yaml in the data folder of the run that was served"""
    history: bool
    """whether the interactions of that run are kept beside those of the log"""

    def load(self) -> Dataset:
        """Raises DataError with file, column, what was found and what to do."""
        base = Tables(description=self.description).load()
        if not base.description.clock:
            raise DataError(f"{self.description}: there is no time, but the log has one; name tables with timestamps")
        records = _records(Path(self.folder))
        events = _events(records, base.description, self.folder)
        dataset = validated(
            name=base.name,
            interactions=_table(self.folder, pl.concat([base.interactions, events]) if self.history else events),
            items=_table(self.description, base.items),
            users=_table(self.description, _with_strangers(base.users, events)),
            description=base.description,
        )
        return replace(dataset, notes=(*dataset.notes, *_notes(records, events, base)))


def _records(folder: Path) -> pl.DataFrame:
    """All rows of all files; columns that a file lacks are null."""
    files = sorted(folder.glob(FILES))
    if not files:
        raise DataError(f"{folder}: there is no {FILES}; name the folder that the event log is written to")
    try:
        return pl.concat([pl.read_parquet(file, glob=False) for file in files], how="diagonal")
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise DataError(f"{folder}: cannot be read: {reason}; keep nothing but the event log's files there") from None


def _events(records: pl.DataFrame, description: Description, folder: str) -> pl.DataFrame:
    """Interactions in the columns of the description, a row an id.

    Of copies that differ the least row is kept, whatever came first.
    """
    described = [column for column in (f"{ACTION}{name}" for name in description.actions) if column in records.columns]
    order = [ID, TIMESTAMP, USER, ITEM, CONTEXT, *described]
    unique = records.sort(order).unique(ID, keep="first", maintain_order=True)
    contexts = [json.loads(text) for text in unique[CONTEXT]]
    return unique.select(
        USER,
        ITEM,
        TIMESTAMP,
        *(
            (pl.col(f"{ACTION}{name}") if f"{ACTION}{name}" in described else pl.lit(None, pl.Float64)).alias(name)
            for name in description.actions
        ),
        *(_context(name, kind, contexts, folder) for name, kind in description.context.items()),
    )


def _context(name: str, kind: str, contexts: list[Mapping[str, Any]], folder: str) -> pl.Series:
    values = [context.get(name) for context in contexts]
    if kind in SCALAR:
        values = [str(value) if isinstance(value, int | float) else value for value in values]
    try:
        return pl.Series(name, values, dtype=DTYPES[kind])
    except (TypeError, pl.exceptions.PolarsError):
        wrong = next(value for value in values if not _fits(value, kind))
        raise DataError(
            f"{folder}, context {name!r}: {shortened(wrong)} is not of the kind {kind!r}; "
            "correct the kind in the description, or leave the column out"
        ) from None


def _fits(value: Any, kind: str) -> bool:
    try:
        pl.Series([value], dtype=DTYPES[kind])
    except (TypeError, pl.exceptions.PolarsError):
        return False
    return True


def _with_strangers(users: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
    """Everybody may come, a user of whom nothing was known before is no mistake; an item is."""
    strangers = events.select(USER).unique().join(users, on=USER, how="anti")
    return pl.concat([users, strangers], how="diagonal")


def _table(file: str, frame: pl.DataFrame) -> Table:
    names = {key: key for key in (USER, ITEM, TIMESTAMP) if key in frame.columns}
    return Table(file=file, frame=frame, names=names, separator="|")


def _notes(records: pl.DataFrame, events: pl.DataFrame, base: Dataset) -> list[str]:
    notes = [f"events from the log: {events.height}"]
    if copies := records.height - events.height:
        notes.append(f"copies of records that were left out: {copies}")
    known = {f"{ACTION}{name}" for name in base.description.actions}
    if unknown := sorted(name for name in records.columns if name.startswith(ACTION) and name not in known):
        notes.append(
            f"actions in the log that are not described: {', '.join(one.removeprefix(ACTION) for one in unknown)}"
        )
    return notes
