"""Validation of all sources: raw tables to a canonical `Dataset`, or one DataError.

Rows are counted as in the file, the first row of data is row 1.
"""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import polars as pl

from recsys.contracts import FUTURE_S
from recsys.data.dataset import Dataset, action_columns, canonical
from recsys.data.description import (
    ITEM,
    PARTS,
    SPLIT,
    TIMESTAMP,
    USER,
    Description,
    Order,
    did_you_mean,
    part_of_split,
)
from recsys.data.ids import NOTHING, ids_of, is_nothing, words_for_nothing
from recsys.data.personal_data import personal_notes
from recsys.data.row_errors import parsed_numbers, refuse_infinite, refuse_rows
from recsys.data.times import seconds_of
from recsys.errors import DataError

SESSION = "session"
MAX_UNKNOWN_SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class RawTable:
    """Raw table with its column mapping."""

    file: str
    """file name for messages"""
    frame: pl.DataFrame
    names: Mapping[str, str]
    """user, item, timestamp and session -> column of this table; without a timestamp `Description.order` is used; a session
    replaces a missing user"""
    separator: str
    """separator of entries of categories and vectors written as text"""
    hint: str = ""
    """possible reason for a missing column, part of the error"""
    notes: tuple[str, ...] = ()
    """notes for reports on reading the file"""
    missing: tuple[str, ...] = ()
    """null words beside the common ones (recsys/data/ids.py)"""
    unit: str | None = None
    """unit of numeric timestamps (recsys/data/times.py), None to detect it"""
    parts: "tuple[RawTable, ...]" = ()
    """files of a published split, concatenated in `frame`; empty for a single file"""


@dataclass(frozen=True, slots=True)
class Converted:
    """Converted column with notes for reports."""

    values: pl.Series
    notes: tuple[str, ...] = ()


def validated(
    *, name: str, interactions: RawTable, items: RawTable | None, users: RawTable | None, description: Description
) -> Dataset:
    """Check and convert every described column; raises DataError with file, column, row, value and what to do."""
    events, notes = _all_events(interactions, description)
    item_table, item_notes = (None, ()) if items is None else _records(items, ITEM, description.items)
    user_table, user_notes = (None, ()) if users is None else _records(users, USER, description.users)
    _check_known(interactions, events, items, item_table, ITEM)
    _check_known(interactions, events, users, user_table, USER)
    _check_words(interactions.file, events, description)
    dataset = canonical(name=name, interactions=events, items=item_table, users=user_table, description=description)
    if not dataset.positives().any():
        raise DataError(
            f"{interactions.file}: the target {description.target!r}, {description.objectives[description.target]!r}, "
            f"is true for none of {events.height} rows; correct the objective"
        )
    read = [note for table in (interactions, items, users) if table is not None for note in table.notes]
    return replace(dataset, notes=(*read, *notes, *item_notes, *user_notes, *dataset.notes, *personal_notes(dataset)))


def _check_words(file: str, events: pl.DataFrame, description: Description) -> None:
    """Raise DataError for an objective without a positive because of a misspelt word."""
    columns = [name for name, kind in description.actions.items() if kind == "word"]
    labels = description.labels(action_columns(events, description), events.height) > 0 if columns else None
    for objective, (name, expression) in enumerate(description.expressions().items()):
        read = [column for column in columns if column in expression.names]
        known = sorted({word for column in read for word in events[column].drop_nulls().unique()})
        for word in sorted(expression.words - {*known}) if read else ():
            near = did_you_mean(word, known)
            if near and labels is not None and not labels[:, objective].any():
                shown = ", ".join(known[:20])
                raise DataError(
                    f"{file}: objectives.{name} reads {word!r}{near}, which no row has in {' or '.join(read)}; "
                    f"there are {shown}"
                )


def _all_events(table: RawTable, description: Description) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Return the events of all files of a table, concatenated, with notes."""
    if not table.parts:
        return _events(table, description)
    frames, notes = zip(*(_events(part, description) for part in table.parts), strict=True)
    events = pl.concat(frames)
    if not description.clock:
        events = events.with_columns(_order_values(events[USER], description.order))
    return events, tuple(note for part in notes for note in part)


def _events(table: RawTable, description: Description) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Return the rows with a user and an item, with notes on dropped rows and merged ids."""
    _check_not_empty(table)
    users, items = _users(table), _ids(table, ITEM)
    times = _event_times(table) if description.clock else Converted(_order_values(users.values, description.order))
    kinds = {**description.actions, **description.context}
    columns = [users, items, times, *(_converted(table, column, kind) for column, kind in kinds.items())]
    columns += [_split_parts(table)] if description.split else []
    notes = [note for column in columns for note in column.notes]
    notes += [*_left_out(table, USER, users.values), *_left_out(table, ITEM, items.values)]
    frame = pl.DataFrame([column.values for column in columns])
    kept = frame.filter(pl.col(USER).is_not_null() & pl.col(ITEM).is_not_null())
    if not kept.height:
        key = USER if users.values.is_null().all() else ITEM
        raise DataError(f"{_where(table, table.names[key])}: no row has {_article(key)}; name another column")
    return kept, tuple(notes)


