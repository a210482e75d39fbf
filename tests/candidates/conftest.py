"""A small catalogue with categories, a date and vectors, and what is known of it."""

import numpy as np
import pytest

from recsys.candidates.candidate_source import TrainingInteractions
from recsys.features.encode import ItemTable, column_array
from recsys.features.spec import Column, FeatureSpec, TableSpec
from recsys.index import ExactIndex


@pytest.fixture(scope="session")
def known_of():
    """Events, and columns {name: (kind, values)} of the items -> what a source is fitted on."""

    def known_of(users, items, num_items, *, timestamps=None, dim=4, **columns):
        ids = [f"i{item:02}" for item in range(num_items)]
        columns = {"item": ("category", ids), **columns}
        arrays = {
            name: column_array(kind, values, len(values[0]) if kind == "vector" else 0)
            for name, (kind, values) in columns.items()
        }
        table = TableSpec(name="items", columns=tuple(_column(name, *given) for name, given in columns.items()))
        nothing = TableSpec(name="none", columns=())
        spec = FeatureSpec(
            items=table,
            profile=nothing,
            context=nothing,
            history_length=3,
            actions=("click",),
            objectives={"watch": "click"},
            target="watch",
        )
        return TrainingInteractions(
            users=np.asarray(users),
            items=np.asarray(items),
            timestamps=np.full(len(users), np.nan) if timestamps is None else np.asarray(timestamps, dtype=float),
            table=ItemTable.encode(table, ids, arrays),
            spec=spec,
            index=ExactIndex(np.random.default_rng(num_items).normal(size=(num_items, dim))),
            ordered=True,
        )

    return known_of


def _column(name, kind, values):
    if kind == "number":
        return Column(name=name, kind="number", mean=3.0, scale=2.0)
    if kind == "vector":
        return Column(name=name, kind="vector", slots=len(values[0]))
    lists = [one if kind == "categories" else [one] for one in values if one is not None]
    slots = max(map(len, lists)) if kind == "categories" else 1
    vocabulary = tuple(sorted({value for one in lists for value in one} - {"rare"}))
    return Column(name=name, kind=kind, vocabulary=vocabulary, slots=slots)
