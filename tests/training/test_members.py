"""The knobs of the towers, and several towers as one."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from pytorch_lightning.callbacks import Callback

from recsys.content.text import TextVectors
from recsys.data.sources.synthetic import Synthetic
from recsys.data.splits import TEST, GlobalTime
from recsys.errors import ConfigError
from recsys.features.spec import Features
from recsys.retrieval.softmax import SoftmaxLoss
from recsys.retrieval.transformer import TransformerEncoder
from recsys.training.optimizers import DEFAULT_OPTIMIZER
from recsys.training.prepare import prepare
from recsys.training.retrieval import MEMBER_SEED_STRIDE, RetrievalExamples, RetrievalTrainerConfig
from recsys.training.schedules import DEFAULT_SCHEDULE
from recsys.training.trainer import LAST_FILE, cpu_trainer

KNOBS = {
    "dim": 8,
    "user_encoder": partial(TransformerEncoder, num_blocks=1, num_heads=2),
    "loss": SoftmaxLoss(temperature=0.3),
    "dropout": 0.1,
    "id_dropout": 0.1,
    "negatives": 0,
    "lookahead": 1,
    "lookahead_decay": 1.0,
    "members": 1,
    "half_life_days": None,
    "least_steps": 1,
    "batch_size": 64,
    "epochs": 1,
    "most_examples": None,
    "patience": 1,
    "learning_rate": 0.01,
    "weight_decay": 0.0,
    "optimizer": DEFAULT_OPTIMIZER,
    "scheduler": DEFAULT_SCHEDULE,
}


def learnt_from():
    """Features, items and examples of a small world."""
    dataset = Synthetic(users=30, items=20, events=800, seed=0).load()
    split = GlobalTime(rank=0.1, validation=0.1, test=0.2, cuts=1, later=0.0, horizon_days=None).splits(dataset)[-1]
    features = Features(history_length=6, max_values=3, min_count=1, leave_out=["position"])
    prepared = prepare(dataset, split, features, TextVectors(dim=4, min_documents=1, seed=0))
    known = split.known(TEST)
    spec, items = prepared.spec(known)
    return spec, items, RetrievalExamples.of(prepared, spec, known)


@pytest.mark.parametrize(
    "accelerator",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")],
        ),
    ],
)
def test_mixed_precision_learns_about_the_same(tmp_path, accelerator):
    spec, items, examples = learnt_from()
    vectors = []
    for precision in ("32-true", "bf16-mixed"):
        loop = cpu_trainer(accelerator=accelerator, precision=precision)
        knobs = RetrievalTrainerConfig(**{**KNOBS, "dropout": 0.0, "id_dropout": 0.0})
        folder = tmp_path / precision
        vectors.append(
            knobs.fit(spec, items, examples, None, trainer=loop, folder=folder, epochs=1, seed=0, loggers=[])[1]
        )
    cosines = (vectors[0] * vectors[1]).sum(1)
    assert cosines.mean() > 0.99


class Killing(Callback):
    """Ends the fourth step of the second epoch by an error."""

    def on_train_batch_start(self, trainer, task, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == (1, 3):
            raise ZeroDivisionError


def test_towers_that_were_killed_within_an_epoch_end_as_those_that_ran_through(tmp_path):
    learned = learnt_from()
    config = RetrievalTrainerConfig(**{**KNOBS, "epochs": 3, "negatives": 10})

    def fit(folder, *callbacks):
        loop = cpu_trainer(checkpoint_steps=2, callbacks=list(callbacks))
        options = {"trainer": loop, "folder": tmp_path / folder, "epochs": 3, "seed": 0, "loggers": []}
        return config.fit(*learned, None, **options)

    whole = fit("whole")
    with pytest.raises(ZeroDivisionError):
        fit("run", Killing())
    assert torch.load(tmp_path / "run" / LAST_FILE, weights_only=True)["callbacks"]["ExactResume"]["batches"] == 3
    resumed = fit("run")
    assert all(
        torch.equal(one, other)
        for one, other in zip(*(fitted[0].parameters() for fitted in (whole, resumed)), strict=True)
    )
    np.testing.assert_array_equal(resumed[1], whole[1])


def test_members_are_trained_apart_and_joined_into_vectors_of_unit_length(tmp_path):
    spec, items, examples = learnt_from()
    loop = cpu_trainer()

    def fit(members, seed):
        knobs = RetrievalTrainerConfig(**{**KNOBS, "members": members})
        folder = tmp_path / f"{members} from {seed}" / "towers"
        return knobs.fit(spec, items, examples, None, trainer=loop, folder=folder, epochs=1, seed=seed, loggers=[])

    _, joined, epochs = fit(2, 3)
    alone = [fit(1, seed)[1] for seed in (3, 3 + MEMBER_SEED_STRIDE)]
    np.testing.assert_allclose(joined * math.sqrt(2), np.concatenate(alone, axis=1), atol=1e-6)
    assert epochs == 1
    assert not np.allclose(*alone)


@pytest.mark.parametrize(
    ("knob", "value"),
    [
        ("lookahead", 0),
        ("lookahead_decay", 0.0),
        ("members", 0),
        ("half_life_days", 0.0),
        ("least_steps", 0),
        ("negatives", -1),
    ],
)
def test_a_knob_out_of_range_is_named(knob, value):
    with pytest.raises(ConfigError, match=rf"retrieval\.{knob} is {value}"):
        RetrievalTrainerConfig(**{**KNOBS, knob: value})


@pytest.mark.parametrize(
    ("positions", "batch_size", "expected"),
    [(10**6, 2048, 2048), (75_000, 2048, 500), (3_000, 2048, 128), (75_000, 64, 64)],
)
def test_a_small_log_gets_small_batches_but_no_tiny_ones(positions, batch_size, expected):
    config = RetrievalTrainerConfig(**{**KNOBS, "batch_size": batch_size, "least_steps": 150})
    assert config.batch_size_of(positions) == expected


@pytest.mark.parametrize(
    ("most", "examples", "fitted", "expected"),
    [
        (None, 10**9, None, 30),
        (100, 1, None, 30),
        (100, 10, None, 10),
        (100, 51, None, 1),
        (100, 10**6, None, 1),
        (100, 50, 7, 7),
    ],
)
def test_large_data_get_fewer_epochs_but_no_fewer_than_were_chosen(most, examples, fitted, expected):
    config = RetrievalTrainerConfig(**{**KNOBS, "epochs": 30, "most_examples": most})
    assert config.for_examples(examples, fitted).epochs == expected


def test_towers_train_as_many_epochs_as_their_positions_leave(tmp_path):
    """The fourth epoch would be beyond the limit."""
    spec, items, examples = learnt_from()
    positions = int(examples.windows.sizes.sum())
    config = RetrievalTrainerConfig(**{**KNOBS, "epochs": 9, "most_examples": 4 * positions - 1})
    *_, epochs = config.fit(
        spec, items, examples, None, trainer=cpu_trainer(), folder=tmp_path / "towers", epochs=None, seed=0, loggers=[]
    )
    assert epochs == 3


def test_heads_share_the_vector():
    with pytest.raises(
        ConfigError, match=r"retrieval\.dim is 9, not a multiple of retrieval\.user_encoder\.num_heads 2"
    ):
        RetrievalTrainerConfig(**{**KNOBS, "dim": 9})
