"""Proposal of a description: likely kind of each column, with reasons and uncertainties."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from recsys.data.description import ITEM, SPLIT, TEXT, TIMESTAMP, USER, part_of_split
from recsys.data.inspection.columns import ColumnLook, look, record_kind
from recsys.data.inspection.ids import NOBODY
from recsys.data.inspection.labels import (
    AMOUNT_NAME,
    CONTEXT_NAME,
    Action,
    Label,
    action_of,
    labels_of,
    target_of,
    usable,
)
from recsys.data.inspection.roles import LookedAt, Roles, find_roles, session_of
from recsys.data.reading import USUAL, FileTable, read_table
from recsys.data.validation import SESSION

RESERVED = (USER, ITEM, TIMESTAMP)
TITLE_NAMES = ("title", "name", "headline", "label")


@dataclass(frozen=True, kw_only=True)
class TableProposal:
    """One table of the description, each entry with its reason."""

    file: str
    rows: int
    keys: Mapping[str, tuple[str, str]]
    """user, item, timestamp or order -> its column or value, and why"""
    actions: tuple[Action, ...] = ()
    columns: Mapping[str, tuple[str, str]]
    """column -> kind and why; of the interactions those are the context"""
    left_out: Mapping[str, str]
    """column -> why"""
    options: Mapping[str, str | list[str]] = field(default_factory=dict)
    """delimiter, encoding, separator, missing, where they differ from the defaults"""
    header: tuple[str, ...] | None = None
    """names of all columns where the file has no header"""
    notes: tuple[str, ...] = ()
    """notes of the reader"""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """Proposed description."""

    tables: Mapping[str, TableProposal]
    """interactions and, where there are any, items and users"""
    objectives: tuple[Label, ...]
    target: str
    title: str | None
    amount: str | None
    """an action that could be an amount, for the comment with an example"""


def propose(files: Sequence[Path], folder: Path) -> Proposal:
    """Propose a description in `folder` from one to three files; DataError where they are no log."""
    read = {str(path): read_table(path) for path in files}
    looked = [LookedAt(file=file, frame=table.frame, columns=look(table.frame)) for file, table in read.items()]
    roles = find_roles(looked)
    log, actions = _interactions(roles, read[roles.interactions.file], folder)
    tables = {"interactions": log}
    for key in (ITEM, USER):
        if key in roles.records:
            found = roles.records[key]
            tables[f"{key}s"] = _record_table(key, found.table, found.key, found.reason, read[found.table.file], folder)
    labels = labels_of(actions)
    amounts = [name for name, one in actions.items() if usable(name) and AMOUNT_NAME.search(one.plain_name)]
    return Proposal(
        tables=tables,
        objectives=tuple(labels),
        target=target_of(labels).name,
        title=_title(tables.get("items")),
        amount=next(iter(amounts), None),
    )


def _interactions(roles: Roles, read: FileTable, folder: Path) -> tuple[TableProposal, dict[str, ColumnLook]]:
    """Return the table, and its action columns by their new names."""
    looks, keys = roles.interactions.columns, dict(roles.keys)
    keys |= _session(roles) | _split(looks)
    keys |= _time(looks, {column for column, _ in keys.values()})
    taken = {column for column, _ in keys.values()}
    names = _names(read, keys, looks)
    actions, context, left_out = {}, {}, {}
    item = roles.keys[ITEM][0]
    for name, one in looks.items():
        if name in taken:
            continue
        action = action_of(one)
        if (reason := _no_use(one, roles, item)) is not None:
            left_out[names[name]] = reason
        elif action is not None:
            actions[names[name]] = (one, action)
        elif CONTEXT_NAME.search(one.plain_name):
            kind, why = record_kind(one)
            if kind is None:
                left_out[names[name]] = why
            else:
                context[names[name]] = (kind, f"{why}; UNSURE: is it known before the event?")
        else:
            left_out[names[name]] = "UNSURE: known before the event: context; what the user did: actions"
    table = TableProposal(
        file=_relative(roles.interactions.file, folder),
        rows=roles.interactions.frame.height,
        keys={key: (names.get(column, column), why) for key, (column, why) in keys.items()},
        actions=tuple(Action(column=name, kind=one.kind, reason=one.reason) for name, (_, one) in actions.items()),
        columns=context,
        left_out=left_out,
        options={**_options(roles.interactions.file, read), **_missing(roles)},
        header=tuple(names.values()) if read.headerless else None,
        notes=read.notes,
    )
    return table, {name: _renamed(one, name) for name, (one, _) in actions.items()}


def _renamed(one: ColumnLook, name: str) -> ColumnLook:
    return ColumnLook(**{**vars(one), "name": name})


def _session(roles: Roles) -> dict[str, tuple[str, str]]:
    """Return the session column where it replaces users."""
    looks, user = roles.interactions.columns, roles.keys.get(USER)
    session = session_of(roles.interactions, {column for column, _ in roles.keys.values()})
    if session is None or (user is not None and looks[user[0]].filled == looks[user[0]].rows):
        return {}
    return {SESSION: (session, "no user is known" if user is None else "stands for the user where there is none")}


def _split(looks: Mapping[str, ColumnLook]) -> dict[str, tuple[str, str]]:
    """Return the column of a published split."""
    parts = {one.name: {*map(part_of_split, one.values)} for one in looks.values() if 2 <= one.distinct <= 3}
    found = [name for name, own in parts.items() if {"train", "test"} <= own and None not in own]
    return {SPLIT: (found[0], "a published split; train with protocol=predefined")} if found else {}


def _missing(roles: Roles) -> dict[str, list[str]]:
    """Return user ids that may be null words."""
    if USER not in roles.keys:
        return {}
    users = roles.interactions.frame[roles.keys[USER][0]].cast(pl.String)
    words = users.filter(users.str.strip_chars().str.to_lowercase().is_in(NOBODY)).unique().sort().to_list()
    return {"missing": words} if words else {}


def _time(looks: Mapping[str, ColumnLook], taken: set[str]) -> dict[str, tuple[str, str]]:
    """Return the timestamp, or the order without one."""
    timely = [one for one in looks.values() if one.timely and one.name not in taken and one.filled == one.rows]
    timely = [one for one in timely if one.distinct > 1] or timely
    if timely:
        best = max(timely, key=lambda one: (not one.unnamed, -one.index))
        unsure = "" if len(timely) == 1 else f"; UNSURE: {', '.join(one.name for one in timely[1:])} are times as well"
        return {TIMESTAMP: (best.name, f"{best.unit}{unsure}")}
    return {
        "order": (
            "none",
            "UNSURE: no column holds times; write `file` or `user` where the order of the rows is that of time",
        )
    }


def _no_use(one: ColumnLook, roles: Roles, item: str) -> str | None:
    """Return the reason not to use a column of the interactions, None without one."""
    if one.name in RESERVED:
        return "the name is reserved: rename the column to use it"
    if not one.filled:
        return "empty in every row"
    if one.distinct == 1:
        return "one value in all rows"
    if one.opaque:
        return f"holds {one.dtype}"
    if one.unit is not None and (one.timely or one.dtype.is_temporal()):
        return "a second time, perhaps later than the event"
    if one.unique == 1 and one.distinct > 50 and (not one.numeric or one.whole):
        return "another value in every row"
    amount = AMOUNT_NAME.search(one.plain_name) is not None
    if (action_of(one) is None or amount) and _goes_with(roles.interactions, one.name, item):
        return "the same for all events of an item: put it into a table of items"
    return None


def _goes_with(log: LookedAt, column: str, item: str) -> bool:
    if log.frame[column].dtype.is_nested():
        return False
    ids = log.columns[item].distinct
    return log.frame.height > 1.5 * ids and log.frame.select(item, column).n_unique() <= 1.001 * ids


def _record_table(key: str, table: LookedAt, column: str, reason: str, read: FileTable, folder: Path) -> TableProposal:
    names = {name: name for name in table.columns}
    if read.headerless:
        names[column] = key
        texts = [name for name, one in table.columns.items() if name != column and record_kind(one)[0] == "text"]
        names |= dict.fromkeys(texts[:1], "title")
    columns, left_out = {}, {}
    separators: list[str] = []
    for name, one in table.columns.items():
        if name == column:
            continue
        kind, why = record_kind(one)
        if name == TEXT and kind is not None:
            kind, why = "text", "the name is that of the texts"
        if kind is None or name == key:
            left_out[names[name]] = why if kind is None else "the name is reserved: rename the column to use it"
        elif one.separator and separators and one.separator != separators[0]:
            left_out[names[name]] = f"UNSURE: lists between {one.separator!r}, a table has one separator"
        else:
            columns[names[name]] = (kind, why)
            separators += [one.separator] if one.separator else []
    other = {"separator": separators[0]} if separators and separators[0] != "|" else {}
    return TableProposal(
        file=_relative(table.file, folder),
        rows=table.frame.height,
        keys={key: (names[column], reason)},
        columns=columns,
        left_out=left_out,
        options=_options(table.file, read) | other,
        header=tuple(names.values()) if read.headerless else None,
        notes=read.notes,
    )


def _names(read: FileTable, keys: Mapping[str, tuple[str, str]], looks: Mapping[str, ColumnLook]) -> dict[str, str]:
    """Return column of the file -> name; without a header keys have their role as name, a single action is a rating."""
    names = {name: name for name in looks}
    if read.headerless:
        names |= {column: key for key, (column, _) in keys.items() if column in names}
        free = [name for name, one in looks.items() if names[name] == name and action_of(one) is not None]
        if len(free) == 1:
            names[free[0]] = "event" if not looks[free[0]].numeric else "rating"
    return names


def _options(file: str, read: FileTable) -> dict[str, str | list[str]]:
    """Return the format keys that the file ending does not imply."""
    given, ending = read.format, Path(file).suffix.lower()
    options: dict[str, str | list[str]] = {}
    if given.delimiter is not None and given.delimiter != USUAL.get(ending, ","):
        options["delimiter"] = given.delimiter
    if given.encoding not in (None, "utf-8", "utf-8-sig"):
        options["encoding"] = str(given.encoding)
    return options


def _relative(file: str, folder: Path) -> str:
    return Path(os.path.relpath(file, folder)).as_posix()


def _title(items: TableProposal | None) -> str | None:
    if items is None:
        return None
    texts = [name for name, (kind, _) in items.columns.items() if kind in ("text", "category")]
    named = [name for usual in TITLE_NAMES for name in texts if usual in name.lower()]
    words = [name for name, (kind, _) in items.columns.items() if kind == "text"]
    return next(iter((*named, *words)), None)
