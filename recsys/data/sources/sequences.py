"""Files of the form `user item item ...`: one line a user, the items in the order of time (as in S3-Rec, Zhou et al. 2020)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import polars as pl

from recsys.data.dataset import Dataset
from recsys.data.description import ITEM, USER, Description
from recsys.data.row_errors import shortened
from recsys.data.validation import RawTable, validated
from recsys.errors import DataError

ATTRIBUTES = "attributes"
FORM = "a line is `user item item ...`, words between blanks"


@dataclass(frozen=True, kw_only=True)
class SequenceFile:
    """File of sequences with optional item attributes; the data set has the name of the file without suffix."""

    path: str
    attributes: str | None
    """a JSON object {item: [attribute, ...]}; null: `<stem>_item2attributes.json` beside the file, where there is one"""

    def load(self) -> Dataset:
        """Load the data set; DataError names file, line, value and remedy."""
        path = Path(self.path)
        events, file = read_sequences(path), self._attributes_file(path)
        known = {} if file is None else read_attributes(file)
        interacted = set(events[ITEM])
        items = _item_table(file, {item: listed for item, listed in known.items() if item in interacted})
        dataset = validated(
            name=path.stem,
            interactions=RawTable(file=str(path), frame=events, names={USER: USER, ITEM: ITEM}, separator="|"),
            items=items,
            users=None,
            description=Description(
                actions={},
                context={},
                items={} if items is None else {ATTRIBUTES: "categories"},
                users={},
                objectives={"buy": "1"},
                target="buy",
                title=None,
                order="user",
            ),
        )
        if strangers := len(known.keys() - interacted):
            note = f"items of {file} that no line of {path.name} holds were left out: {strangers}"
            return replace(dataset, notes=(*dataset.notes, note))
        return dataset

    def _attributes_file(self, path: Path) -> Path | None:
        beside = path.with_name(f"{path.stem}_item2attributes.json")
        if self.attributes is None:
            return beside if beside.is_file() else None
        return Path(self.attributes)


def read_sequences(path: Path) -> pl.DataFrame:
    """Read user and item as text, one row per event, in the order of the file."""
    lines = [line.split() for line in _text(path).split("\n")]
    _check_lines(path, lines)
    users = [words[0] for words in lines if words for _ in words[1:]]
    items = list(chain.from_iterable(words[1:] for words in lines))
    return pl.DataFrame({USER: users, ITEM: items})


def read_attributes(path: Path) -> dict[str, list[str]]:
    """Read item -> distinct attributes as text."""
    try:
        document = json.loads(_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{path}: no valid JSON: {error}; write {{item: [attribute, ...]}}") from None
    if not isinstance(document, dict):
        raise DataError(f"{path}: holds a {type(document).__name__}; write {{item: [attribute, ...]}}")
    for item, listed in document.items():
        if not isinstance(listed, list) or not all(_is_name(one) for one in listed):
            raise DataError(f"{path}: the item {item!r} has {shortened(listed)}; write a list of numbers or words")
    return {item: list(dict.fromkeys(map(str, listed))) for item, listed in document.items()}


def _is_name(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8; save the file anew in UTF-8") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; correct the path") from None


def _check_lines(path: Path, lines: list[list[str]]) -> None:
    seen: dict[str, int] = {}
    for number, words in enumerate(lines, start=1):
        if len(words) == 1:
            raise DataError(f"{path}, line {number}: {shortened(words[0])} stands alone; {FORM}")
        if words and (first := seen.setdefault(words[0], number)) != number:
            raise DataError(
                f"{path}, line {number}: the user {shortened(words[0])} was on line {first} already; "
                "write one line for every user"
            )
    if not seen:
        raise DataError(f"{path}: the file is empty; {FORM}")


def _item_table(file: Path | None, known: Mapping[str, list[str]]) -> RawTable | None:
    if file is None:
        return None
    if not known:
        raise DataError(f"{file}: knows no item of the sequences; name the file with the same ids, or remove it")
    listed = pl.Series(ATTRIBUTES, list(known.values()), dtype=pl.List(pl.String))
    frame = pl.DataFrame([pl.Series(ITEM, list(known)), listed])
    return RawTable(file=str(file), frame=frame, names={ITEM: ITEM}, separator="|")
