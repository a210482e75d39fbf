"""What each part of the input adds to the utility of what is shown: the ranker asked again without it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from recsys.contracts import PAD, Slate
from recsys.errors import ConfigError
from recsys.features.encode import encode_queries
from recsys.features.occlusion import variants
from recsys.policy.why_not import why_not
from recsys.stages import PROBABILITIES, LiveRetrieve, Rank, Retrieve, Stages

EVENT = "event "


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why one item has the utility that it has, before rules."""

    item: str
    groups: Mapping[str, float]
    """group of features -> utility with all minus utility without it"""
    because_of: str | None
    """the item of the history whose absence would cost most; None where no event speaks for the item"""


def reasons(stages: Stages, tensors: Mapping[str, Any], slate: Slate) -> list[Reason]:
    """Of the items of one slate that a source offered; tensors: of one query, after all stages.

    ConfigError without a ranker.
    """
    first, rules = stages[0], stages[-1]
    rank = next((stage for stage in stages if isinstance(stage, Rank)), None)
    if rank is None:
        raise ConfigError("the bundle has no ranker whose reasons could be asked for; train one, without ~ranking")
    retrieve = first.now if isinstance(first, LiveRetrieve) else first
    places = {retrieve.items.ids[row]: place for place, row in enumerate(tensors["candidate_rows"][0]) if row >= 0}
    shown = [one.item for one in slate.items if one.item in places]
    if not shown:
        return []
    arrays = {name: array for name, array in tensors.items() if name.startswith(_READ) and name != "candidate_rows"}
    names, occluded = variants(retrieve.spec, arrays, np.array([places[item] for item in shown], dtype=np.int64))
    utilities = rules.policy.value(rank.model(occluded)[PROBABILITIES])
    added = dict(zip(names[1:], utilities[0] - utilities[1:], strict=True))
    events = [retrieve.items.ids[row] for row in _history(retrieve, tensors)]
    return [
        _reason(item, {name: float(one[place]) for name, one in added.items()}, events)
        for place, item in enumerate(shown)
    ]


def absence(stages: Stages, tensors: Mapping[str, Any], item: str) -> str:
    """Why an item is not on the slate of one query; tensors: after all stages."""
    rules = stages[-1]
    (query,), candidates, probabilities, deviations = rules.offered(tensors)
    return why_not(rules.policy, query, candidates, probabilities, deviations, item)


_READ = ("history_", "profile_", "context_", "candidate_")


def _history(retrieve: Retrieve, tensors: Mapping[str, Any]) -> list[int]:
    """Catalogue rows of the events that the ranker reads, the newest first."""
    _, rows = encode_queries(retrieve.spec, retrieve.items, tensors["QUERY"])
    return rows[0][rows[0] != PAD][::-1].tolist()


def _reason(item: str, added: Mapping[str, float], events: Sequence[str]) -> Reason:
    groups = {name: value for name, value in added.items() if not name.startswith(EVENT)}
    spoken = {name: value for name, value in added.items() if name.startswith(EVENT) and value > 0}
    strongest = max(spoken, key=lambda name: spoken[name], default=None)
    return Reason(
        item=item,
        groups=groups,
        because_of=None if strongest is None else events[int(strongest.removeprefix(EVENT)) - 1],
    )


def reasons_table(found: Sequence[Reason], names: Mapping[str, str]) -> Table:
    """Items as rows, groups as columns."""
    groups = list(found[0].groups) if found else []
    table = Table(title=Text("what adds to the utility, before rules"), box=box.SIMPLE_HEAD, title_justify="left")
    for heading in ("item", *groups, "because of"):
        table.add_column(heading, justify="right" if heading in groups else "left")
    for one in found:
        because = "" if one.because_of is None else names[one.because_of]
        cells = (names[one.item], *(f"{one.groups[name]:+.3f}" for name in groups), because)
        table.add_row(*(Text(cell) for cell in cells))
    return table
