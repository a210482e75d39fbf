"""The weights of a value formula, weighed against each other from what a bundle remembers of its validation."""

from typing import Any

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from recsys.bundle import Bundle
from recsys.errors import ConfigError
from recsys.evaluation.chart import short
from recsys.evaluation.pareto import OUTCOMES, Outcomes, on_front
from recsys.expressions import suggestion
from recsys.policy.compose import Policy
from recsys.policy.value import ValueFormula
from recsys.stages import read_spec

GRID = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""values of the weight beside the one that is served"""

Point = dict[str, Any]


def weighed(bundle: Bundle, weight: str, objectives: tuple[str, str]) -> list[Point]:
    """{"weight", "worth", "front", "served"} for every value, rising; ConfigError for an unknown name."""
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
    outcomes, served = Outcomes.from_arrays(bundle.arrays(OUTCOMES)), value.weights[weight]
    grid = sorted({*GRID, served})
    worth = [_worth(value, weight, one, names, objectives, outcomes) for one in grid]
    return [
        {"weight": one, "worth": point, "front": bool(front), "served": one == served}
        for one, point, front in zip(grid, worth, on_front(np.array(worth)), strict=True)
    ]


def _worth(
    value: ValueFormula,
    weight: str,
    setting: float,
    names: tuple[str, ...],
    objectives: tuple[str, str],
    outcomes: Outcomes,
) -> list[float]:
    formula = ValueFormula(formula=value.formula, weights={**value.weights, weight: setting}).compile(names)
    utilities = formula(outcomes.probabilities)
    return [outcomes.ndcg(utilities, names.index(name)) for name in objectives]


def front_table(points: list[Point], objectives: tuple[str, str], weight: str) -> Table:
    """Values as rows, those on the front bold."""
    table = Table(title=Text(f"NDCG@10 by {weight}"), box=box.SIMPLE_HEAD, title_justify="left", caption_justify="left")
    for heading in (weight, *objectives, ""):
        table.add_column(heading, justify="right")
    for point in points:
        cells = (f"{point['weight']:g}", *map(short, point["worth"]), "served" * point["served"])
        table.add_row(*(Text(cell) for cell in cells), style="bold" if point["front"] else "")
    table.caption = "bold: no other value is as good for both and better for one"
    return table
