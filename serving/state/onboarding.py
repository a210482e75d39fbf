"""Onboarding answers of a new user -> seed events, so that the first slate is personal.

Seeds are ordinary feedback and go through the log. A liked item counts as interacted and is not recommended again; a liked
column value is represented by its most popular items, which are therefore not recommended either.
"""

import itertools
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from recsys.bundle import Bundle
from recsys.contracts import Event
from recsys.errors import ConfigError, QueryError, check_ranges
from recsys.expressions import compile_expression, suggestion
from recsys.features.spec import IDENTITY, FeatureSpec
from recsys.items.rule_items import rule_columns
from recsys.policy.category_values import category_values
from recsys.stages import read_catalogue, read_spec

POPULAR = "popular"
"""candidate source with the popularity order"""
OFFSETS = (-1.0, 0.0, 1.0)
"""candidate offsets around every number in an objective"""
MAX_COMBINATIONS = 1_000_000
NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class OnboardingAnswers:
    """Items and column values that a new user likes."""

    items: tuple[str, ...] = ()
    values: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """item column -> liked values"""


class Onboarding:
    """Creates seed events for one bundle. Raises ConfigError for an unreachable objective or a value out of range."""

    def __init__(self, bundle: Bundle, *, objectives: Sequence[str], items_per_value: int) -> None:
        """
        objectives: objectives that a liked item reaches beside the target, e.g. ["like"]
        items_per_value: most popular items that represent a liked value, 1 to 100
        """
        check_ranges("onboarding", items_per_value=(items_per_value, 1, 100))
        spec, types, catalogue = read_spec(bundle), bundle.document("catalogue.json"), read_catalogue(bundle)
        self.actions = actions_reaching(spec, (spec.target, *objectives))
        self.columns = tuple(name for name, kind in types.items() if kind in ("category", "categories"))
        self._max_seeds = spec.history_length
        self._items = tuple(catalogue["item"])
        self._rows = {item: row for row, item in enumerate(self._items)}
        order, columns = popularity(bundle, spec, self._items), rule_columns(catalogue, types)
        self._popular_by_value = cache(
            lambda name: _most_popular(order, category_values("onboarding", name, columns, types), items_per_value)
        )

    def seeds(self, user: str, now: float, answers: OnboardingAnswers) -> tuple[Event, ...]:
        """One event an item, liked items first, at most `history_length`. QueryError for an unknown item, column or value."""
        liked = (self._check(item) for item in answers.items)
        popular = (
            item
            for column, values in answers.values.items()
            for value in values
            for item in self._items_with_value(column, value)
        )
        items = itertools.islice(dict.fromkeys(itertools.chain(liked, popular)), self._max_seeds)
        return tuple(Event(user=user, item=item, timestamp=now, actions=self.actions) for item in items)

    def _check(self, item: str) -> str:
        if item not in self._rows:
            raise QueryError(f"the catalogue has no item {item!r}; send ids of the catalogue")
        return item

    def _items_with_value(self, column: str, value: str) -> list[str]:
        """Most popular items with the value."""
        if column not in self.columns:
            raise QueryError(f"{column!r} is no column whose values can be liked; {suggestion(column, self.columns)}")
        if value not in (popular := self._popular_by_value(column)):
            raise QueryError(f"no item has the {column} {value!r}; {suggestion(value, popular)}")
        return [self._items[row] for row in popular[value]]


def _most_popular(order: Sequence[int], groups: Sequence[Sequence[str]], num: int) -> dict[str, list[int]]:
    """value -> first `num` rows of the order with that value"""
    found: dict[str, list[int]] = defaultdict(list)
    for row in order:
        for value in groups[row]:
            if len(found[value]) < num:
                found[value].append(row)
    return dict(found)


def popularity(bundle: Bundle, spec: FeatureSpec, items: Sequence[str]) -> tuple[int, ...]:
    """Catalogue rows by popularity: the recent-popularity list, then items by events, then catalogue order."""
    row_of = {item: row for row, item in enumerate(items)}
    recent = bundle.arrays("candidates.safetensors").get(f"{POPULAR}.rows", np.zeros(0, dtype=np.int64))
    interacted = (item for column in spec.items.columns if column.name == IDENTITY for item in column.vocabulary)
    by_events = (row_of[item] for item in interacted if item in row_of)
    return tuple(dict.fromkeys(itertools.chain(recent.tolist(), by_events, range(len(items)))))


def actions_reaching(spec: FeatureSpec, objectives: Sequence[str]) -> dict[str, float | str]:
    """Fewest and smallest actions that make all of these objectives positive.

    Exhaustive search over 0, 1, the numbers in the objectives with OFFSETS added, and their words. ConfigError if no
    combination reaches all.
    """
    if unknown := sorted(set(objectives) - set(spec.objectives)):
        raise ConfigError(f"onboarding.objectives names {unknown[0]!r}; {suggestion(unknown[0], spec.objectives)}")
    texts = {name: spec.objectives[name] for name in objectives}
    values = _values(spec, texts)
    codes = np.array(list(itertools.product(*(range(len(one)) for one in values.values()))), dtype=np.int64)
    actions = {name: one[codes[:, column]] for column, (name, one) in enumerate(values.items())}
    columns = [column for column, name in enumerate(spec.objectives) if name in texts]
    reached = np.flatnonzero((spec.labels(actions, len(codes))[:, columns] > 0).all(axis=1))
    if not len(reached):
        listed = ", ".join(f"{name}: {text}" for name, text in texts.items())
        raise ConfigError(
            f"no actions were found that reach all of {listed}; choose other objectives for the onboarding"
        )
    given = codes[reached] > 0
    sizes = [np.abs(np.nan_to_num(actions[name][reached])) for name in values if spec.actions[name] == "number"]
    order = np.where(given, codes[reached], len(codes))
    best = reached[np.lexsort((*reversed(order.T), sum(sizes, np.zeros(len(reached))), given.sum(axis=1)))[0]]
    return {name: values[name].tolist()[code] for name, code in zip(values, codes[best], strict=True) if code}


def _values(spec: FeatureSpec, texts: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Actions read by the objectives -> candidate values, the first of which means not sent."""
    compiled = [
        compile_expression(text, spec.action_types, where=f"objectives.{name}", result_type="label")
        for name, text in texts.items()
    ]
    read, words = (set().union(*parts) for parts in zip(*((one.names, one.words) for one in compiled), strict=True))
    named = {float(number) for text in texts.values() for number in NUMBER.findall(text)}
    candidates: dict[str, list[float | str | None]] = {
        "number": [np.nan, *sorted({0.0, 1.0} | {number + step for number in named for step in OFFSETS})],
        "word": [None, *sorted(words)],
    }
    values = {
        name: np.array(candidates[kind], dtype=np.float64 if kind == "number" else object)
        for name, kind in spec.actions.items()
        if name in read
    }
    if (num := math.prod(map(len, values.values()))) > MAX_COMBINATIONS:
        raise ConfigError(f"the objectives {sorted(texts)} read too many actions to try ({num}); choose simpler ones")
    return values
