"""Sweep of one weight of a value formula, evaluated on the validation outcomes in a bundle."""

from typing import Any

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from recsys.bundle import Bundle
from recsys.errors import ConfigError
from recsys.evaluation.chart import short
from recsys.evaluation.pareto import OUTCOMES, ValidationOutcomes, pareto_front
from recsys.expressions import suggestion
from recsys.policy.compose import Policy
from recsys.policy.value import ValueFormula
from recsys.stages import read_spec

GRID = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""weights that are evaluated beside the served one"""

Point = dict[str, Any]


def sweep_weight(bundle: Bundle, weight: str, objectives: tuple[str, str]) -> list[Point]:
    """Return {"weight", "worth", "front", "served"} per weight, ascending; ConfigError for an unknown name."""
    if not bundle.has(OUTCOMES):
        raise ConfigError(f"{bundle.path} has no {OUTCOMES}: it has no ranker or is older; train it again with one")
    value = Policy.from_document(bundle.document("policy.yaml")).value
    names = tuple(read_spec(bundle).objectives)
    if not value.weights:
        raise ConfigError(
            f"the value formula {value.formula or ' + '.join(names)!r} has no named weights; "
            "give policy.value.formula and policy.value.weights, and train again"
        )
    if weight not in value.weights:
        raise ConfigError(f"the value formula has no weight {weight!r}; {suggestion(weight, tuple(value.weights))}")
    for name in objectives:
        if name not in names:
            raise ConfigError(f"the bundle has no objective {name!r}; {suggestion(name, names)}")
    outcomes, served = ValidationOutcomes.from_arrays(bundle.arrays(OUTCOMES)), value.weights[weight]
    grid = sorted({*GRID, served})
    ndcgs = [_ndcg_of(value, weight, one, names, objectives, outcomes) for one in grid]
    return [
        {"weight": one, "worth": point, "front": bool(front), "served": one == served}
        for one, point, front in zip(grid, ndcgs, pareto_front(np.array(ndcgs)), strict=True)
    ]


def _ndcg_of(
    value: ValueFormula,
    weight: str,
    setting: float,
    names: tuple[str, ...],
    objectives: tuple[str, str],
    outcomes: ValidationOutcomes,
) -> list[float]:
    formula = ValueFormula(formula=value.formula, weights={**value.weights, weight: setting}).compile(names)
    utilities = formula(outcomes.probabilities)
    return [outcomes.ndcg(utilities, names.index(name)) for name in objectives]


def pareto_table(points: list[Point], objectives: tuple[str, str], weight: str) -> Table:
    """Return a table of weights, those on the Pareto front bold."""
    table = Table(title=Text(f"NDCG@10 by {weight}"), box=box.SIMPLE_HEAD, title_justify="left", caption_justify="left")
    for heading in (weight, *objectives, ""):
        table.add_column(heading, justify="right")
    for point in points:
        cells = (f"{point['weight']:g}", *map(short, point["worth"]), "served" * point["served"])
        table.add_row(*(Text(cell) for cell in cells), style="bold" if point["front"] else "")
    table.caption = "bold: no other value is as good for both and better for one"
    return table
