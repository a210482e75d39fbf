"""YAML files that describe data: reading, and checks of their mappings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from recsys import strict_yaml
from recsys.errors import DataError


def read_document(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; DataError with the location of a mistake."""
    try:
        document = strict_yaml.load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: the description cannot be read: {error}; name a YAML file in UTF-8") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        location = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "somewhere"
        raise DataError(f"{path}: no valid YAML at {location}: {error.problem}; correct it there") from None
    except yaml.YAMLError as error:
        raise DataError(f"{path}: no valid YAML: {' '.join(str(error).split())}; correct it") from None
    if not isinstance(document, dict):
        raise DataError(f"{path}: the file is {document!r}; write a mapping, `key: value`")
    return mapping_of("the file", document)


def mapping_of(where: str, value: Any) -> dict[str, Any]:
    """Return a mapping with keys as text; DataError for anything else."""
    if not isinstance(value, dict):
        raise DataError(f"{where} is {value!r}; write a mapping, `key: value`")
    return {str(key): one for key, one in value.items()}


def require(where: str, document: Mapping[str, Any], keys: tuple[str, ...]) -> None:
    """Raise DataError for the first missing key."""
    for key in keys:
        if key not in document:
            raise DataError(f"{where} has no {key!r}; add it")


def null_words(key: str, written: Any) -> tuple[str, ...]:
    """Return null words as text; YAML parses some as numbers, and NULL as null."""
    if not isinstance(written, list) or not all(isinstance(one, str | int | float | None) for one in written):
        raise DataError(f"{key}.missing is {written!r}; write a list of null words, e.g. [unknown, 0]")
    if odd := [one for one in written if isinstance(one, bool)]:
        raise DataError(f"{key}.missing holds {odd[0]!r}, which YAML makes of words like no and yes; put it in quotes")
    return tuple("null" if one is None else str(one) for one in written)
