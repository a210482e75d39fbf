"""Own data: up to three tables in CSV or Parquet, described by one YAML file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from recsys import strict_yaml
from recsys.data.amounts import expanded
from recsys.data.dataset import Dataset
from recsys.data.description import ITEM, ORDERS, TIMESTAMP, USER, Description, refuse_unknown
from recsys.data.validation import Table, validated
from recsys.errors import DataError

TABLES: tuple[str, ...] = ("interactions", "items", "users")
TOP = ("name", *TABLES, "objectives", "means", "target", "title")
DELIMITERS = {".csv": ",", ".tsv": "\t"}
SEPARATOR = "|"
WITHOUT_TIME = ", ".join(f"`order: {order}`" for order in ORDERS if order != "time")


@dataclass(frozen=True, kw_only=True)
class Tables:
    """The tables that one YAML file describes; files are named relative to it.

        interactions: {file: events.csv, user: user_id, item: movie, timestamp: ts, actions: {rating: number}}
        items: {file: movies.parquet, item: movie, columns: {title: text, genres: categories}, separator: "|"}
        users: {file: people.csv, user: user_id, columns: {age: number}}
        objectives: {watch: "1", like: "rating >= 4"}
        target: watch
        title: title

    An objective may be a grade or an amount (recsys/data/amounts.py), and `target` then name it by that.
    Optional: `items`, `users`, `title`, `name`, `means`, `context` (interactions), `separator` (every table, default "|").
    Where there is no time, `order` in place of `timestamp` says what the order of the rows means: `file`, that of time;
    `user`, that of time among the rows of one user; `none`, nothing.
    """

    description: str
    """path of the YAML file"""

    def load(self) -> Dataset:
        """Raises DataError with file, column, row, value and what to do."""
        path = Path(self.description)
        document = _document(path)
        try:
            specs = {key: _spec(key, document[key]) for key in TABLES if key in document}
            description = _description(document, specs)
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
        tables = {key: _table(spec, path.parent) for key, spec in specs.items()}
        return validated(
            name=str(document.get("name", path.resolve().parent.name)),
            interactions=tables["interactions"],
            items=tables.get("items"),
            users=tables.get("users"),
            description=description,
        )


def read_table(path: Path) -> pl.DataFrame:
    """The columns of a CSV file as text, those of a Parquet file with their types; DataError when it is neither."""
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; correct `file`, it is taken relative to the YAML file")
    if path.suffix != ".parquet" and path.suffix not in DELIMITERS:
        raise DataError(f"{path}: the suffix {path.suffix!r} is not known; write .csv, .tsv or .parquet")
    try:
        if path.suffix == ".parquet":
            return pl.read_parquet(path, glob=False)
        return pl.read_csv(path, separator=DELIMITERS[path.suffix], infer_schema=False, glob=False)
    except pl.exceptions.NoDataError:
        raise DataError(f"{path}: the file is empty; write a header and at least one row") from None
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise DataError(f"{path}: cannot be read as {path.suffix[1:]}: {reason}; write it anew in UTF-8") from None


def _document(path: Path) -> dict[str, Any]:
    try:
        document = strict_yaml.load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: the description cannot be read: {error}; name a YAML file in UTF-8") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "somewhere"
        raise DataError(f"{path}: no valid YAML at {place}: {error.problem}; correct it there") from None
    except yaml.YAMLError as error:
        raise DataError(f"{path}: no valid YAML: {' '.join(str(error).split())}; correct it") from None
    try:
        document = _object("the file", document)
        refuse_unknown("the file", document, TOP)
        _require("the file", document, ("interactions", "objectives", "target"))
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    return document


def _spec(key: str, document: Any) -> dict[str, Any]:
    """The part of the YAML that describes one table, checked."""
    spec = _object(key, document)
    ids, columns = ((USER, ITEM), ("actions", "context")) if key == "interactions" else ((key[:-1],), ("columns",))
    times = (TIMESTAMP, "order") if key == "interactions" else ()
    refuse_unknown(key, spec, ("file", *ids, *times, *columns, "separator"))
    _require(key, spec, ("file", *ids))
    for name in ("file", *ids, TIMESTAMP, "separator"):
        if not isinstance(spec.get(name, ""), str):
            raise DataError(f"{key}.{name} is {spec[name]!r}; write text, in quotes if need be")
    if not spec.get("separator", "|"):
        raise DataError(f"{key}.separator is empty; write what stands between the values of a list, for instance |")
    if times and (TIMESTAMP in spec) == ("order" in spec):
        raise DataError(f"{key} needs either `timestamp: <column>` or, where there is no time, one of {WITHOUT_TIME}")
    if "order" in spec and (not isinstance(spec["order"], str) or spec["order"] not in {*ORDERS} - {"time"}):
        raise DataError(f"{key}.order is {spec['order']!r}; write one of {WITHOUT_TIME}")
    return spec | {name: _object(f"{key}.{name}", spec.get(name, {})) for name in columns}


def _description(document: Mapping[str, Any], specs: Mapping[str, dict[str, Any]]) -> Description:
    interactions = specs["interactions"]
    for column, kind in interactions["actions"].items():
        if kind != "number":
            raise DataError(f"interactions.actions: {column!r} is of kind {kind!r}; actions are numbers, write number")
    objectives, means, first = expanded(_object("objectives", document["objectives"]))
    target = document["target"]
    return Description(
        actions=tuple(interactions["actions"]),
        context=interactions["context"],
        items=specs["items"]["columns"] if "items" in specs else {},
        users=specs["users"]["columns"] if "users" in specs else {},
        objectives=objectives,
        means=means | _object("means", document.get("means", {})),
        target=first.get(target, target) if isinstance(target, str) else target,
        title=document.get("title"),
        order=interactions.get("order", "time"),
    )


def _table(spec: Mapping[str, Any], folder: Path) -> Table:
    path = folder / spec["file"]
    return Table(
        file=str(path),
        frame=read_table(path),
        names={key: spec[key] for key in (USER, ITEM, TIMESTAMP) if key in spec},
        separator=spec.get("separator", SEPARATOR),
    )


def _object(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{where} is {value!r}; write a mapping, `key: value`")
    return {str(key): one for key, one in value.items()}


def _require(where: str, document: Mapping[str, Any], keys: tuple[str, ...]) -> None:
    for key in keys:
        if key not in document:
            raise DataError(f"{where} has no {key!r}; add it")
