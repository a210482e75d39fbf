"""Poison before any model: what a period may not know changes nothing of what is encoded, learnt from or asked in it."""

import dataclasses

import numpy as np
import polars as pl
import pytest

from recsys.content.text import TextVectors
from recsys.data.dataset import Dataset
from recsys.data.sources.synthetic import Synthetic
from recsys.data.splits import RANK, TEST, VALIDATION, GlobalTime, LeaveOneOut, Random, Split
from recsys.features.encode import encode_queries
from recsys.features.spec import Features
from recsys.training.examples import event_sequences
from recsys.training.prepare import Prepared, prepare

SPLITTERS = {
    "global time": GlobalTime(rank=0.1, validation=0.1, test=0.3, cuts=2, later=0.0, horizon_days=None),
    "leave one out": LeaveOneOut(min_events=4),
    "random": Random(rank=0.2, validation=0.2, test=0.2, seed=0),
}


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return Synthetic(users=50, items=40, events=1_500, seed=0).load()


def poisoned(dataset: Dataset, chosen: np.ndarray) -> Dataset:
    """The chosen events meet other items, elsewhere, with other actions."""
    ids = dataset.items["item"]
    changed = {
        "item": pl.col("item").replace_strict(ids, np.roll(ids.to_numpy(), 7)),
        "device": pl.lit("poison"),
        **{name: 1 - pl.col(name) for name in dataset.description.actions},
    }
    hit = pl.Series(chosen)
    altered = [pl.when(hit).then(new).otherwise(pl.col(name)).alias(name) for name, new in changed.items()]
    return dataclasses.replace(dataset, interactions=dataset.interactions.with_columns(altered))


def prepared_of(dataset: Dataset, split: Split) -> Prepared:
    features = Features(history_length=8, max_values=3, min_count=1, leave_out=[])
    return prepare(dataset, split, features, TextVectors(dim=4, min_documents=1, seed=0))


@pytest.mark.parametrize("period", [RANK, VALIDATION, TEST])
@pytest.mark.parametrize("name", SPLITTERS)
def test_what_may_not_be_known_reaches_nothing(dataset: Dataset, name: str, period: int) -> None:
    split = SPLITTERS[name].splits(dataset)[0]
    clean, dirty = (prepared_of(one, split) for one in (dataset, poisoned(dataset, split.periods >= period)))
    (spec, items), (other, others) = (one.spec(split.known(period)) for one in (clean, dirty))
    assert spec.fingerprint == other.fingerprint
    for part, encoded in items.encoded.items():
        np.testing.assert_array_equal(encoded, others.encoded[part])
    rows = clean.replay.first_rows(split.periods == period)
    assert len(rows) > 10
    asked = clean.replay.queries(rows, 5)
    again = [
        dataclasses.replace(query, context=one.context)
        for query, one in zip(dirty.replay.queries(rows, 5), asked, strict=True)
    ]
    assert again == asked, "but for the context of the event itself, which is the poison's"
    _, history = encode_queries(spec, items, asked)
    assert (history >= 0).any()
    learnt, relearnt = (event_sequences(one.replay, split.known(period)) for one in (clean, dirty))
    for field in dataclasses.fields(learnt):
        np.testing.assert_array_equal(getattr(learnt, field.name), getattr(relearnt, field.name))
    assert len(learnt.rows) > 100


def test_the_poison_would_be_seen(dataset: Dataset) -> None:
    """One period earlier it reaches the spec, the queries and what is learnt from."""
    (split,) = SPLITTERS["random"].splits(dataset)
    clean, dirty = (prepared_of(one, split) for one in (dataset, poisoned(dataset, split.periods >= VALIDATION)))
    assert clean.spec(split.known(TEST))[0].fingerprint != dirty.spec(split.known(TEST))[0].fingerprint
    rows = clean.replay.first_rows(split.periods == TEST)
    assert clean.replay.queries(rows, 5) != dirty.replay.queries(rows, 5)
    learnt, relearnt = (event_sequences(one.replay, split.known(TEST)) for one in (clean, dirty))
    assert learnt.items.tolist() != relearnt.items.tolist()
