"""Feedback and impressions from the event log's Parquet partitions, appended to the data of the served run."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recsys.data.dataset import DTYPES, Dataset, action_columns
from recsys.data.description import ITEM, TIMESTAMP, USER, Description
from recsys.data.forgotten import FILE, FORGOTTEN, NOBODY, ForgottenUsers, read_forgotten, without_forgotten
from recsys.data.pseudonyms import IDENTITY, STORED_DIGITS, pseudonym, read_identity
from recsys.data.row_errors import shortened
from recsys.data.sources.log_files import log_files, read_log_file
from recsys.data.sources.tables import Tables
from recsys.data.validation import RawTable, validated
from recsys.errors import DataError, check_ranges

ID, CONTEXT, REQUEST, POSITION, KNOWN = "id", "context", "request_id", "position", "known_at"
ACTION, WORD = "action_", "word_"
"""column prefixes of actions in the partitions, numbers and words, against name clashes with other columns"""
PREFIXES = {"number": ACTION, "word": WORD}
FEEDBACK_FILES, SHOWN_FILES = (f"{kind}/day=*/*.parquet" for kind in ("feedback", "impressions"))
SHOWN = (USER, TIMESTAMP, REQUEST, "query", ITEM, POSITION, "propensity")
DONE = (ID, USER, TIMESTAMP, ITEM, CONTEXT, REQUEST)
OURS_ALONE = "keep nothing but the event log's files there"
SCALAR = ("category", "text")
ATTEMPTS = 5
"""to read the files, while the log that is being written merges some of them"""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EventLogSource:
    """Feedback of the log, with catalogue, users and objectives of the served run.

    Users in the list `forgotten` beside the folder of the log are left out. A user whom the log names by a pseudonym and the
    tables by its id is one, by the key beside the folder. A record counts once, whatever the number and order of its copies.
    Feedback of the same user that names its request, within `wait_s`, labels the impression of that request; all other
    impressions are labelled 0. Of two requests of one id the first counts.
    """

    folder: str
    """holds feedback/day=<day>/*.parquet and impressions/day=<day>/*.parquet"""
    description: str
    """description.yaml in the data folder of the run that was served"""
    history: bool
    """keep the interactions of that run beside those of the log"""
    wait_s: float
    """time after which an impression has no more outcome; impressions less than that before the end are left out"""

    def __post_init__(self) -> None:
        check_ranges("data", wait_s=(self.wait_s, 0.0, 1e9))

    def load(self) -> Dataset:
        """Load the data set; DataError names file, column, value and remedy."""
        forgotten = self._forgotten()
        base = without_forgotten(Tables(description=self.description).load(), forgotten)
        if not base.description.clock:
            raise DataError(f"{self.description}: there is no time, but the log has one; name tables with timestamps")
        records = _records(Path(self.folder), FEEDBACK_FILES)
        if missing := [column for column in DONE if column not in records.columns]:
            raise DataError(f"{self.folder}: no file of the feedback has a column {missing[0]!r}; {OURS_ALONE}")
        records = records.filter(forgotten.keeps(records, timed=True))
        ids = self._ids(base.users[USER], records[USER])
        records = records.with_columns(pl.col(USER).replace(ids))
        unique = _unique(records, base.description)
        events = _events(unique, base.description, self.folder)
        dataset = validated(
            name=base.name,
            interactions=_table(self.folder, pl.concat([base.interactions, events]) if self.history else events),
            items=_table(self.description, base.items),
            users=_table(self.description, _with_strangers(base.users, events)),
            description=base.description,
        )
        impressions = self._impressions(unique, events, base.description, forgotten, ids)
        notes = (*dataset.notes, *_notes(records, events, base, impressions))
        return replace(dataset, notes=notes, impressions=impressions)

    def _forgotten(self) -> ForgottenUsers:
        beside = Path(self.folder).parent / FORGOTTEN
        return read_forgotten(beside) if (beside / FILE).exists() else NOBODY

    def _ids(self, users: pl.Series, logged: pl.Series) -> Mapping[str, str]:
        """Return pseudonym in the log -> id in the tables; DataError where the log has pseudonyms and their key is away."""
        key = Path(self.folder).parent / IDENTITY
        if key.exists():
            secret = read_identity(key)
            return {pseudonym(secret, user): user for user in users}
        if _are_pseudonyms(logged) and not _are_pseudonyms(users):
            raise DataError(
                f"{self.folder} names users by pseudonyms (--users hashed) and the tables by their ids, and {key} is missing, "
                "so that a person would count as two users; copy the key from the folder of the deployment"
            )
        return {}

    def _impressions(
        self,
        feedback: pl.DataFrame,
        events: pl.DataFrame,
        description: Description,
        forgotten: ForgottenUsers,
        ids: Mapping[str, str],
    ) -> pl.DataFrame | None:
        """Return Dataset.impressions; None without any. feedback, events: the same records, one row each."""
        if not any(Path(self.folder).glob(SHOWN_FILES)):
            return None
        records = _records(Path(self.folder), SHOWN_FILES, SHOWN)
        shown = _shown(records.filter(forgotten.keeps(records, timed=True))).with_columns(
            pl.col(USER).replace(ids), (pl.col(TIMESTAMP) + self.wait_s).alias(KNOWN)
        )
        kept = shown.filter(pl.col(KNOWN) <= records[TIMESTAMP].max())
        answers = feedback.select(USER, REQUEST, ITEM, at=TIMESTAMP, event=pl.int_range(pl.len()))
        named = answers.join(kept.select(USER, REQUEST, ITEM, KNOWN), on=[USER, REQUEST, ITEM])
        came = _best(named.filter(pl.col("at") <= pl.col(KNOWN)), events, description)
        nothing = pl.lit(np.zeros(len(description.objectives), np.float32).tolist(), came.schema["labels"])
        return (
            kept.join(came, on=[REQUEST, ITEM], how="left", maintain_order="left")
            .with_columns(pl.col("labels").fill_null(nothing))
            .rename({REQUEST: "request"})
        )


def _records(
    folder: Path, pattern: str, columns: Sequence[str] | None = None, attempts: int = ATTEMPTS
) -> pl.DataFrame:
    """Read all rows of all files, all columns for None; columns that a file lacks are null."""
    if not (found := log_files(folder.glob(pattern))).current:
        raise DataError(f"{folder}: there is no {pattern}; name the folder that the event log is written to")
    for path in found.foreign:
        logger.warning("%s is no file of the event log and is left out", path)
    try:
        return pl.concat([read_log_file(file.path, columns) for file in found.current], how="diagonal")
    except FileNotFoundError:  # merged into another file since it was listed
        if attempts:
            return _records(folder, pattern, columns, attempts - 1)
        raise DataError(f"{folder}: its files change all the time; {OURS_ALONE}") from None
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise DataError(f"{folder}: cannot be read: {reason}; {OURS_ALONE}") from None


def _are_pseudonyms(users: pl.Series) -> bool:
    return len(users) > 0 and users.str.contains(f"^[0-9a-f]{{{STORED_DIGITS}}}$").all()


def _logged(description: Description) -> dict[str, str]:
    """Return column of the partitions -> action."""
    return {f"{PREFIXES[kind]}{name}": name for name, kind in description.actions.items()}


def _described(records: pl.DataFrame, description: Description) -> list[str]:
    return [column for column in _logged(description) if column in records.columns]


def _unique(records: pl.DataFrame, description: Description) -> pl.DataFrame:
    """Keep one row per id; of differing copies the smallest, independent of their order."""
    order = [ID, TIMESTAMP, USER, ITEM, CONTEXT, *_described(records, description), REQUEST]
    return records.sort(order).unique(ID, keep="first", maintain_order=True)


def _shown(records: pl.DataFrame) -> pl.DataFrame:
    """Return one row per item of a request, by time, request and position."""
    ordered = records.sort(REQUEST, TIMESTAMP, USER, POSITION, ITEM, "propensity", "query", nulls_last=True)
    own = pl.struct(TIMESTAMP, USER)
    first = ordered.filter(own == own.first().over(REQUEST)).unique([REQUEST, POSITION], keep="first")
    return first.filter(pl.col(ITEM).is_not_null()).sort(TIMESTAMP, REQUEST, POSITION)


def _best(answers: pl.DataFrame, events: pl.DataFrame, description: Description) -> pl.DataFrame:
    """Return, per request and item, the maximum of every objective [T] over its feedback, NaN where unknown.

    Column `event` of the feedback: its row in events.
    """
    order = answers.sort(REQUEST, ITEM)
    first = order.select(pl.struct(REQUEST, ITEM).is_first_distinct()).to_series()
    actions = action_columns(events[order["event"].to_list()], description)
    labels = description.labels(actions, order.height, first.cum_sum().to_numpy().astype(np.int64) - 1)
    starts = first.arg_true().to_numpy()
    best = np.fmax.reduceat(labels, starts, axis=0) if len(starts) else labels
    dtype = pl.Array(pl.Float32, labels.shape[1])
    return order[starts.tolist()].select(REQUEST, ITEM).with_columns(labels=pl.Series(best, dtype=dtype))


def _events(unique: pl.DataFrame, description: Description, folder: str) -> pl.DataFrame:
    """Return interactions in the columns of the description, one row per record."""
    described = _described(unique, description)
    contexts = [_parsed(text, id, folder) for id, text in unique.select(ID, CONTEXT).iter_rows()]
    return unique.select(
        USER,
        ITEM,
        TIMESTAMP,
        *(
            (pl.col(column) if column in described else pl.lit(None, DTYPES[description.actions[name]])).alias(name)
            for column, name in _logged(description).items()
        ),
        *(_context(name, kind, contexts, folder) for name, kind in description.context.items()),
    )


def _parsed(text: str | None, id: str, folder: str) -> Mapping[str, Any]:
    try:
        context = json.loads(text or "")
    except ValueError:
        context = None
    if not isinstance(context, dict):
        raise DataError(
            f"{folder}: the context of the record {id!r} is {shortened(text)}, no JSON object; {OURS_ALONE}"
        )
    return context


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
    """Add records of new users: an unknown user is expected, an unknown item is an error."""
    strangers = events.select(USER).unique().join(users, on=USER, how="anti")
    return pl.concat([users, strangers], how="diagonal")


def _table(file: str, frame: pl.DataFrame) -> RawTable:
    names = {key: key for key in (USER, ITEM, TIMESTAMP) if key in frame.columns}
    return RawTable(file=file, frame=frame, names=names, separator="|", unit="s")


def _notes(records: pl.DataFrame, events: pl.DataFrame, base: Dataset, impressions: pl.DataFrame | None) -> list[str]:
    notes = [f"events from the log: {events.height}"]
    if impressions is not None:
        answered = int((np.nan_to_num(impressions["labels"].to_numpy()) > 0).any(axis=1).sum())
        notes.append(f"items shown: {impressions.height}, of which something came of {answered}")
    if copies := records.height - events.height:
        notes.append(f"copies of records that were left out: {copies}")
    known = _logged(base.description)
    unknown = sorted(name for name in records.columns if name.startswith((ACTION, WORD)) and name not in known)
    if unknown:
        names = (one.removeprefix(ACTION).removeprefix(WORD) for one in unknown)
        notes.append(f"actions in the log that are not described: {', '.join(names)}")
    return notes
