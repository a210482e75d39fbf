"""Declarations of JSON values: each parses a value strictly and publishes its JSON Schema, so that both say the same.

A path names the value in a sentence: "" is the body, "events[3].item" a part of it. `parse` raises QueryError.

msgspec and pydantic were measured beside these (benchmarks/journal/LOG.md): both are quicker, neither refuses a name that comes
twice, and their sentences do not say what to send.
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from recsys.data.ids import normalised_id
from recsys.errors import QueryError
from serving.gateway.strict_json import describe, fields_of, integer_of, list_of, number_of, text_of

Schema = dict[str, Any]
MAX = sys.float_info.max


class Value(ABC):
    """One kind of JSON value."""

    @abstractmethod
    def parse(self, path: str, value: Any) -> Any:
        """Return the checked value."""

    @abstractmethod
    def schema(self) -> Schema:
        """Return the JSON Schema."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text(Value):
    most: int
    """characters"""
    least: int = 1

    def parse(self, path: str, value: Any) -> str:
        return text_of(path, value, max_length=self.most, min_length=self.least)

    def schema(self) -> Schema:
        return {"type": "string", **({"minLength": self.least} if self.least else {}), "maxLength": self.most}


@dataclass(frozen=True, slots=True, kw_only=True)
class Id(Value):
    """User or item id, normalised as in the training data."""

    most: int

    def parse(self, path: str, value: Any) -> str:
        if not (id := normalised_id(text_of(path, value, max_length=self.most))):
            raise QueryError(f"{path} holds nothing but blanks; send an id")
        return id

    def schema(self) -> Schema:
        return Text(most=self.most).schema()


@dataclass(frozen=True, slots=True, kw_only=True)
class Number(Value):
    low: float = -MAX
    high: float | Callable[[], float] = MAX
    """a function for a bound that moves"""

    def parse(self, path: str, value: Any) -> float:
        return number_of(path, value, low=self.low, high=self.high() if callable(self.high) else self.high)

    def schema(self) -> Schema:
        bounds = {"minimum": self.low, "maximum": self.high}
        kept = {name: one for name, one in bounds.items() if not callable(one) and abs(one) < MAX}
        return {"type": "number", **kept}


@dataclass(frozen=True, slots=True, kw_only=True)
class Integer(Value):
    low: int
    high: int

    def parse(self, path: str, value: Any) -> int:
        return integer_of(path, value, low=self.low, high=self.high)

    def schema(self) -> Schema:
        return {"type": "integer", "minimum": self.low, "maximum": self.high}


@dataclass(frozen=True, slots=True)
class Boolean(Value):
    def parse(self, path: str, value: Any) -> bool:
        if not isinstance(value, bool):
            raise QueryError(f"{path} is {describe(value)}; send true or false")
        return value

    def schema(self) -> Schema:
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class Nullable(Value):
    """A value, or null."""

    of: Value

    def parse(self, path: str, value: Any) -> Any:
        return None if value is None else self.of.parse(path, value)

    def schema(self) -> Schema:
        schema = self.of.schema()
        if "type" not in schema:
            return {"anyOf": [schema, {"type": "null"}]}
        return {**schema, "type": [schema["type"], "null"]}


@dataclass(frozen=True, slots=True, kw_only=True)
class ListOf(Value):
    of: Value
    most: int
    """entries"""
    least: int = 0

    def parse(self, path: str, value: Any) -> list[Any]:
        listed = list_of(path, value, max_length=self.most, min_length=self.least)
        return [self.of.parse(f"{path}[{index}]", one) for index, one in enumerate(listed)]

    def schema(self) -> Schema:
        least = {"minItems": self.least} if self.least else {}
        return {"type": "array", **least, "maxItems": self.most, "items": self.of.schema()}


@dataclass(frozen=True, slots=True)
class OneOrMore(Value):
    """A value, or a list of them."""

    of: ListOf

    def parse(self, path: str, value: Any) -> list[Any]:
        listed = self.of.parse(path, value) if isinstance(value, list) else [self.of.of.parse(path, value)]
        return list(dict.fromkeys(listed))

    def schema(self) -> Schema:
        return {"anyOf": [self.of.of.schema(), self.of.schema()]}


@dataclass(frozen=True, slots=True)
class Object(Value):
    """Named values; a name that is not declared is refused."""

    fields: Mapping[str, Value]
    required: tuple[str, ...] = ()

    def parse(self, path: str, value: Any) -> dict[str, Any]:
        """Return the fields that came."""
        found = fields_of(path or "the body", value, tuple(self.fields), self.required)
        return {name: self.fields[name].parse(f"{path}.{name}" if path else name, one) for name, one in found.items()}

    def schema(self) -> Schema:
        properties = {name: one.schema() for name, one in self.fields.items()}
        required = list(self.required)
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


@dataclass(frozen=True, slots=True)
class Published(Value):
    """A value with further keys of its schema: a description, a default."""

    of: Value
    more: Schema = field(default_factory=dict)

    def parse(self, path: str, value: Any) -> Any:
        return self.of.parse(path, value)

    def schema(self) -> Schema:
        return {**self.of.schema(), **self.more}
