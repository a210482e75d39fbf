"""Explanations of shown and missing items, as tables and sentences."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from recsys.contracts import Slate
from recsys.policy.explanation.why_not import why_not
from recsys.stages import Stages


def explain_absence(stages: Stages, tensors: Mapping[str, Any], item: str) -> str:
    """Return why an item is not on the slate of one query; tensors: after all stages."""
    rules = stages[-1]
    (query,), candidates = rules.offered(tensors)
    return why_not(rules.policy, query, candidates, item)


def reasons_table(slate: Slate, names: Mapping[str, str]) -> Table:
    """Return a table with items of an explained slate as rows, feature groups as columns."""
    explained = [one for one in slate.items if one.adds]
    groups = list(explained[0].adds) if explained else []
    table = Table(title=Text("what adds to the utility, before rules"), box=box.SIMPLE_HEAD, title_justify="left")
    for heading in ("item", *groups, "because of"):
        table.add_column(heading, justify="right" if heading in groups else "left")
    for one in explained:
        because = "" if one.because_of is None else names[one.because_of]
        cells = (names[one.item], *(f"{one.adds[name]:+.3f}" for name in groups), because)
        table.add_row(*(Text(cell) for cell in cells))
    return table
