"""Grades and amounts in a description: several objectives that follow one another, and the mean that they add up to.

    stars: {grade: rating, levels: [1, 2, 3, 4, 5]}     rating >= 1, ..., rating >= 5; the mean grade is exact
    minutes: {amount: minutes, steps: [0, 5, 15]}       minutes > 0, ..., minutes > 15; the mean of min(minutes, 15)

The first is the continuation-ratio model of an ordinal answer (Fienberg 1980), for the ranker learns each objective given
the one before it (recsys/ranking/funnel.py); the second is a regression by distribution: the mean is the area under
P(amount > s), by the trapezoid rule over the steps (TPM, Lin et al. 2023). Value formulas read the mean by its name.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from recsys.data.description import refuse_unknown
from recsys.errors import DataError

KINDS = {"grade": "levels", "amount": "steps"}
"""what is measured -> where it is cut"""


def expanded(objectives: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str], dict[str, str]]:
    """Objectives as a person writes them -> plain ones, means as sums over these, and the first objective of each mean.

    DataError for a grade or an amount that is none.
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
            f"objectives.{name} is {dict(written)}; write an expression, {{grade: ..., levels: [...]}} or "
            "{amount: ..., steps: [...]}"
        )
    kind, cuts = kinds[0], KINDS[kinds[0]]
    refuse_unknown(f"objectives.{name}", written, (kind, cuts))
    values, text = _rising(f"objectives.{name}.{cuts}", written.get(cuts)), f"({written[kind]})"
    if kind == "grade":
        own = {f"{name}_from_{_told(value)}": f"{text} >= {value!r}" for value in values}
        weights = [high - low for low, high in pairwise([0, *values])]
    else:
        if values[0] != 0:
            raise DataError(f"objectives.{name}.steps begins with {values[0]}; begin with 0, where the area begins")
        own = {f"{name}_over_{_told(value)}": f"{text} > {value!r}" for value in values}
        widths = [high - low for low, high in pairwise(values)]
        weights = [(before + behind) / 2 for before, behind in zip([0, *widths], [*widths, 0], strict=True)]
    return own, " + ".join(f"{weight!r} * {one}" for weight, one in zip(weights, own, strict=True))


def _rising(where: str, values: Any) -> Sequence[int | float]:
    if not isinstance(values, list) or len(values) < 2 or not all(map(_number, values)) or values[0] < 0:
        raise DataError(
            f"{where} is {values!r}; write at least two numbers from 0 on, each greater than the one before"
        )
    if any(low >= high for low, high in pairwise(values)):
        raise DataError(f"{where} is {values!r}; write numbers of which each is greater than the one before")
    return values


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _told(value: float) -> str:
    """Part of a plain name, another one for every value."""
    return repr(value).replace(".", "_").replace("+", "").replace("-", "minus")
