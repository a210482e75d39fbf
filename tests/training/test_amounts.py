"""Grades and amounts as objectives that follow one another: never contradictory, and their mean is the amount's.

Shapes: N items, B requests, C candidates, T steps.
"""

import numpy as np
import polars as pl
import pytest
import yaml

from recsys.content.text import TextVectors
from recsys.data.sources.tables import Tables
from recsys.data.splits import TEST, VALIDATION, GlobalTime
from recsys.features.spec import Features
from recsys.policy.value import ValueFormula
from recsys.ranking.losses import BinaryCrossEntropy, ListNet
from recsys.ranking.model import RankerSizes
from recsys.ranking.multi_objective import MultiObjectiveRanker
from recsys.training.optimizers import DEFAULT_OPTIMIZER
from recsys.training.prepare import prepare
from recsys.training.ranking import RankerTrainerConfig
from recsys.training.ranking_examples import ExampleSampling
from recsys.training.schedules import DEFAULT_SCHEDULE
from recsys.training.slates import Slates, logged_examples
from recsys.training.trainer import cpu_trainer

KEYS = ("user", "item", "timestamp")
STEPS = (0.0, 2.0, 5.0, 10.0, 20.0, 40.0)
WATCHED = 0.6
NUM_ITEMS, NUM_REQUESTS, SHOWN = 40, 4_000, 5
CONFIG = RankerTrainerConfig(
    model=MultiObjectiveRanker,
    sizes=RankerSizes(
        dim=8,
        num_heads=1,
        cross_rank=4,
        num_cross_layers=1,
        num_experts=1,
        expert_dim=16,
        dropout=0.0,
        id_dropout=0.2,
        feature_dropout=0.0,
    ),
    sampling=ExampleSampling(
        requests_per_user=1,
        requests=10**9,
        validation_requests=10**9,
        examples_gib=1.0,
        dense_candidates=SHOWN,
        shown=None,
    ),
    num_positions=0,
    pointwise=BinaryCrossEntropy(),
    loss=ListNet(),
    listwise_weight=0.0,
    balance="equal",
    watch="likelihood",
    batch_size=64,
    epochs=6,
    most_examples=None,
    patience=6,
    learning_rate=0.005,
    weight_decay=0.01,
    optimizer=DEFAULT_OPTIMIZER,
    scheduler=DEFAULT_SCHEDULE,
)


def means():
    """[N] minutes that whoever watches an item stays."""
    return 10 * np.exp(np.linspace(-1, 1, NUM_ITEMS))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Slates of five; an item is watched with a chance of .6, and for an exponential time."""
    folder, rng = tmp_path_factory.mktemp("minutes"), np.random.default_rng(0)
    items = np.concatenate([rng.permutation(NUM_ITEMS)[:SHOWN] for _ in range(NUM_REQUESTS)])
    minutes = np.where(rng.random(len(items)) < WATCHED, rng.exponential(means()[items]), 0.0)
    at = np.repeat(np.arange(NUM_REQUESTS), SHOWN)
    events = {"user": at % 400, "item": items, "timestamp": 1e9 + 60.0 * at, "minutes": minutes}
    pl.DataFrame(events).write_csv(folder / "events.csv")
    pl.DataFrame({"item": range(NUM_ITEMS), "length": np.log(means())}).write_csv(folder / "items.csv")
    description = {
        "interactions": {"file": "events.csv", **{name: name for name in KEYS}, "actions": {"minutes": "number"}},
        "items": {"file": "items.csv", "item": "item", "columns": {"length": "number"}},
        "objectives": {"stay": {"amount": "minutes", "steps": [*STEPS]}},
        "target": "stay",
    }
    (folder / "minutes.yaml").write_text(yaml.safe_dump(description, sort_keys=False))
    dataset = Tables(description=str(folder / "minutes.yaml")).load()
    split = GlobalTime(rank=0.1, validation=0.25, test=0.1, cuts=1, later=0.0, horizon_days=None).splits(dataset)[0]
    features = Features(history_length=4, max_values=1, min_count=1, leave_out=[])
    return prepare(dataset, split, features, TextVectors(dim=1, min_documents=1, seed=0))


@pytest.fixture(scope="module")
def predicted(prepared, tmp_path_factory):
    """Catalogue rows [B, C] of the test and their probabilities [B, C, T]."""
    spec, items = prepared.spec(prepared.split.known(VALIDATION))
    periods = prepared.split.periods
    train, valid, test = (
        logged_examples(prepared, spec, items, Slates.of(prepared, rows), position=None)
        for rows in (prepared.split.known(VALIDATION), periods == VALIDATION, periods == TEST)
    )
    loop = cpu_trainer(threads=1)
    folder = tmp_path_factory.mktemp("trained")
    fitted = CONFIG.fit(spec, items, train, valid, trainer=loop, folder=folder, seed=0, loggers=[])
    assert fitted.calibrator.parents == (None, 0, 1, 2, 3, 4)
    return test.candidate_rows, fitted.probabilities(items, test)


def truth(prepared, rows):
    """[..., T] chance of each step of the items in these rows."""
    minutes = means()[np.array(prepared.dataset.items["item"].to_list(), dtype=int)[rows]]
    return WATCHED * np.exp(-np.array(STEPS) / minutes[..., None])


def test_a_greater_amount_is_never_likelier_than_a_smaller_one(predicted):
    assert (np.diff(predicted[1], axis=-1) <= 0).all()


def test_every_step_is_as_likely_as_it_is(prepared, predicted):
    rows, chances = predicted
    wanted = truth(prepared, rows)
    assert np.abs(chances - wanted).mean(axis=(0, 1)).max() < 0.03
    np.testing.assert_allclose(chances.mean(axis=(0, 1)), wanted.mean(axis=(0, 1)), atol=0.03)


def test_the_mean_amount_is_what_a_formula_makes_of_its_name(prepared, predicted):
    """Of the amount that ends at the last step."""
    rows, chances = predicted
    described = prepared.dataset.description
    value = ValueFormula(formula="stay", weights={}).expand_means(described.means).compile(tuple(described.objectives))
    minutes = means()[np.array(prepared.dataset.items["item"].to_list(), dtype=int)[rows]]
    wanted = WATCHED * minutes * (1 - np.exp(-STEPS[-1] / minutes))
    assert np.corrcoef(value(chances).ravel(), wanted.ravel())[0, 1] > 0.95
    assert value(chances).mean() == pytest.approx(wanted.mean(), rel=0.12)
