"""THE cascade: the only place where the stages follow each other.

`recommend` runs a stage list in this process; the Triton ensembles are generated from the same list. A stage reads
named tensors and adds named tensors; the first input is the queries, the last output the slates.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from recsys.contracts import Query, Slate


class Stage(Protocol):
    """One step of the cascade."""

    @property
    def name(self) -> str: ...

    def __call__(self, tensors: Mapping[str, Any]) -> Mapping[str, Any]: ...


def recommend(queries: Sequence[Query], stages: Sequence[Stage]) -> list[Slate]:
    """Answer a batch of queries; slate i answers query i."""
    return through({"QUERY": queries}, stages)["SLATE"]


def through(tensors: Mapping[str, Any], stages: Sequence[Stage]) -> dict[str, Any]:
    """The tensors and all that the stages add to them, one after the other."""
    found = dict(tensors)
    for stage in stages:
        found |= stage(found)
    return found


def light(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """The same cascade without the ranker, for when it is slow or gone."""
    return tuple(stage for stage in stages if stage.name != "rank")
