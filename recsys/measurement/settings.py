"""Settings of a measurement: the outcomes that are credited to what was shown, and the columns by which figures are split.

    actions: {kind: word, amount: number}
    outcomes:
      click: {value: "kind == 'click'", window_s: 3600}
      revenue: {value: "where(kind == 'buy', amount)", window_s: 604800, credit: linear}
    k: [1, 10]
    by: [context.device, profile.segment]
    return_days: [1, 7]

An outcome is an expression over the actions of an event: a boolean counts events, a number adds up amounts.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from recsys.data.description import Description, did_you_mean, kinds_of_actions, refuse_unknown
from recsys.data.documents import mapping_of, read_document, require
from recsys.errors import ConfigError, DataError, check_ranges
from recsys.expressions import ACTION_TYPES, Expression, compile_expression

Credit = Literal["last", "linear", "position"]
CREDITS: tuple[str, ...] = get_args(Credit)
OWNERS = ("context", "profile", "arms")
"""parts of a query whose columns figures can be split by"""
DAY_S = 86_400.0
DEFAULT_WINDOW_S = DAY_S


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """An outcome of shown items: its value for an event, and the rule that credits it.

    An event that names its request credits the item of that request. Another one credits the impressions of its item that its
    user saw within the window before it: the last one; all alike (linear); or 40% to the first, 40% to the last and the rest to
    those between (position).
    """

    value: str
    """expression over the actions; an event where it is 0 or unknown has no such outcome"""
    window_s: float = DEFAULT_WINDOW_S
    """longest time from impression to event; an impression counts once it has passed"""
    credit: Credit = "last"


@dataclass(frozen=True, kw_only=True)
class MeasurementSettings:
    """Actions, outcomes and splits; raises ConfigError for a key or value that cannot be used."""

    actions: Mapping[str, str]
    """columns of the events that say what the user did -> number or word"""
    outcomes: Mapping[str, Outcome]
    k: Sequence[int] = (10,)
    """lengths of the top of a slate at which rates are given"""
    by: Sequence[str] = ()
    """columns of the query, context.<name>, profile.<name> or arms.<experiment>, beside those that every impression has"""
    return_days: Sequence[int] = (1, 7)
    """days within which a user is counted as returned"""
    expressions: Mapping[str, Expression] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.outcomes:
            raise ConfigError('outcomes is empty; name at least one, for instance {click: {value: "1"}}')
        object.__setattr__(self, "expressions", {name: self._compiled(name) for name in self.outcomes})
        for number, k in enumerate(self.k):
            check_ranges("measurement", **{f"k[{number}]": (k, 1, 1_000)})
        for number, days in enumerate(self.return_days):
            check_ranges("measurement", **{f"return_days[{number}]": (days, 1, 366)})
        for column in self.by:
            owner, _, name = str(column).partition(".")
            if owner not in OWNERS or not name:
                raise ConfigError(f"by names {column!r}; write context.<column>, profile.<column> or arms.<experiment>")

    def _compiled(self, name: str) -> Expression:
        outcome = self.outcomes[name]
        if not name.isidentifier():
            raise ConfigError(f"the outcome {name!r} is no plain name; use letters, digits and _")
        if outcome.credit not in CREDITS:
            near = did_you_mean(outcome.credit, CREDITS)
            raise ConfigError(f"outcomes.{name}.credit is {outcome.credit!r}{near}; write one of {', '.join(CREDITS)}")
        check_ranges(f"outcomes.{name}", window_s=(outcome.window_s, 1.0, 366 * DAY_S))
        types = {action: ACTION_TYPES[kind] for action, kind in self.actions.items()}
        compiled = compile_expression(outcome.value, types, where=f"outcomes.{name}", result_type="label")
        if compiled.counts:
            raise ConfigError(f"outcomes.{name} counts events; write the value of one event, they are added up")
        return compiled

    @cached_property
    def digest(self) -> str:
        """Return the sha256 of everything that decides the outcomes and their splits, 16 hex digits."""
        chosen = {name: value for name, value in asdict(self).items() if name != "expressions"}
        return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def longest_window_s(self) -> float:
        return max(outcome.window_s for outcome in self.outcomes.values())

    def is_amount(self, outcome: str) -> bool:
        """Return whether the outcome adds up amounts, not events."""
        return self.expressions[outcome].type == "number"

    @staticmethod
    def of_description(description: Description) -> "MeasurementSettings":
        """Return the objectives of a data set as outcomes within a day, those over single events."""
        expressions = description.expressions()
        single = {name: Outcome(value=one.text) for name, one in expressions.items() if not one.counts}
        return MeasurementSettings(actions=description.actions, outcomes=single)

    @staticmethod
    def read(path: Path) -> "MeasurementSettings":
        """Read a YAML file; ConfigError names the key."""
        try:
            return _settings(read_document(path))
        except (ConfigError, DataError) as error:
            text = str(error)
            raise ConfigError(text if text.startswith(str(path)) else f"{path}: {text}") from None


def _settings(document: Mapping[str, Any]) -> MeasurementSettings:
    refuse_unknown("the file", document, ("actions", "outcomes", "k", "by", "return_days"))
    require("the file", document, ("actions", "outcomes"))
    outcomes = {name: _outcome(name, one) for name, one in mapping_of("outcomes", document["outcomes"]).items()}
    lists = {name: _list(name, document[name]) for name in ("k", "by", "return_days") if name in document}
    return MeasurementSettings(
        actions=kinds_of_actions(mapping_of("actions", document["actions"])), outcomes=outcomes, **lists
    )


def _outcome(name: str, document: Any) -> Outcome:
    written = mapping_of(f"outcomes.{name}", document)
    refuse_unknown(f"outcomes.{name}", written, ("value", "window_s", "credit"))
    require(f"outcomes.{name}", written, ("value",))
    if not isinstance(written["value"], str):
        raise ConfigError(f"outcomes.{name}.value is {written['value']!r}; write an expression in quotes")
    return Outcome(**written)


def _list(name: str, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise ConfigError(f"{name} is {value!r}; write a list, for instance [{value}]")
    return tuple(value)
