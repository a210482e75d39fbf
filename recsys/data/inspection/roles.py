"""Roles of one to three files (interactions, items, users) and their join columns."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import polars as pl

from recsys.commands import command_of
from recsys.data.description import ITEM, USER
from recsys.data.inspection.columns import ColumnLook
from recsys.data.inspection.labels import AMOUNT_NAME, CONTEXT_NAME, RATING_NAME, WORD_NAME
from recsys.errors import DataError

NAMES = {
    USER: r"user|visitor|customer|cust|client|member|household|person|people|reader|buyer|account|profile|reviewer"
    r"|viewer|player|listener|consumer|subscriber|guest|uid|informfully",
    ITEM: r"item|product|prod|article|movie|film|song|track|artist|sku|asin|isbn|book|game|news|content|video|offer"
    r"|listing|recipe|anime|stock_?code|material|iid|business|course|job|post",
}
SESSION_NAME = re.compile(r"session|(^|_)visit(_|$)|basket|(^|_)order(_|$)|invoice|transaction_?id|cart_?id")
OF_A_KEY = re.compile(
    r"(name|title|price|cost|category|type|kind|age|gender|count|rating|score|url|text|brand|feature_\d+)$"
)
NO_KEY = re.compile("|".join(one.pattern for one in (OF_A_KEY, RATING_NAME, AMOUNT_NAME, CONTEXT_NAME, WORD_NAME)))
FEW_IDS = 20
"""a column with fewer values and no id-like name is no id"""
SAME_IDS = 0.5
"""share of common ids from which two tables are linked"""
NEARLY_UNIQUE = 0.9


@dataclass(frozen=True, kw_only=True)
class LookedAt:
    """Inspected file."""

    file: str
    frame: pl.DataFrame
    columns: Mapping[str, ColumnLook]


@dataclass(frozen=True, kw_only=True)
class Found:
    """Record table with its key column and the reason."""

    table: LookedAt
    key: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Roles:
    """Role of every file."""

    interactions: LookedAt
    keys: Mapping[str, tuple[str, str]]
    """user, item -> column of the interactions, and why; the user is absent where only sessions are known"""
    records: Mapping[str, Found]
    """user, item -> its table, where there is one"""


@dataclass(frozen=True, kw_only=True)
class _Link:
    log_column: str
    table_column: str
    share: float


def find_roles(files: Sequence[LookedAt]) -> Roles:
    """Assign roles; DataError where the files are not linked."""
    if not 1 <= len(files) <= 3:
        raise DataError(f"{len(files)} files were given; give one to three: interactions, items, users")
    for one in files:
        if not one.frame.height:
            raise DataError(f"{one.file}: the table has no rows; give a file with some")
        if len(one.columns) < 2:
            raise DataError(
                f"{one.file}: one column cannot say who did what; give a table. Lines of `user item item ...` need no "
                f"description: {command_of('train')} recipe=sequence data.path=..."
            )
    log, links = _log_and_links(files)
    records = _records(log, links)
    return Roles(
        interactions=log, keys=_keys(log, records), records={key: found for key, (found, _) in records.items()}
    )


def _log_and_links(files: Sequence[LookedAt]) -> tuple[LookedAt, list[tuple[LookedAt, _Link]]]:
    """Return the file whose ids all others describe, with its links."""
    best: tuple[float, LookedAt, list[tuple[LookedAt, _Link]]] | None = None
    for log in files:
        found = [(other, _link(log, other)) for other in files if other is not log]
        links = [(other, link) for other, link in found if link is not None]
        if len(links) == len(files) - 1:
            timed = any(one.timely for one in log.columns.values())
            score = (
                sum(link.share for _, link in links) + timed + log.frame.height / sum(one.frame.height for one in files)
            )
            if best is None or score > best[0]:
                best = score, log, links
    if best is None:
        names = ", ".join(one.file for one in files)
        raise DataError(
            f"{names}: no column of one file holds the ids that a column of another lists once each, so they are not one log "
            "with its items or users; where several are logs, join them into one file with a column that names the kind"
        )
    return best[1], best[2]


def _link(log: LookedAt, table: LookedAt) -> _Link | None:
    """Return the columns of a log and a table with the most common ids, unique in the table."""
    found = []
    for key in table.columns.values():
        if key.unique >= NEARLY_UNIQUE and key.filled >= NEARLY_UNIQUE * key.rows and _id_like(key):
            listed = _ids(table.frame[key.name])
            for column in log.columns.values():
                if _id_like(column):
                    used = _ids(log.frame[column.name])
                    share = float(used.is_in(listed.implode()).mean() or 0.0)  # type: ignore[arg-type]
                    same = key.plain_name == column.plain_name
                    found.append((share + 0.5 * same + 0.2 * _best_name(column), share, column.name, key.name))
    _, share, column_name, key_name = max(found, default=(0.0, 0.0, "", ""))
    return _Link(log_column=column_name, table_column=key_name, share=share) if share >= SAME_IDS else None


def _ids(column: pl.Series) -> pl.Series:
    return column.cast(pl.String).drop_nulls().str.strip_chars().unique()


def _id_like(one: ColumnLook) -> bool:
    """Return whether values can be ids: no fractions, lists, times by name or long texts."""
    numeric_text = one.dtype.is_float() or (one.numeric and not one.whole)
    return not (
        one.entries or numeric_text or one.timely or one.words > 2 or one.dtype.is_temporal() or one.distinct < 2
    )


def name_score(name: str, key: str) -> float:
    """Return the similarity of a plain name to usual names of user or item ids."""
    if OF_A_KEY.search(name):
        return 0.0
    if re.fullmatch(rf"({NAMES[key]})s?(_?(id|key|no|nr|number|code|hash|uuid|idx))?", name):
        return 3.0
    if re.search(rf"(^|_)({NAMES[key]})", name):
        return 2.0
    return 1.0 if re.search(NAMES[key], name) else 0.0


def _best_name(one: ColumnLook) -> float:
    return max(name_score(one.plain_name, USER), name_score(one.plain_name, ITEM)) / 3


def _records(log: LookedAt, links: Sequence[tuple[LookedAt, _Link]]) -> dict[str, tuple[Found, _Link]]:
    """Return user, item -> its table: by name, else a table with titles or texts is of items."""
    found = {}
    for key, (table, link) in zip(_assignment(log, links), links, strict=True):
        reason = f"lists {link.share:.0%} of the ids of {link.log_column!r} once each"
        found[key] = (Found(table=table, key=link.table_column, reason=reason), link)
    return found


def _assignment(log: LookedAt, links: Sequence[tuple[LookedAt, _Link]]) -> tuple[str, ...]:
    """Assign distinct keys to the links."""
    scores = [{key: _record_score(log, table, link, key) for key in (ITEM, USER)} for table, link in links]
    choices = permutations((ITEM, USER), len(links))
    return max(choices, key=lambda keys: sum(score[key] for score, key in zip(scores, keys, strict=True)))


def _record_score(log: LookedAt, table: LookedAt, link: _Link, key: str) -> float:
    names = (log.columns[link.log_column].plain_name, table.columns[link.table_column].plain_name)
    file = re.search(NAMES[key], table.file.lower().replace("\\", "/").rsplit("/", 1)[-1]) is not None
    texts = any(one.words >= 1.5 or one.entries for one in table.columns.values())
    return sum(name_score(name, key) for name in names) + 2 * file + (0.5 if texts == (key == ITEM) else 0.0)


def _keys(log: LookedAt, records: Mapping[str, tuple[Found, _Link]]) -> dict[str, tuple[str, str]]:
    keys = {key: (link.log_column, f"its ids stand in {found.table.file}") for key, (found, link) in records.items()}
    for key in (USER, ITEM):
        if key not in keys:
            taken = {column for column, _ in keys.values()}
            if (named := _named(log, key, taken)) is not None:
                keys[key] = named, "by its name"
    session = session_of(log, {column for column, _ in keys.values()})
    for key in (USER, ITEM):
        if key not in keys and not (key == USER and session is not None):
            column = _unnamed(log, key, {column for column, _ in keys.values()})
            keys[key] = column, f"UNSURE: no name says so; the {'first' if key == USER else 'next'} column of ids"
    return keys


def session_of(log: LookedAt, taken: Collection[str]) -> str | None:
    """Return the column that groups the events of a visit, None without one."""
    found = (one for one in log.columns.values() if one.name not in taken and one.filled and not one.opaque)
    return next((one.name for one in found if SESSION_NAME.search(one.plain_name) and not one.timely), None)


def _named(log: LookedAt, key: str, taken: set[str]) -> str | None:
    other = ITEM if key == USER else USER
    scores = {
        one.name: name_score(one.plain_name, key)
        for one in log.columns.values()
        if one.name not in taken and one.filled and not one.timely and not one.entries
        and name_score(one.plain_name, key) > name_score(one.plain_name, other)
    }  # fmt: skip
    best = max(scores.values(), default=0.0)
    return next((name for name, score in scores.items() if score == best), None)


def _unnamed(log: LookedAt, key: str, taken: set[str]) -> str:
    free = [one for one in log.columns.values() if one.name not in taken and _id_like(one)]
    free = [one for one in free if one.unnamed or (one.distinct >= FEW_IDS and not NO_KEY.search(one.plain_name))]
    free = [one for one in free if one.distinct > 2 and one.unique < 1] or free
    if not free:
        raise DataError(
            f"{log.file}: no column looks like the ids of {key}s; the file has {', '.join(log.columns)}; write the "
            "description by hand"
        )
    return free[0].name