def _records(table: RawTable, key: str, kinds: Mapping[str, str]) -> tuple[pl.DataFrame, tuple[str, ...]]:
    _check_not_empty(table)
    ids = _ids(table, key)
    where, raw = _where(table, table.names[key]), table.frame[table.names[key]]
    twice = ids.values.is_not_null() & ~ids.values.is_first_distinct()
    refuse_rows(where, raw, twice, "occurs a second time", f"keep one row for every {key}")
    columns = [ids, *(_converted(table, column, kind) for column, kind in kinds.items())]
    frame = pl.DataFrame([column.values for column in columns])
    notes = (note for column in columns for note in column.notes)
    return frame.filter(pl.col(key).is_not_null()), (*notes, *_left_out(table, key, ids.values))


def _ids(table: RawTable, key: str) -> Converted:
    """Return normalised ids, null where missing."""
    ids, notes = ids_of(_column(table, table.names[key]), _where(table, table.names[key]), table.missing)
    return Converted(ids.alias(key), notes)


def _left_out(table: RawTable, key: str, ids: pl.Series) -> tuple[str, ...]:
    """Return a note on rows without an id, with their null words."""
    if not (num := ids.null_count()):
        return ()
    where, words = _where(table, table.names[key]), words_for_nothing(table.frame[table.names[key]], ids)
    return (f"{where}: rows without {_article(key)} that were left out: {num} ({words})",)


def _users(table: RawTable) -> Converted:
    """Return users; a described session replaces a missing user."""
    known = _ids(table, USER)
    if SESSION not in table.names or not known.values.null_count():
        return known
    sessions = _ids(table, SESSION)
    own = known.values.is_null() & sessions.values.is_not_null()
    meet = bool(sessions.values.filter(own).is_in(known.values.drop_nulls().unique().implode()).any())
    users = known.values.fill_null(f"{SESSION} " + sessions.values if meet else sessions.values)
    called = f" (called '{SESSION} <id>', for some of these ids are those of users)" if meet else ""
    note = f"{_where(table, table.names[USER])}: rows without a user that count for their session: {own.sum()}{called}"
    return Converted(users.alias(USER), (*known.notes, *sessions.notes, note))


def _article(key: str) -> str:
    return f"an {key}" if key == ITEM else f"a {key}"


def _event_times(table: RawTable) -> Converted:
    column, where = _column(table, table.names[TIMESTAMP]), _where(table, table.names[TIMESTAMP])
    present = _without_words(column, NOTHING)
    advice = "give every row a time, or say `order` where there is none"
    refuse_rows(where, column, present.is_null(), "is no time", advice)
    times = seconds_of(present, where, table.unit)
    late = times.seconds > time.time() + FUTURE_S
    refuse_rows(where, column, late, "lies in the future", "correct the time or its unit, `unit` names it")
    return Converted(times.seconds.alias(TIMESTAMP), times.notes)


def _split_parts(table: RawTable) -> Converted:
    """Return [R] values of PARTS."""
    name = table.names[SPLIT]
    column, where = _column(table, name), _where(table, name)
    words = column.cast(pl.String)
    known = {word: part for word in words.unique().drop_nulls() if (part := part_of_split(word))}
    parts = words.replace_strict(known, default=None, return_dtype=pl.String)
    refuse_rows(
        where, column, parts.is_null(), "is no part of a split", f"write one of {', '.join(PARTS)} in every row"
    )
    return Converted(parts.alias(SPLIT))


def _order_values(users: pl.Series, order: Order) -> pl.Series:
    """Return order values [R] Float64 for data without time."""
    order_of_row = {"file": pl.int_range(pl.len()), "user": pl.int_range(pl.len()).over(USER), "none": pl.lit(0)}[order]
    return users.to_frame().select(pl.col(USER), order_of_row.cast(pl.Float64).alias(TIMESTAMP))[TIMESTAMP]


