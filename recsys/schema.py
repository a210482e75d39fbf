"""JSON values, each declared once: the declaration parses strictly, publishes its JSON Schema and names its column type.

`schema_of` derives the declaration of a dataclass from its annotations; what depends on a bundle is declared by hand from the
same values. msgspec and pydantic were measured beside these (benchmarks/journal/LOG.md): both are quicker, neither refuses a
name that comes twice, and their sentences do not say what to send.
"""

import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from dataclasses import field as dataclass_field
from functools import cache
from operator import attrgetter
from types import NoneType, UnionType
from typing import Any, ClassVar, get_args, get_origin, get_type_hints

from recsys.errors import QueryError

Schema = dict[str, Any]
MAX = sys.float_info.max
INT64 = 2**63 - 1
NOUNS = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
SPARSE = {"sparse": True}
"""metadata of a dataclass field that documents leave out where it has its default"""


class InvalidValueError(Exception):
    """A refused value: its path is only built on the way out, so that sound documents pay nothing for it."""

    def __init__(self, sentence: str) -> None:
        self.sentence = sentence
        self.path = ""

    def inside(self, part: str) -> "InvalidValueError":
        self.path = part + self.path
        return self


class Value(ABC):
    """One kind of JSON value."""

    column: ClassVar[str] = "json"
    """type of its column in a table: text, number, integer, boolean, texts; json is text"""

    @abstractmethod
    def check(self, value: Any) -> Any:
        """Return the checked value."""

    @abstractmethod
    def schema(self) -> Schema:
        """Return the JSON Schema."""

    def parse(self, path: str, value: Any) -> Any:
        """Return the checked value; QueryError names it by the path, "" for a whole body."""
        try:
            return self.check(value)
        except InvalidValueError as error:
            whole = path + error.path if path else error.path.removeprefix(".")
            raise QueryError(f"{whole or 'the body'} {error.sentence}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Text(Value):
    """A string; one with a limit must be encodable in UTF-8."""

    column = "text"
    most: int | None = None
    """characters"""
    least: int = 0

    def check(self, value: Any) -> str:
        if not isinstance(value, str):
            raise InvalidValueError(f"is {describe(value)}; send a string")
        if self.most is not None:
            if not self.least <= len(value) <= self.most:
                raise InvalidValueError(f"has {len(value)} characters; send {self.least} to {self.most}")
            if not value.isascii():
                _check_encodable(value)
        return value

    def schema(self) -> Schema:
        least = {"minLength": self.least} if self.least else {}
        return {"type": "string", **least, **({} if self.most is None else {"maxLength": self.most})}


@dataclass(frozen=True, slots=True, kw_only=True)
class Number(Value):
    """A finite number, read as a float."""

    column = "number"
    low: float = -MAX
    high: float | Callable[[], float] = MAX
    """a function for a bound that moves"""

    def check(self, value: Any) -> float:
        high = self.high() if callable(self.high) else self.high
        # compared before conversion, since an integer may be of any size
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= high:
            expected = "a finite number" if high == MAX else f"a number from {self.low:g} to {high:g}"
            raise InvalidValueError(f"is {describe(value)}; send {expected}")
        return float(value)

    def schema(self) -> Schema:
        bounds = {"minimum": self.low, "maximum": self.high}
        kept = {name: one for name, one in bounds.items() if not callable(one) and abs(one) < MAX}
        return {"type": "number", **kept}


@dataclass(frozen=True, slots=True, kw_only=True)
class Integer(Value):
    """A whole number."""

    column = "integer"
    low: int = -INT64
    high: int = INT64

    def check(self, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not self.low <= value <= self.high:
            raise InvalidValueError(f"is {describe(value)}; send a whole number from {self.low} to {self.high}")
        return value

    def schema(self) -> Schema:
        bounds = {"minimum": self.low, "maximum": self.high}
        return {"type": "integer", **{name: one for name, one in bounds.items() if abs(one) < INT64}}


@dataclass(frozen=True, slots=True)
class Boolean(Value):
    column = "boolean"

    def check(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise InvalidValueError(f"is {describe(value)}; send true or false")
        return value

    def schema(self) -> Schema:
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class Anything(Value):
    """Any JSON value."""

    def check(self, value: Any) -> Any:
        return value

    def schema(self) -> Schema:
        return {}


@dataclass(frozen=True, slots=True)
class NumberOrText(Value):
    def check(self, value: Any) -> float | str:
        return value if isinstance(value, str) else Number().check(value)

    def schema(self) -> Schema:
        return {"type": ["number", "string"]}


@dataclass(frozen=True, slots=True)
class Nullable(Value):
    """A value, or null."""

    of: Value

    @property
    def column(self) -> str:  # type: ignore[override]
        return self.of.column

    def check(self, value: Any) -> Any:
        return None if value is None else self.of.check(value)

    def schema(self) -> Schema:
        schema = self.of.schema()
        if "type" not in schema:
            return {"anyOf": [schema, {"type": "null"}]}
        return {**schema, "type": [schema["type"], "null"]}


@dataclass(frozen=True, slots=True, kw_only=True)
class ListOf(Value):
    """A list; where an object has it from a dataclass, a tuple."""

    column = "texts"
    of: Value
    most: int | None = None
    """entries"""
    least: int = 0
    make: type[list[Any]] | type[tuple[Any, ...]] = list

    def check(self, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            raise InvalidValueError(f"is {describe(value)}; send a list")
        if self.most is not None and not self.least <= len(value) <= self.most:
            raise InvalidValueError(f"has {len(value)} entries; send {self.least} to {self.most}")
        if self.of == Text() and set(map(type, value)) <= {str}:  # thousands of items may be excluded
            return self.make(value)
        return self.make(self._entries(value))

    def _entries(self, values: Sequence[Any]) -> list[Any]:
        check, entries = self.of.check, []
        try:
            for value in values:
                entries.append(check(value))
        except InvalidValueError as error:
            raise error.inside(f"[{len(entries)}]") from None
        return entries

    def schema(self) -> Schema:
        least = {"minItems": self.least} if self.least else {}
        most = {} if self.most is None else {"maxItems": self.most}
        return {"type": "array", **least, **most, "items": self.of.schema()}


@dataclass(frozen=True, slots=True)
class OneOrMore(Value):
    """A value, or a list of them."""

    of: ListOf

    def check(self, value: Any) -> list[Any]:
        listed = self.of.check(value) if isinstance(value, list) else [self.of.of.check(value)]
        return list(dict.fromkeys(listed))

    def schema(self) -> Schema:
        return {"anyOf": [self.of.of.schema(), self.of.schema()]}


@dataclass(frozen=True, slots=True)
class MappingOf(Value):
    """Values of one kind by any names."""

    of: Value

    def check(self, value: Any) -> Mapping[str, Any]:
        named = _mapping(value)
        return _checked(named, dict.fromkeys(named, self.of))

    def schema(self) -> Schema:
        return {"type": "object", "additionalProperties": self.of.schema() or True}


@dataclass(frozen=True, slots=True)
class Object(Value):
    """Named values; a name that is not declared is refused."""

    fields: Mapping[str, Value]
    required: tuple[str, ...] = ()

    def check(self, value: Any) -> dict[str, Any]:
        """Return the fields that came."""
        found = _mapping(value)
        if not found.keys() <= self.fields.keys():
            unknown = next(name for name in found if name not in self.fields)
            known = ", ".join(self.fields) or "none"
            raise InvalidValueError(f"has the unknown field {describe(unknown)}; known are {known}")
        for name in self.required:
            if name not in found:
                raise InvalidValueError(f"lacks the field {name!r}; send it")
        return _checked(found, self.fields)

    def schema(self) -> Schema:
        properties = {name: one.schema() for name, one in self.fields.items()}
        required = list(self.required)
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


@dataclass(frozen=True, slots=True)
class Published(Value):
    """A value with further keys of its schema: a description, a default."""

    of: Value
    more: Schema = dataclass_field(default_factory=dict)

    @property
    def column(self) -> str:  # type: ignore[override]
        return self.of.column

    def check(self, value: Any) -> Any:
        return self.of.check(value)

    def schema(self) -> Schema:
        return {**self.of.schema(), **self.more}


@dataclass(frozen=True, slots=True)
class Instance(Value):
    """A dataclass."""

    of: Callable[..., Any]
    object: Object
    sparse: Mapping[str, Any]
    """field -> default with which documents leave it out"""
    get: Callable[[Any], tuple[Any, ...]]
    """returns all fields of an object"""
    nested: Sequence[tuple[str, Callable[[Any], Any]]]
    """fields that are dataclasses or lists of them, and what writes one"""

    def check(self, value: Any) -> Any:
        return self.of(**self.object.check(value))

    def schema(self) -> Schema:
        """Return the schema of its documents, in which only sparse fields may lack."""
        return {**self.object.schema(), "required": [name for name in self.object.fields if name not in self.sparse]}

    def document(self, value: Any) -> dict[str, Any]:
        """Return the JSON document that `check` reads back."""
        found = dict(zip(self.object.fields, self.get(value), strict=True))
        for name, default in self.sparse.items():
            if found[name] == default:
                del found[name]
        for name, document in self.nested:
            if name in found:
                found[name] = document(found[name])
        return found

    def row(self, document: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
        """Return these fields of a document as cells of a table; QueryError for a wrong one, others are not looked at."""
        return {name: self._cell(name, document) for name in names}

    def _cell(self, name: str, document: Mapping[str, Any]) -> Any:
        value = self.object.fields[name]
        if name not in document and name not in self.sparse:
            raise QueryError(f"the document lacks the field {name!r}; send it")
        found = value.parse(name, document.get(name, self.sparse.get(name)))
        return json.dumps(found, separators=(",", ":"), sort_keys=True) if value.column == "json" else found


@cache
def schema_of(declared: type) -> Instance:
    """Derive the declaration of a dataclass from its annotations; metadata may hold the `value` and a `description`."""
    hints = get_type_hints(declared)
    found = {one.name: one for one in fields(declared)}
    values = {name: _declared(one, hints[name]) for name, one in found.items()}
    required = tuple(name for name, one in found.items() if not _has_default(one))
    sparse = {name: _default(one) for name, one in found.items() if one.metadata.get("sparse")}
    nested = [(name, write) for name, one in values.items() if (write := _writer(one))]
    return Instance(declared, Object(values, required), sparse, attrgetter(*values), nested)


def _declared(one: "Field[Any]", hint: Any) -> Value:
    value: Value = one.metadata.get("value") or _of_hint(hint)
    return Published(value, {"description": one.metadata["description"]}) if "description" in one.metadata else value


def _writer(value: Value) -> Callable[[Any], Any] | None:
    """Return what writes a dataclass, or a list of them; None for values that are JSON already."""
    if isinstance(value, Instance):
        return value.document
    if isinstance(value, ListOf) and isinstance(value.of, Instance):
        write = value.of.document
        return lambda listed: [write(one) for one in listed]
    return None


def _has_default(one: "Field[Any]") -> bool:
    return one.default is not MISSING or one.default_factory is not MISSING


def _default(one: "Field[Any]") -> Any:
    return one.default_factory() if one.default_factory is not MISSING else one.default


SCALARS: dict[Any, Value] = {
    str: Text(),
    float: Number(),
    int: Integer(),
    bool: Boolean(),
    Any: Anything(),
    float | str: NumberOrText(),
}


def _of_hint(hint: Any) -> Value:
    if hint in SCALARS:
        return SCALARS[hint]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is UnionType and arguments[1:] == (NoneType,):
        return Nullable(_of_hint(arguments[0]))
    if origin is Mapping:
        return MappingOf(_of_hint(arguments[1]))
    if origin is tuple:
        return ListOf(of=_of_hint(arguments[0]), make=tuple)
    return schema_of(hint)


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidValueError(f"is {describe(value)}; send a JSON object")
    return value


def _checked(found: Mapping[str, Any], declared: Mapping[str, Value]) -> dict[str, Any]:
    checked, name = {}, ""
    try:
        for name, value in found.items():
            checked[name] = declared[name].check(value)
    except InvalidValueError as error:
        raise error.inside(f".{name}") from None
    return checked


def parse_object(body: bytes) -> Mapping[str, Any]:
    """Parse one object in UTF-8, without duplicate names, NaN or Infinity, on which parsers disagree (RFC 8259, RFC 7493)."""
    try:
        document = json.loads(body.decode(), object_pairs_hook=_unique, parse_constant=refuse_constant)
    except UnicodeDecodeError:
        raise QueryError("the body is not UTF-8; send one JSON object in UTF-8") from None
    except RecursionError:
        raise QueryError("the body is nested too deeply; send one JSON object as documented") from None
    except ValueError as error:
        raise QueryError(f"the body is not one JSON object: {error}; send one as documented") from None
    return MappingOf(Anything()).parse("", document)


def describe(value: Any) -> str:
    """Describe any value in short; long or nested ones by type only."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**15:
        return "a very large number"
    if isinstance(value, str) and len(value) <= 40:
        return ascii(value)
    return NOUNS.get(type(value)) or ascii(value)[:40]


def refuse_constant(name: str) -> float:
    """Refuse NaN and Infinity, which json.loads reads (`parse_constant`)."""
    raise ValueError(f"{name} is not a finite number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        names: set[str] = set()
        for name, _ in pairs:  # one pass: a body may have tens of thousands of names
            if name in names:
                raise ValueError(f"the name {describe(name)} comes twice")
            names.add(name)
    return document


def _check_encodable(value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidValueError("has half of a surrogate pair; send whole characters") from None
