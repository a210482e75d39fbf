"""The one validation every source goes through: raw tables in, a canonical `Dataset` or one clear DataError out.

Rows are counted as in the file, the first row of data is row 1.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import polars as pl

from recsys.data.dataset import Dataset, action_columns, canonical
from recsys.data.description import ITEM, TIMESTAMP, USER, Description, Order, did_you_mean
from recsys.errors import DataError

MILLISECONDS_ABOVE = 1e11
"""unix seconds beyond this lie in the year 5138: such a number is milliseconds or finer"""
COMPACT_DAY = r"^(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])$"
MAX_UNKNOWN_SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table as it was read."""

    file: str
    """for messages"""
    frame: pl.DataFrame
    names: Mapping[str, str]
    """what user, item and timestamp are called in this table; without a timestamp `Description.order` takes its place"""
    separator: str
    """between the entries of categories and vectors that are written as text"""
    hint: str = ""
    """part of the sentence on a missing column: why it may be missing"""
    notes: tuple[str, ...] = ()
    """what a report has to say about the reading of the file"""


def validated(
    *, name: str, interactions: Table, items: Table | None, users: Table | None, description: Description
) -> Dataset:
    """Check and convert every described column; raises DataError with file, column, row, value and what to do."""
    events = _events(interactions, description)
    item_table = None if items is None else _records(items, ITEM, description.items)
    user_table = None if users is None else _records(users, USER, description.users)
    _check_known(interactions, events, items, item_table, ITEM)
    _check_known(interactions, events, users, user_table, USER)
    _check_words(interactions.file, events, description)
    dataset = canonical(name=name, interactions=events, items=item_table, users=user_table, description=description)
    if not dataset.positives().any():
        raise DataError(
            f"{interactions.file}: the target {description.target!r}, {description.objectives[description.target]!r}, "
            f"is true for none of {events.height} rows; correct the objective"
        )
    notes = [note for table in (interactions, items, users) if table is not None for note in table.notes]
    return replace(dataset, notes=(*notes, *dataset.notes))


def _check_words(file: str, events: pl.DataFrame, description: Description) -> None:
    """DataError for an objective that nothing reaches because one of its words is misspelt."""
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


def _events(table: Table, description: Description) -> pl.DataFrame:
    _check_not_empty(table)
    users = _ids(table, USER)
    times = _event_times(table) if description.clock else _places(users, description.order)
    columns = [users, _ids(table, ITEM), times]
    kinds = {**description.actions, **description.context}
    return pl.DataFrame(columns + [_converted(table, column, kind) for column, kind in kinds.items()])


def _records(table: Table, key: str, kinds: Mapping[str, str]) -> pl.DataFrame:
    _check_not_empty(table)
    ids = _ids(table, key)
    where = _where(table, table.names[key])
    _refuse(where, ids, ~ids.is_first_distinct(), "occurs a second time", f"keep one row for every {key}")
    return pl.DataFrame([ids] + [_converted(table, column, kind) for column, kind in kinds.items()])


def _ids(table: Table, key: str) -> pl.Series:
    column, where = _column(table, table.names[key]), _where(table, table.names[key])
    if column.dtype.is_float():
        raise DataError(f"{where}: ids are stored as {column.dtype}; store whole numbers or text")
    ids = _text(column, where, table.separator)
    blank = ids.is_null() | (ids.str.strip_chars() == "")
    _refuse(where, column, blank, "is no id", f"give every row a {key} or remove the row")
    return ids.alias(key)


def _event_times(table: Table) -> pl.Series:
    column, where = _column(table, table.names[TIMESTAMP]), _where(table, table.names[TIMESTAMP])
    _refuse(where, column, column.is_null(), "is no time", "give every row a time, or say `order` where there is none")
    return _timestamp(column, where, table.separator).alias(TIMESTAMP)


def _places(users: pl.Series, order: Order) -> pl.Series:
    """What stands for the time where there is none, [R] Float64."""
    place = {"file": pl.int_range(pl.len()), "user": pl.int_range(pl.len()).over(USER), "none": pl.lit(0)}[order]
    return users.to_frame().select(pl.col(USER), place.cast(pl.Float64).alias(TIMESTAMP))[TIMESTAMP]


def _converted(table: Table, name: str, kind: str) -> pl.Series:
    return _CONVERSIONS[kind](_column(table, name), _where(table, name), table.separator).alias(name)


def _number(column: pl.Series, where: str, separator: str) -> pl.Series:
    numbers = _parsed_numbers(column, where)
    odd = numbers.is_null() & column.is_not_null()
    _refuse(where, column, odd, "is not a number", "write a number, or nothing where it is missing")
    _refuse_infinite(where, column, numbers)
    return numbers


