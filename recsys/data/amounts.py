"""Grades, amounts and counts in a description: chains of threshold objectives, and the mean that they sum to.

    stars: {grade: rating, levels: [1, 2, 3, 4, 5]}     rating >= 1, ..., rating >= 5; the mean grade is exact
    minutes: {amount: minutes, steps: [0, 5, 15]}       minutes > 0, ..., minutes > 15; the mean of min(minutes, 15)
    revenue: {amount: price, steps: [0, 10], where: "kind == 'purchase'"}     the price of purchases, 0 of all else
    views: {count: "kind == 'view'", steps: [1, 2, 5]}  at least 1, 2, 5 views of an item within the horizon

A single event counts once: it can reach only the first step of a count, the others need several events on a candidate
(recsys/replay/replay.py).

Grades are the continuation-ratio model of an ordinal answer (Fienberg 1980), since the ranker learns each objective given
the one before it (recsys/ranking/funnel.py); amounts are a regression by distribution: the mean is the area under
P(amount > s), by the trapezoid rule over the steps (TPM, Lin et al. 2023). Value formulas read the mean by its name.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from recsys.data.description import refuse_unknown
from recsys.errors import DataError

KINDS = {"grade": "levels", "amount": "steps", "count": "steps"}
"""key of the measured value -> key of its thresholds"""
Cuts = Sequence[int | float]


def expanded(objectives: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str], dict[str, str]]:
    """Expand objectives into plain ones, means as sums over them, and the first objective of each mean.

    DataError for a malformed grade, amount or count.
    """
    plain: dict[str, Any] = {}
    means, first = {}, {}
    for name, written in objectives.items():
        own, mean = _measured(name, written) if isinstance(written, Mapping) else ({name: written}, None)
        if twice := sorted(own.keys() & plain.keys()):
            raise DataError(f"objectives.{name} makes an objective {twice[0]!r}, which there is already; rename one")
        plain |= own
        if mean is not None:
            means[name], first[name] = mean, next(iter(own))
    return plain, means, first


def _measured(name: str, written: Mapping[str, Any]) -> tuple[dict[str, str], str]:
    kinds = [kind for kind in KINDS if kind in written]
    if len(kinds) != 1:
        raise DataError(
            f"objectives.{name} is {dict(written)}; write an expression, {{grade: ..., levels: [...]}}, "
            "{amount: ..., steps: [...]} or {count: ..., steps: [...]}"
        )
    kind, cuts = kinds[0], KINDS[kinds[0]]
    refuse_unknown(f"objectives.{name}", written, (kind, cuts) if kind == "count" else (kind, cuts, "where"))
    values = _rising(f"objectives.{name}.{cuts}", written.get(cuts), least=1 if kind == "count" else 2)
    own, weights = _CUT[kind](name, written, values)
    return own, " + ".join(f"{weight!r} * {one}" for weight, one in zip(weights, own, strict=True))


def _grades(name: str, written: Mapping[str, Any], values: Cuts) -> tuple[dict[str, str], list[float]]:
    text = _value(f"objectives.{name}", written, "grade")
    return {f"{name}_from_{_name_part(value)}": f"{text} >= {value!r}" for value in values}, _widths(values)


def _amounts(name: str, written: Mapping[str, Any], values: Cuts) -> tuple[dict[str, str], list[float]]:
    if values[0] != 0:
        raise DataError(f"objectives.{name}.steps begins with {values[0]}; begin with 0, where the area begins")
    text, widths = _value(f"objectives.{name}", written, "amount"), _widths(values)[1:]
    weights = [(before + behind) / 2 for before, behind in zip([0, *widths], [*widths, 0], strict=True)]
    return {f"{name}_over_{_name_part(value)}": f"{text} > {value!r}" for value in values}, weights


def _counts(name: str, written: Mapping[str, Any], values: Cuts) -> tuple[dict[str, str], list[float]]:
    if not all(isinstance(value, int) for value in values) or values[0] < 1:
        raise DataError(f"objectives.{name}.steps is {values!r}; events are counted from 1: write whole numbers")
    event = str(written["count"])
    own = {f"{name}_from_{value}": event if value == 1 else f"count({event}) >= {value}" for value in values}
    return own, _widths(values)


_CUT: dict[str, Callable[[str, Mapping[str, Any], Cuts], tuple[dict[str, str], list[float]]]] = {
    "grade": _grades,
    "amount": _amounts,
    "count": _counts,
}


def _value(where: str, written: Mapping[str, Any], kind: str) -> str:
    """Return the measured number, 0 for events that `where` excludes."""
    condition = written.get("where")
    if condition is not None and not isinstance(condition, str):
        raise DataError(
            f"{where}.where is {condition!r}; write a condition in quotes, for instance \"kind == 'purchase'\""
        )
    return f"({written[kind]})" if condition is None else f"where({condition}, {written[kind]})"


def _widths(values: Cuts) -> list[float]:
    return [high - low for low, high in pairwise([0, *values])]


def _rising(where: str, values: Any, least: int) -> Sequence[int | float]:
    if not isinstance(values, list) or len(values) < least or not all(map(_number, values)) or values[0] < 0:
        raise DataError(
            f"{where} is {values!r}; write at least {('one number', 'two numbers')[least - 1]} from 0 on, "
            "each greater than the one before"
        )
    if any(low >= high for low, high in pairwise(values)):
        raise DataError(f"{where} is {values!r}; write numbers of which each is greater than the one before")
    return values


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _name_part(value: float) -> str:
    """Return a number as part of an identifier, unique per value."""
    return repr(value).replace(".", "_").replace("+", "").replace("-", "minus")
