"""Business rules as data: filter, boost, pin and cap, checked against the catalogue when they are loaded.

    rules:
      - {name: no-documentaries, filter: "contains(genres, 'Documentary')"}
      - {name: push-recent, boost: 1.2, where: "year >= 1997"}
      - {name: pin-house-film, pin: "50", position: 0, surface: home}
      - {name: at-most-three-per-genre, cap: 3, of: genres, top: 10}

A filter removes the items that its condition holds for. A boost multiplies the utility where it is positive and divides
it where it is negative, so that a boost above 1 never lowers an item. A pin puts an item on a place (0 is the first),
on one surface or on all. A cap lets at most so many items that share a value be among the first `top`.
Conditions read item columns only, so filters and boosts are compiled once, to arrays over the catalogue.

Shapes: N items of the catalogue, M values of an item at most, R boosts.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import yaml

from recsys.contracts import MAX_K
from recsys.errors import ConfigError
from recsys.expressions import Columns, compile_expression, suggestion

MIN_BOOST, MAX_BOOST = 0.1, 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Remove the items for which the expression holds."""

    name: str
    filter: str

    optional: ClassVar[tuple[str, ...]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Boost:
    """Multiply the utility of the items for which `where` holds."""

    name: str
    boost: float
    where: str

    optional: ClassVar[tuple[str, ...]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """Put one item on one place."""

    name: str
    pin: str
    position: int
    surface: str | None = None
    """None is every surface"""

    optional: ClassVar[tuple[str, ...]] = ("surface",)

    def meets(self, other: "Pin") -> bool:
        return self.surface is None or other.surface is None or self.surface == other.surface


@dataclass(frozen=True, slots=True, kw_only=True)
class Cap:
    """At most `cap` items that share a value of the column `of` among the first `top`."""

    name: str
    cap: int
    of: str
    top: int

    optional: ClassVar[tuple[str, ...]] = ()


Rule = Filter | Boost | Pin | Cap
KINDS: dict[str, type[Rule]] = {"filter": Filter, "boost": Boost, "pin": Pin, "cap": Cap}


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledPin:
    """A pin whose item was found in the catalogue."""

    name: str
    row: int
    position: int
    surface: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledCap:
    """A cap with the values of its column as numbers."""

    name: str
    cap: int
    top: int
    groups: np.ndarray
    """[N, M] int32, the distinct values of each item, padded with num_groups"""
    num_groups: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledRules:
    """A rule set made ready for one catalogue."""

    hash: str
    allowed: np.ndarray
    """[N] bool, False where a filter holds"""
    factors: np.ndarray
    """[N] float64, product of the boosts that hold"""
    boosts: tuple[str, ...]
    boosted: np.ndarray
    """[R, N] bool, where each boost holds"""
    pins: tuple[CompiledPin, ...]
    """by rising position"""
    caps: tuple[CompiledCap, ...]

    def boost(self, utility: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Boosted utility float64 of the catalogue rows, of their shape; larger factors never lower it."""
        factors = self.factors[rows]
        values = utility.astype(np.float64)
        return np.where(values < 0, values / factors, values * factors)


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Rules in the order of their document."""

    rules: tuple[Rule, ...]

    @staticmethod
    def parse(document: Mapping[str, Any] | str) -> "RuleSet":
        """From YAML text or its decoded document; ConfigError says which rule and which key is wrong."""
        decoded = _decoded(document, "the rule set") if isinstance(document, str) else document
        if not isinstance(decoded, Mapping) or list(decoded) != ["rules"] or not isinstance(decoded["rules"], list):
            raise ConfigError("a rule set is one document with the key rules, a list; write rules: [] for none")
        rules = tuple(_rule(place, entry) for place, entry in enumerate(decoded["rules"]))
        _refuse_duplicates(rules)
        _refuse_colliding_pins([rule for rule in rules if isinstance(rule, Pin)])
        return RuleSet(rules)

    @staticmethod
    def read(path: str | Path) -> "RuleSet":
        """From a YAML file."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the rule file {path} cannot be read: {error}") from None
        return RuleSet.parse(_decoded(text, f"the rule file {path}"))

    def to_document(self) -> dict[str, Any]:
        """What parse reads, with nothing left implicit."""
        return {
            "rules": [{key: value for key, value in asdict(rule).items() if value is not None} for rule in self.rules]
        }

    @property
    def hash(self) -> str:
        """Content address: the first 12 hexadecimal digits of the sha256 of the canonical JSON."""
        text = json.dumps(self.to_document(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def compile(self, catalogue: Columns, types: Mapping[str, str]) -> CompiledRules:
        """Check every rule against the catalogue and make arrays of it.

        catalogue: columns [N], among them "item" with the ids. types: type of each column that rules may read.
        ConfigError names the rule and the key that do not fit.
        """
        known = {"item": "category", **types}
        num_items = len(catalogue["item"])
        boosts = [rule for rule in self.rules if isinstance(rule, Boost)]
        boosted = [_holds(rule.name, "where", rule.where, catalogue, known) for rule in boosts]
        filters = [rule for rule in self.rules if isinstance(rule, Filter)]
        filtered = [_holds(rule.name, "filter", rule.filter, catalogue, known) for rule in filters]
        pins = [_pin(rule, catalogue["item"]) for rule in self.rules if isinstance(rule, Pin)]
        return CompiledRules(
            hash=self.hash,
            allowed=~functools.reduce(np.logical_or, filtered, np.zeros(num_items, dtype=bool)),
            factors=_factors([rule.boost for rule in boosts], boosted, num_items),
            boosts=tuple(rule.name for rule in boosts),
            boosted=np.array(boosted, dtype=bool).reshape(len(boosts), num_items),
            pins=tuple(sorted(pins, key=lambda pin: pin.position)),
            caps=tuple(_cap(rule, catalogue, known) for rule in self.rules if isinstance(rule, Cap)),
        )


def _decoded(text: str, source: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{source} is not YAML: {place}{reason}; mend it there") from None


def _rule(place: int, entry: Any) -> Rule:
    where = f"rules[{place}]"
    if not isinstance(entry, Mapping):
        raise ConfigError(
            f"{where} is a {type(entry).__name__}; write a mapping with a name and one of {', '.join(KINDS)}"
        )
    kinds = [kind for kind in KINDS if kind in entry]
    if len(kinds) != 1:
        raise ConfigError(f"{where} has {' and '.join(kinds) or 'no kind'}; give exactly one of {', '.join(KINDS)}")
    kind = KINDS[kinds[0]]
    _check_keys(where, entry, kind)
    return kind(**{key: _CHECKS[key](f"{where}.{key}", value) for key, value in entry.items()})


def _check_keys(where: str, entry: Mapping[Any, Any], kind: type[Rule]) -> None:
    known = [one.name for one in fields(kind)]
    if unknown := [str(key) for key in entry if key not in known]:
        raise ConfigError(f"{where} has the unknown key {unknown[0]!r}; {suggestion(unknown[0], known)}")
    if absent := [key for key in known if key not in entry and key not in kind.optional]:
        raise ConfigError(f"{where} lacks the key {absent[0]!r}; give {', '.join(known)}")


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{where} is {_shown(value)}; write text, in quotes")
    return value


def _factor(where: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not MIN_BOOST <= value <= MAX_BOOST:
        raise ConfigError(f"{where} is {_shown(value)}; write a number from {MIN_BOOST} to {MAX_BOOST}")
    return float(value)


def _whole(low: int, where: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= MAX_K:
        raise ConfigError(f"{where} is {_shown(value)}; write a whole number from {low} to {MAX_K}")
    return value


def _shown(value: Any) -> str:
    return repr(value)[:40] if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(["name", "filter", "where", "pin", "surface", "of"], _text),
    "boost": _factor,
    "position": functools.partial(_whole, 0),
    "cap": functools.partial(_whole, 1),
    "top": functools.partial(_whole, 1),
}


def _refuse_duplicates(rules: tuple[Rule, ...]) -> None:
    names = [rule.name for rule in rules]
    if twice := [name for place, name in enumerate(names) if name in names[:place]]:
        raise ConfigError(f"two rules are called {twice[0]!r}; give each its own name")


def _refuse_colliding_pins(pins: list[Pin]) -> None:
    for place, pin in enumerate(pins):
        for other in pins[:place]:
            if pin.meets(other) and pin.position == other.position:
                raise ConfigError(f"rules {other.name!r} and {pin.name!r} pin position {pin.position}; move one")
            if pin.meets(other) and pin.pin == other.pin:
                raise ConfigError(f"rules {other.name!r} and {pin.name!r} pin item {pin.pin!r}; remove one")


def _holds(name: str, key: str, text: str, catalogue: Columns, types: Mapping[str, str]) -> np.ndarray:
    expression = compile_expression(text, types, where=f"rule {name!r}, {key}", wanted="boolean")
    items = {"item": catalogue["item"]}
    return expression({**items, **{column: catalogue[column] for column in expression.names if column in catalogue}})


def _factors(boosts: list[float], boosted: list[np.ndarray], num_items: int) -> np.ndarray:
    factors = np.ones(num_items)
    for boost, holds in zip(boosts, boosted, strict=True):
        factors = np.where(holds, factors * boost, factors)
    return factors


def _pin(rule: Pin, items: np.ndarray) -> CompiledPin:
    rows = np.flatnonzero(items == rule.pin)
    if not len(rows):
        raise ConfigError(
            f"rule {rule.name!r} pins the item {rule.pin!r}, which is not in the catalogue; correct the id"
        )
    return CompiledPin(name=rule.name, row=int(rows[0]), position=rule.position, surface=rule.surface)


def _cap(rule: Cap, catalogue: Columns, types: Mapping[str, str]) -> CompiledCap:
    if rule.of not in types:
        raise ConfigError(f"rule {rule.name!r} caps the unknown column {rule.of!r}; {suggestion(rule.of, types)}")
    if types[rule.of] not in ("category", "categories"):
        raise ConfigError(
            f"rule {rule.name!r} caps {rule.of!r}, a {types[rule.of]}; name a category or categories column"
        )
    rows = _values(catalogue[rule.of], types[rule.of])
    groups, num_groups = _numbered(rows)
    return CompiledCap(name=rule.name, cap=rule.cap, top=rule.top, groups=groups, num_groups=num_groups)


def _values(column: np.ndarray, kind: str) -> list[tuple[str, ...]]:
    """The distinct values of each item; none where the value is missing."""
    if kind == "category":
        return [() if value is None else (value,) for value in column]
    return [tuple(dict.fromkeys(values or ())) for values in column]


def _numbered(rows: list[tuple[str, ...]]) -> tuple[np.ndarray, int]:
    """[N, M] int32 of numbered values, padded with their count."""
    numbers = {value: number for number, value in enumerate(dict.fromkeys(value for row in rows for value in row))}
    groups = np.full((len(rows), max(map(len, rows), default=0)), len(numbers), dtype=np.int32)
    for place, row in enumerate(rows):
        groups[place, : len(row)] = [numbers[value] for value in row]
    return groups, len(numbers)