def _converted(table: RawTable, name: str, kind: str) -> Converted:
    """Convert a column by its kind; null words are missing, in text only those that the table names."""
    raw, where = _column(table, name), _where(table, name)
    words = (*NOTHING, *table.missing) if kind in ("number", "timestamp") else table.missing
    column = _without_words(raw, words)
    notes: tuple[str, ...] = ()
    if num := column.null_count() - raw.null_count():
        notes = (f"{where}: words for nothing, read as missing: {num} ({words_for_nothing(raw, column, of=raw)})",)
    if kind == "timestamp":
        times = seconds_of(column, where)
        return Converted(times.seconds.alias(name), (*notes, *times.notes))
    return Converted(_CONVERSIONS[kind](column, where, table.separator).alias(name), notes)


def _without_words(column: pl.Series, words: Collection[str]) -> pl.Series:
    """Replace null words by null, and NaN in numeric columns."""
    if column.dtype == pl.String:
        return column.set(is_nothing(column, words), None) if words else column
    return column.fill_nan(None) if column.dtype.is_float() else column


def _number(column: pl.Series, where: str, separator: str) -> pl.Series:
    numbers = parsed_numbers(column, where)
    odd = numbers.is_null() & column.is_not_null()
    advice = "write a number, or nothing where it is missing"
    if column.dtype == pl.String and column.filter(odd).str.contains(r"^\s*-?\d+,\d+\s*$").any():
        advice = "write a point where numbers have a comma"
    refuse_rows(where, column, odd, "is not a number", advice)
    refuse_infinite(where, column, numbers)
    return numbers


def _word(column: pl.Series, where: str, separator: str) -> pl.Series:
    words = _text(column, where, separator).str.strip_chars()
    return words.set(words == "", None)


def _text(column: pl.Series, where: str, separator: str) -> pl.Series:
    if column.dtype.is_nested() or column.dtype.is_temporal() or column.dtype == pl.Binary:
        raise DataError(f"{where}: holds {column.dtype}; text was wanted, convert the column")
    text = column.cast(pl.String)
    return text.set(text == "", None)


def _categories(column: pl.Series, where: str, separator: str) -> pl.Series:
    sets = _lists(column, where, separator).cast(pl.List(pl.String))
    sets = sets.list.eval(pl.element().str.strip_chars().replace("", None).drop_nulls().unique(maintain_order=True))
    return sets.set(sets.list.len() == 0, None)


def _vector(column: pl.Series, where: str, separator: str) -> pl.Series:
    vectors = _lists(column, where, separator).cast(pl.List(pl.Float64), strict=False)
    odd = vectors.list.eval(pl.element().is_null() | ~pl.element().is_finite()).list.any()
    refuse_rows(where, column, odd, "has entries that are no finite numbers", "write numbers only")
    lengths = vectors.list.len()
    dimension = next((length for length in lengths if length is not None), 0)
    advice = f"the first one has {dimension}, write vectors of one length"
    refuse_rows(where, lengths, (lengths != dimension) | (lengths == 0), "is the length of this vector", advice)
    return vectors


_CONVERSIONS: dict[str, Callable[[pl.Series, str, str], pl.Series]] = {
    "word": _word,
    "category": _text,
    "text": _text,
    "categories": _categories,
    "number": _number,
    "vector": _vector,
}


def _lists(column: pl.Series, where: str, separator: str) -> pl.Series:
    if isinstance(column.dtype, pl.Array):
        column = column.arr.to_list()
    if not isinstance(column.dtype, pl.List):
        return _text(column, where, separator).str.split(separator)
    if column.dtype.inner.is_nested():
        raise DataError(f"{where}: holds {column.dtype}; one list a row was wanted, convert the column")
    return column


def _column(table: RawTable, name: str) -> pl.Series:
    known = table.frame.columns
    if name not in known:
        raise DataError(
            f"{table.file}: there is no column {name!r}{did_you_mean(name, known)}; {table.hint}"
            f"the file has {', '.join(known)}"
        )
    return table.frame[name]


def _where(table: RawTable, column: str) -> str:
    return f"{table.file}, column {column!r}"


def _check_not_empty(table: RawTable) -> None:
    if table.frame.height == 0:
        raise DataError(f"{table.file}: the table has no rows; write at least one")


def _check_known(
    interactions: RawTable, events: pl.DataFrame, table: RawTable | None, records: pl.DataFrame | None, key: str
) -> None:
    """Check ids against records. Some ids may lack one; when most do, a wrong column was named."""
    if table is None or records is None:
        return
    ids = events[key].unique(maintain_order=True)
    unknown = ids.filter(~ids.is_in(records[key].implode()))
    if len(unknown) > MAX_UNKNOWN_SHARE * len(ids):
        where = _where(interactions, interactions.names[key])
        raise DataError(
            f"{where}: {len(unknown)} of {len(ids)} {key}s, "
            f"the first is {unknown[0]!r}, "
            f"are not in column {table.names[key]!r} of {table.file}; name the columns that hold the same ids"
        )
