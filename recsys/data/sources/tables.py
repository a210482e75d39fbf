"""Own data: up to three tables, delimited or Parquet, described by one YAML file."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from recsys.data.amounts import expanded
from recsys.data.dataset import Dataset
from recsys.data.description import (
    ITEM,
    ORDERS,
    PARTS,
    SPLIT,
    TIMESTAMP,
    USER,
    Description,
    did_you_mean,
    part_of_split,
    refuse_unknown,
)
from recsys.data.documents import mapping_of, null_words, read_document, require
from recsys.data.forgotten import FORGOTTEN, read_forgotten, without_forgotten
from recsys.data.reading import FileFormat, read_table
from recsys.data.times import UNITS
from recsys.data.validation import SESSION, RawTable, validated
from recsys.errors import DataError

TABLES: tuple[str, ...] = ("interactions", "items", "users")
TOP = ("name", *TABLES, "objectives", "means", "target", "title", FORGOTTEN)
FORMAT = {"delimiter": str, "encoding": str, "quoting": bool}
"""format keys of a table, detected where absent"""
FILES = "files"
SEPARATOR = "|"
WITHOUT_TIME = ", ".join(f"`order: {order}`" for order in ORDERS if order != "time")


@dataclass(frozen=True, kw_only=True)
class Tables:
    """Tables described by one YAML file; file names are relative to it.

        interactions: {file: events.csv, user: user_id, item: movie, timestamp: ts, actions: {rating: number}}
        items: {file: movies.parquet, item: movie, columns: {title: text, genres: categories}, separator: "|"}
        users: {file: people.csv, user: user_id, columns: {age: number}}
        objectives: {watch: "1", like: "rating >= 4"}
        target: watch
        title: title

    An action is a number or a word: with `actions: {event_type: word}`, `buy: "event_type == 'purchase'"` is an objective.
    An objective may be a grade, an amount or a count (recsys/data/amounts.py), and `target` then name it by that.
    Optional: `items`, `users`, `title`, `name`, `means`, `context` (interactions), `separator` (every table, default "|").
    The format of a file is detected (recsys/data/reading.py), or given by `delimiter`, `encoding` and `quoting`. A
    file without a header needs `columns: [..]`, the names of all its columns; of items and users with their kinds there:
    `columns: [movie, title: text, genres: categories]`.
    Ids are read by the rule of recsys/data/ids.py; `missing: [unknown]` names further null words. A row without a user
    is left out, or belongs to its `session: <column>`; without `user` every session is a user. `unit` is the unit of numeric
    timestamps (recsys/data/times.py), where detection finds another one.
    A published split is named by `split: <column>` of the interactions, whose words are train, validation and test, or by
    `files: {train: a.csv, validation: b.csv, test: c.csv}` instead of `file`; `protocol=predefined` reads it.
    Users in the list of `forgotten: <folder>`, that of a deployment (recsys/data/forgotten.py), are left out.
    Without time, `order` instead of `timestamp` gives the meaning of the row order: `file`, time order; `user`, time order
    within one user; `none`, no order.
    """

    description: str
    """path of the YAML file"""

    def load(self) -> Dataset:
        """Load the data set; DataError names file, column, row, value and remedy."""
        return self.read()[1]

    def describe(self) -> Description:
        """Return the description alone; no table is read."""
        path = Path(self.description)
        return _described(path, _document(path))[1]

    def read(self) -> tuple[Mapping[str, RawTable], Dataset]:
        """Return the raw tables by their keys in the YAML, and the validated data set."""
        path = Path(self.description)
        document = _document(path)
        specs, description = _described(path, document)
        tables = {key: _table(spec, path.parent) for key, spec in specs.items()}
        dataset = validated(
            name=str(document.get("name", path.resolve().parent.name)),
            interactions=tables["interactions"],
            items=tables.get("items"),
            users=tables.get("users"),
            description=description,
        )
        return tables, dataset if FORGOTTEN not in document else _remembered(path, dataset, document[FORGOTTEN])


def _remembered(path: Path, dataset: Dataset, folder: Any) -> Dataset:
    """Leave out the users in the list of a folder, relative to the description."""
    if not isinstance(folder, str):
        raise DataError(f"{path}: {FORGOTTEN} is {folder!r}; write the folder {FORGOTTEN!r} of a deployment")
    kept = without_forgotten(dataset, read_forgotten(path.parent / folder))
    if not kept.num_events:
        raise DataError(f"{path}: no event is left without the forgotten users; name a log of other users")
    return kept


def _document(path: Path) -> dict[str, Any]:
    document = read_document(path)
    if "task" in document:
        raise DataError(
            f"{path}: `task: {document['task']}` describes a click log; train it by recipe=click_log "
            f"data.description={path}, or remove `task`"
        )
    try:
        refuse_unknown("the file", document, TOP)
        require("the file", document, ("interactions", "objectives", "target"))
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    return document


def _spec(key: str, document: Any) -> dict[str, Any]:
    """Return the checked part of the YAML that describes one table."""
    spec = mapping_of(key, document)
    events = key == "interactions"
    ids, columns = ((USER, ITEM), ("actions", "context")) if events else ((key[:-1],), ("columns",))
    times = (TIMESTAMP, "order", "unit", SESSION, SPLIT, FILES) if events else ()
    refuse_unknown(key, spec, ("file", *ids, *times, *columns, "columns", "separator", "missing", *FORMAT))
    require(key, spec, (*(() if FILES in spec else ("file",)), *(ids[1:] if events and SESSION in spec else ids)))
    for name in ("file", *ids, TIMESTAMP, "separator", SESSION, SPLIT):
        if not isinstance(spec.get(name, ""), str):
            raise DataError(f"{key}.{name} is {spec[name]!r}; write text, in quotes if need be")
    if not spec.get("separator", "|"):
        raise DataError(f"{key}.separator is empty; write the separator of list entries, for instance |")
    if times and (TIMESTAMP in spec) == ("order" in spec):
        raise DataError(f"{key} needs either `timestamp: <column>` or, where there is no time, one of {WITHOUT_TIME}")
    if "order" in spec and (not isinstance(spec["order"], str) or spec["order"] not in {*ORDERS} - {"time"}):
        raise DataError(f"{key}.order is {spec['order']!r}; write one of {WITHOUT_TIME}")
    if (unit := spec.get("unit")) is not None and unit not in UNITS:
        raise DataError(f"interactions.unit is {unit!r}{did_you_mean(unit, UNITS)}; write one of {', '.join(UNITS)}")
    names, kinds = _columns(key, spec.get("columns", {}))
    described = spec | {"columns": kinds}
    objects = {name: mapping_of(f"{key}.{name}", described.get(name, {})) for name in columns}
    if FILES in spec:
        objects[FILES] = _files(spec)
    return spec | objects | {"format": _format(key, spec, names), "missing": null_words(key, spec.get("missing", []))}


def _files(spec: Mapping[str, Any]) -> dict[str, str]:
    """Return part of a published split -> its file."""
    if clash := [key for key in ("file", SPLIT) if key in spec]:
        raise DataError(f"interactions has {FILES} and {clash[0]}; keep one of them")
    written = mapping_of(f"interactions.{FILES}", spec[FILES])
    for word, file in written.items():
        if part_of_split(word) is None or not isinstance(file, str):
            raise DataError(
                f"interactions.{FILES} has {word}: {file!r}; write a file for each of train, validation and test"
            )
    files = {part: written[word] for part in PARTS for word in written if part_of_split(word) == part}
    if len(files) < len(written) or not {"train", "test"} <= files.keys():
        raise DataError(f"interactions.{FILES} names {', '.join(written)}; give one file for train and one for test")
    return files


def _columns(key: str, written: Any) -> tuple[tuple[str, ...] | None, Any]:
    """Return the names of all columns of a file without a header, else None, and the kinds of described columns."""
    if not isinstance(written, list):
        return None, written
    if odd := [one for one in written if not isinstance(one, str) and not (isinstance(one, dict) and len(one) == 1)]:
        raise DataError(f"{key}.columns holds {odd[0]!r}; write names of columns, or {{name: kind}} for described ones")
    kinds = {name: kind for one in written if isinstance(one, dict) for name, kind in one.items()}
    if kinds and key == "interactions":
        raise DataError("interactions.columns gives kinds; write names there, kinds in actions and context")
    return tuple(str(next(iter(one))) if isinstance(one, dict) else one for one in written), kinds


def _format(key: str, spec: Mapping[str, Any], columns: tuple[str, ...] | None) -> FileFormat:
    for name, kind in FORMAT.items():
        if name in spec and not isinstance(spec[name], kind):
            expected = "true or false" if kind is bool else "text, in quotes"
            raise DataError(f"{key}.{name} is {spec[name]!r}; write {expected}")
    return FileFormat(columns=columns, **{name: spec[name] for name in FORMAT if name in spec})


def _described(path: Path, document: Mapping[str, Any]) -> tuple[dict[str, dict[str, Any]], Description]:
    """Return the specifications of the tables, and the description."""
    try:
        specs = {key: _spec(key, document[key]) for key in TABLES if key in document}
        return specs, _description(document, specs)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _description(document: Mapping[str, Any], specs: Mapping[str, dict[str, Any]]) -> Description:
    interactions = specs["interactions"]
    objectives, means, first = expanded(mapping_of("objectives", document["objectives"]))
    target = document["target"]
    return Description(
        actions=interactions["actions"],
        context=interactions["context"],
        items=specs["items"]["columns"] if "items" in specs else {},
        users=specs["users"]["columns"] if "users" in specs else {},
        objectives=objectives,
        means=means | mapping_of("means", document.get("means", {})),
        target=first.get(target, target) if isinstance(target, str) else target,
        title=document.get("title"),
        order=interactions.get("order", "time"),
        split=SPLIT in interactions or FILES in interactions,
    )


def _table(spec: Mapping[str, Any], folder: Path) -> RawTable:
    if FILES not in spec:
        return _file(spec, folder)
    read = {part: _file({**spec, "file": file}, folder) for part, file in spec[FILES].items()}
    parts = tuple(
        replace(one, frame=one.frame.with_columns(pl.lit(part).alias(SPLIT)), names={**one.names, SPLIT: SPLIT})
        for part, one in read.items()
    )
    return replace(
        parts[0],
        file=", ".join(one.file for one in parts),
        frame=pl.concat([one.frame for one in parts], how="diagonal_relaxed"),
        notes=tuple(note for one in parts for note in one.notes),
        parts=parts,
    )


def _file(spec: Mapping[str, Any], folder: Path) -> RawTable:
    names = {key: spec[key] for key in (USER, ITEM, TIMESTAMP, SESSION, SPLIT) if key in spec}
    if SESSION in names and USER not in names:
        names[USER] = names.pop(SESSION)
    described = [name for part in ("actions", "context", "columns") for name in spec.get(part, ())]
    path = folder / spec["file"]
    read = read_table(path, spec["format"], needed=(*names.values(), *described))
    hint = f"the first line, {read.first_line!r}, looks like data: write all names as `columns: [..]`; "
    return RawTable(
        file=str(path),
        frame=read.frame,
        names=names,
        separator=spec.get("separator", SEPARATOR),
        hint=hint if read.headerless else "",
        notes=read.notes,
        missing=spec["missing"],
        unit=spec.get("unit"),
    )
