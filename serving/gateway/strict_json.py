"""JSON as a stranger sends it: what parsers are known to disagree about is refused (RFC 8259 and I-JSON, RFC 7493).

Every function names the place it speaks of and raises QueryError.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from recsys.errors import QueryError

NOUNS = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}


def parse(body: bytes) -> Mapping[str, Any]:
    """One object in UTF-8, without names that come twice, NaN or Infinity."""
    try:
        document = json.loads(body.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        raise QueryError("the body is not UTF-8; send one JSON object in UTF-8") from None
    except RecursionError:
        raise QueryError("the body is nested too deeply; send one JSON object as documented") from None
    except ValueError as error:
        raise QueryError(f"the body is not one JSON object: {error}; send one as documented") from None
    return object_of("the body", document)


def object_of(place: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise QueryError(f"{place} is {told(value)}; send a JSON object")
    return value


def fields_of(place: str, value: Any, known: Sequence[str], needed: Sequence[str] = ()) -> Mapping[str, Any]:
    """An object of known fields only."""
    fields = object_of(place, value)
    for name in fields:
        if name not in known:
            raise QueryError(f"{place} has the unknown field {told(name)}; known are {', '.join(known) or 'none'}")
    for name in needed:
        if name not in fields:
            raise QueryError(f"{place} lacks the field {name!r}; send it")
    return fields


def list_of(place: str, value: Any, *, most: int, least: int = 0) -> list[Any]:
    if not isinstance(value, list):
        raise QueryError(f"{place} is {told(value)}; send a list")
    if not least <= len(value) <= most:
        raise QueryError(f"{place} has {len(value)} entries; send {least} to {most}")
    return value


def text_of(place: str, value: Any, *, most: int, least: int = 1) -> str:
    """Of `least` to `most` characters, each of which UTF-8 can say."""
    if not isinstance(value, str):
        raise QueryError(f"{place} is {told(value)}; send a string")
    if not least <= len(value) <= most:
        raise QueryError(f"{place} has {len(value)} characters; send {least} to {most}")
    if not value.isascii():
        _check_encodable(place, value)
    return value


def number_of(place: str, value: Any, *, low: float = -sys.float_info.max, high: float = sys.float_info.max) -> float:
    """Finite, as a float. Compared before it is converted: an integer may be of any size."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        wanted = "a finite number" if high == sys.float_info.max else f"a number from {low:g} to {high:g}"
        raise QueryError(f"{place} is {told(value)}; send {wanted}")
    return float(value)


def whole_of(place: str, value: Any, *, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise QueryError(f"{place} is {told(value)}; send a whole number from {low} to {high}")
    return value


def told(value: Any) -> str:
    """Few words for any value; what could be long or deep is only named."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**15:
        return "a very large number"
    if isinstance(value, str) and len(value) <= 40:
        return ascii(value)
    return NOUNS.get(type(value)) or repr(value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {told(next(name for name in names if names.count(name) > 1))} comes twice")
    return document


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a finite number")


def _check_encodable(place: str, value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise QueryError(f"{place} has half of a surrogate pair; send whole characters") from None
