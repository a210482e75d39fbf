"""Own click logs: one delimited or Parquet file, described by one YAML file with `task: ranking`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recsys.data.click_log import ClickLog, ImpressionColumns
from recsys.data.description import did_you_mean, refuse_unknown
from recsys.data.documents import mapping_of, null_words, read_document, require
from recsys.data.reading import FileFormat
from recsys.data.scanning import ChunkedTable
from recsys.data.times import UNITS
from recsys.errors import DataError

TASKS = ("ranking",)
TOP = ("task", "name", "impressions", "target")
TEXTS = ("file", "user", "timestamp", "split", "delimiter")
LISTS = ("labels", "groups", "columns")
PARTS_OF_TABLE = (*TEXTS, *LISTS, "numbers", "categories", "order", "unit", "quoting", "missing")
ROW_ORDERS = ("file", "none")
VOCABULARY = "vocabulary"
MAX_HASH_SIZE = 100_000_000


@dataclass(frozen=True, kw_only=True)
class ImpressionTable:
    """Impressions described by one YAML file; the file name is relative to it.

        task: ranking
        impressions:
          file: clicks.csv
          labels: [click]
          numbers: {price: log, age: {buckets: 32}, dwell: {piecewise: 16}, rank: standard}
          categories: {site: {hash: 10000}, device: vocabulary}
          timestamp: at

    A label is 0 or 1, or empty where it is unknown; with several, `target` names the one a training is watched by, else it is
    the first. In the place of `timestamp`, `order: file` takes the order of the rows for that of time, and `order: none`
    means no order. `split: <column>` holds train, validation and test. `user` and `groups: [..]` are columns by which an
    AUC is averaged. A file without a header needs `columns: [..]`, the names of all its columns; the delimiter is a comma,
    a tab in .tsv, or `delimiter`. `missing: [..]` names further words for missing values.
    """

    description: str
    """path of the YAML file"""

    def load(self) -> ClickLog:
        """Read the description; DataError names the file and the key or column."""
        path = Path(self.description)
        document = read_document(path)
        try:
            log = _click_log(path, document)
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
        columns = log.columns
        keys = (*columns.labels, *columns.inputs, *columns.slices, *(() if columns.split is None else (columns.split,)))
        log.table.check(keys)
        return log


def _click_log(path: Path, document: Mapping[str, Any]) -> ClickLog:
    refuse_unknown("the file", document, TOP)
    require("the file", document, ("task", "impressions"))
    if document["task"] not in TASKS:
        raise DataError(f"task is {document['task']!r}; write one of {', '.join(TASKS)}")
    table = mapping_of("impressions", document["impressions"])
    refuse_unknown("impressions", table, PARTS_OF_TABLE)
    require("impressions", table, ("file", "labels"))
    _check_types(table)
    names = tuple(table["columns"]) if "columns" in table else None
    return ClickLog(
        name=str(document.get("name", Path(table["file"]).stem)),
        table=ChunkedTable(
            path=path.parent / table["file"],
            format=FileFormat(delimiter=table.get("delimiter"), columns=names, quoting=table.get("quoting")),
        ),
        columns=columns_of(table, document.get("target", table["labels"][0])),
    )


def columns_of(table: Mapping[str, Any], target: str) -> ImpressionColumns:
    """Return the checked columns of the mapping `impressions`."""
    labels = tuple(table["labels"])
    if target not in labels:
        raise DataError(
            f"target is {target!r}{did_you_mean(target, labels)}; name one of the labels {', '.join(labels)}"
        )
    numbers = mapping_of("impressions.numbers", table.get("numbers", {}))
    categories = mapping_of("impressions.categories", table.get("categories", {}))
    columns = ImpressionColumns(
        labels=labels,
        target=target,
        numbers={name: _encoding(name, written) for name, written in numbers.items()},
        categories={name: _hash_size(name, written) for name, written in categories.items()},
        user=table.get("user"),
        groups=tuple(table.get("groups", ())),
        timestamp=table.get("timestamp"),
        unit=table.get("unit"),
        order=table.get("order", "time"),
        split=table.get("split"),
        missing=null_words("impressions", table.get("missing", [])),
    )
    _check_uses(columns)
    return columns


def _check_types(table: Mapping[str, Any]) -> None:
    for key in TEXTS:
        if not isinstance(table.get(key, ""), str):
            raise DataError(f"impressions.{key} is {table[key]!r}; write text, in quotes if need be")
    for key in LISTS:
        written = table.get(key, [])
        if not isinstance(written, list) or not all(isinstance(one, str) for one in written):
            raise DataError(f"impressions.{key} is {written!r}; write a list of columns, e.g. [click]")
    if not table["labels"]:
        raise DataError("impressions.labels is empty; name at least one column of 0 and 1")
    if not isinstance(table.get("quoting", True), bool):
        raise DataError(f"impressions.quoting is {table['quoting']!r}; write true or false")
    if ("timestamp" in table) == ("order" in table):
        raise DataError(
            "impressions needs either `timestamp: <column>` or, where there is no time, `order: file` or `none`"
        )
    if (order := table.get("order", "file")) not in ROW_ORDERS:
        raise DataError(f"impressions.order is {order!r}; write {' or '.join(ROW_ORDERS)}")
    if (unit := table.get("unit")) is not None and unit not in UNITS:
        raise DataError(f"impressions.unit is {unit!r}{did_you_mean(unit, UNITS)}; write one of {', '.join(UNITS)}")


def _check_uses(columns: ImpressionColumns) -> None:
    """Raise DataError without a feature, and for a column that tells the answer or is a number and a category."""
    if not columns.features:
        raise DataError("impressions names no numbers and no categories; name the columns that a model may read")
    for name in columns.features:
        if name in columns.labels or name == columns.split:
            use = "a label" if name in columns.labels else "the split"
            raise DataError(
                f"impressions: {name!r} is a feature and {use}; a model would read the answer, keep one of them"
            )
    if twice := sorted(set(columns.numbers) & set(columns.categories)):
        raise DataError(f"impressions: {twice[0]!r} is a number and a category; keep one of them")


def _encoding(name: str, written: Any) -> dict[str, Any]:
    """Return kind, and bins where given, of `log` or `{buckets: 32}`."""
    if isinstance(written, str):
        return {"kind": written}
    if isinstance(written, dict) and len(written) == 1:
        ((kind, bins),) = written.items()
        return {"kind": kind, "bins": bins}
    raise DataError(f"impressions.numbers.{name} is {written!r}; write an encoding, e.g. log or {{buckets: 32}}")


def _hash_size(name: str, written: Any) -> int:
    if written == VOCABULARY:
        return 0
    size = written.get("hash") if isinstance(written, dict) and len(written) == 1 else None
    if type(size) is not int or not 1 <= size <= MAX_HASH_SIZE:
        raise DataError(
            f"impressions.categories.{name} is {written!r}; write {VOCABULARY}, or {{hash: 10000}}, the number of ids that "
            f"its values share, 1 to {MAX_HASH_SIZE:,}"
        )
    return size
