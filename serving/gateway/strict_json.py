"""Strict parsing of untrusted JSON: constructs on which parsers disagree are refused (RFC 8259; I-JSON, RFC 7493).

Every function takes the path of its value for the message and raises QueryError.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from recsys.errors import QueryError

NOUNS = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}


def parse(body: bytes) -> Mapping[str, Any]:
    """Parse one object in UTF-8, without duplicate names, NaN or Infinity."""
    try:
        document = json.loads(body.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        raise QueryError("the body is not UTF-8; send one JSON object in UTF-8") from None
    except RecursionError:
        raise QueryError("the body is nested too deeply; send one JSON object as documented") from None
    except ValueError as error:
        raise QueryError(f"the body is not one JSON object: {error}; send one as documented") from None
    return object_of("the body", document)


def object_of(path: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise QueryError(f"{path} is {describe(value)}; send a JSON object")
    return value


def fields_of(path: str, value: Any, known: Sequence[str], required: Sequence[str] = ()) -> Mapping[str, Any]:
    """Check an object of known fields only, the required ones present."""
    fields = object_of(path, value)
    for name in fields:
        if name not in known:
            raise QueryError(f"{path} has the unknown field {describe(name)}; known are {', '.join(known) or 'none'}")
    for name in required:
        if name not in fields:
            raise QueryError(f"{path} lacks the field {name!r}; send it")
    return fields


def list_of(path: str, value: Any, *, max_length: int, min_length: int = 0) -> list[Any]:
    if not isinstance(value, list):
        raise QueryError(f"{path} is {describe(value)}; send a list")
    if not min_length <= len(value) <= max_length:
        raise QueryError(f"{path} has {len(value)} entries; send {min_length} to {max_length}")
    return value


def text_of(path: str, value: Any, *, max_length: int, min_length: int = 1) -> str:
    """Check a string of `min_length` to `max_length` characters, encodable in UTF-8."""
    if not isinstance(value, str):
        raise QueryError(f"{path} is {describe(value)}; send a string")
    if not min_length <= len(value) <= max_length:
        raise QueryError(f"{path} has {len(value)} characters; send {min_length} to {max_length}")
    if not value.isascii():
        _check_encodable(path, value)
    return value


def number_of(path: str, value: Any, *, low: float = -sys.float_info.max, high: float = sys.float_info.max) -> float:
    """Check a finite number and return a float. Compared before conversion, since an integer may be of any size."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        expected = "a finite number" if high == sys.float_info.max else f"a number from {low:g} to {high:g}"
        raise QueryError(f"{path} is {describe(value)}; send {expected}")
    return float(value)


def integer_of(path: str, value: Any, *, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise QueryError(f"{path} is {describe(value)}; send a whole number from {low} to {high}")
    return value


def describe(value: Any) -> str:
    """Short description of any value; long or nested ones by type only."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**15:
        return "a very large number"
    if isinstance(value, str) and len(value) <= 40:
        return ascii(value)
    return NOUNS.get(type(value)) or repr(value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        names: set[str] = set()
        for name, _ in pairs:  # one pass: a body may have tens of thousands of names
            if name in names:
                raise ValueError(f"the name {describe(name)} comes twice")
            names.add(name)
    return document


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a finite number")


def _check_encodable(path: str, value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise QueryError(f"{path} has half of a surrogate pair; send whole characters") from None