def _timestamp(column: pl.Series, where: str, separator: str) -> pl.Series:
    if column.dtype in (pl.Date, pl.Datetime):
        return column.cast(pl.Datetime("us")).dt.epoch("us") / 1e6
    if column.dtype == pl.Boolean:
        raise DataError(f"{where}: holds Boolean; times were wanted, name another column")
    if column.dtype == pl.String:
        days = column.str.strip_chars().str.contains(COMPACT_DAY)
        _refuse(where, column, days, "is a day or so many seconds", "write days with dashes, for instance 2024-05-31")
    seconds = _parsed_numbers(column, where)
    odd = seconds.is_null() & column.is_not_null()
    if odd.any():
        seconds = pl.select(pl.when(odd).then(_iso_seconds(column)).otherwise(seconds)).to_series()
        odd = seconds.is_null() & column.is_not_null()
    _refuse(where, column, odd, "is no time", "write unix seconds or ISO-8601, for instance 2024-05-31T18:00:00Z")
    _refuse_infinite(where, column, seconds)
    late = seconds.abs() > MILLISECONDS_ABOVE
    _refuse(where, column, late, "looks like milliseconds or finer", "divide by 1000, times are unix seconds")
    return seconds


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
    _refuse(where, column, odd, "has entries that are no finite numbers", "write numbers only")
    lengths = vectors.list.len()
    wanted = next((length for length in lengths if length is not None), 0)
    advice = f"the first one has {wanted}, write vectors of one length"
    _refuse(where, lengths, (lengths != wanted) | (lengths == 0), "is the length of this vector", advice)
    return vectors


_CONVERSIONS: dict[str, Callable[[pl.Series, str, str], pl.Series]] = {
    "word": _word,
    "category": _text,
    "text": _text,
    "categories": _categories,
    "number": _number,
    "timestamp": _timestamp,
    "vector": _vector,
}


def _parsed_numbers(column: pl.Series, where: str) -> pl.Series:
    """Float64; null where the text is no number."""
    if column.dtype == pl.String:
        column = column.str.strip_chars()
    elif not (column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.Null)):
        raise DataError(f"{where}: holds {column.dtype}; numbers were wanted, convert the column")
    return column.cast(pl.Float64, strict=False)


def _iso_seconds(column: pl.Series) -> pl.Series:
    def seconds(text: str) -> float | None:
        try:
            moment = datetime.fromisoformat(text.strip())
        except ValueError:
            return None
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()

    return column.cast(pl.String).map_elements(seconds, return_dtype=pl.Float64)


def _lists(column: pl.Series, where: str, separator: str) -> pl.Series:
    if isinstance(column.dtype, pl.Array):
        column = column.arr.to_list()
    if not isinstance(column.dtype, pl.List):
        return _text(column, where, separator).str.split(separator)
    if column.dtype.inner.is_nested():
        raise DataError(f"{where}: holds {column.dtype}; one list a row was wanted, convert the column")
    return column


def _refuse_infinite(where: str, column: pl.Series, numbers: pl.Series) -> None:
    advice = "write a finite number, or nothing where it is missing"
    _refuse(where, column, ~numbers.is_finite(), "is not a finite number", advice)


def shortened(value: object) -> str:
    """The value as text for a message, of at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _refuse(where: str, column: pl.Series, bad: pl.Series, problem: str, advice: str) -> None:
    rows = bad.fill_null(False).arg_true()
    if len(rows):
        value = column[int(rows[0])]
        found = "empty" if value is None else shortened(value.to_list() if isinstance(value, pl.Series) else value)
        raise DataError(f"{where}, row {rows[0] + 1}: {found} {problem}; {advice}")


def _column(table: Table, name: str) -> pl.Series:
    known = table.frame.columns
    if name not in known:
        raise DataError(
            f"{table.file}: there is no column {name!r}{did_you_mean(name, known)}; {table.hint}"
            f"the file has {', '.join(known)}"
        )
    return table.frame[name]


def _where(table: Table, column: str) -> str:
    return f"{table.file}, column {column!r}"


def _check_not_empty(table: Table) -> None:
    if table.frame.height == 0:
        raise DataError(f"{table.file}: the table has no rows; write at least one")


def _check_known(
    interactions: Table, events: pl.DataFrame, table: Table | None, records: pl.DataFrame | None, key: str
) -> None:
    """An id without a record only has missing columns, but when most have none a wrong column was named."""
    if table is None or records is None:
        return
    met = events[key].unique(maintain_order=True)
    unknown = met.filter(~met.is_in(records[key].implode()))
    if len(unknown) > MAX_UNKNOWN_SHARE * len(met):
        where = _where(interactions, interactions.names[key])
        raise DataError(
            f"{where}: {len(unknown)} of {len(met)} {key}s, "
            f"the first is {unknown[0]!r}, "
            f"are not in column {table.names[key]!r} of {table.file}; name the columns that hold the same ids"
        )
