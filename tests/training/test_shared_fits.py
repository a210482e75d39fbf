"""A fit that several processes share learns what one process learns, whatever part of it each of them has."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import psutil
import pytest
import torch
import torch.distributed as dist
from hydra.utils import instantiate
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import Callback

from recsys.content.text import TextVectors
from recsys.data.sources.synthetic import Synthetic
from recsys.data.splits import TEST, VALIDATION, GlobalTime
from recsys.errors import RecsysError
from recsys.features.spec import Features
from recsys.nn import sparse_embedding
from recsys.ranking.losses import BinaryCrossEntropy, ListNet
from recsys.ranking.model import RankerSizes
from recsys.retrieval.softmax import SoftmaxLoss
from recsys.retrieval.transformer import TransformerEncoder
from recsys.training.batches import LengthBucketSampler
from recsys.training.optimizers import DEFAULT_OPTIMIZER
from recsys.training.prepare import prepare
from recsys.training.ranking import RankerTrainerConfig
from recsys.training.ranking_examples import ExampleSampling
from recsys.training.retrieval import RetrievalExamples, RetrievalTrainerConfig
from recsys.training.schedules import DEFAULT_SCHEDULE
from recsys.training.slates import Slates, logged_examples
from recsys.training.trainer import DEFAULT_OPTIONS, cpu_trainer
from serving.processes import until

EPOCHS = 2
OPTIM = {"epochs": EPOCHS, "most_examples": None, "patience": 9, "weight_decay": 0.0, "scheduler": DEFAULT_SCHEDULE}
TOWERS = {
    **OPTIM,
    "dim": 8,
    "user_encoder": partial(TransformerEncoder, num_blocks=1, num_heads=2),
    "loss": SoftmaxLoss(temperature=0.3),
    "dropout": 0.0,
    "id_dropout": 0.0,
    "negatives": 0,
    "lookahead": 3,
    "lookahead_decay": 0.5,
    "members": 1,
    "half_life_days": None,
    "least_steps": 1,
    "batch_size": 64,
    "learning_rate": 0.01,
    "optimizer": DEFAULT_OPTIMIZER,
}
DRAWING = {"dropout": 0.2, "id_dropout": 0.2, "negatives": 8}
PATIENCE_S = 120.0
SPREAD = 5
"""rows from which on tables are spread over the processes, in these tests"""


class StopsAt(Callback):
    """Raises in one process after a batch of the first epoch."""

    def __init__(self, batch: int, process: int) -> None:
        self.batch, self.process = batch, process

    def on_train_batch_end(self, trainer, task, outputs, batch, batch_idx):
        if trainer.global_step == self.batch and dist.get_rank() == self.process:
            raise OSError(f"stopped at batch {self.batch}")


@pytest.fixture(scope="module")
def prepared():
    dataset = Synthetic(users=40, items=30, events=2_000, seed=0).load()
    split = GlobalTime(rank=0.2, validation=0.2, test=0.2, cuts=1, later=0.0, horizon_days=None).splits(dataset)[-1]
    features = Features(history_length=10, max_values=3, min_count=1, leave_out=["position"])
    return prepare(dataset, split, features, TextVectors(dim=4, min_documents=1, seed=0)), split


@pytest.fixture
def towers(prepared, tmp_path):
    """Train towers by so many processes; return the vectors of the items."""
    made, split = prepared
    known = split.known(TEST)
    spec, items = made.spec(known)
    examples = RetrievalExamples.of(made, spec, known)

    def fit(num, name=None, callbacks=(), checkpoint_steps=None, **changed):
        trainer = cpu_trainer(
            threads=1,
            options={**DEFAULT_OPTIONS, "devices": num},
            callbacks=callbacks,
            checkpoint_steps=checkpoint_steps,
        )
        config = RetrievalTrainerConfig(**{**TOWERS, **changed})
        folder = tmp_path / (name or f"by_{num}")
        _, vectors, _ = config.fit(
            spec, items, examples, None, trainer=trainer, folder=folder, epochs=EPOCHS, seed=3, loggers=[]
        )
        return vectors

    return fit


@pytest.mark.parametrize("rows", [10**6, SPREAD])
@pytest.mark.parametrize("negatives", [0, 8])
def test_towers_learn_the_same(towers, monkeypatch, rows, negatives):
    monkeypatch.setattr(sparse_embedding, "SPARSE_THRESHOLD_ROWS", rows)
    alone = towers(1, negatives=negatives)
    np.testing.assert_allclose(towers(2, negatives=negatives), alone, atol=2e-5)


@pytest.mark.parametrize("rows", [10**6, SPREAD])
def test_a_fit_that_stopped_within_an_epoch_goes_on_to_equal_weights(towers, monkeypatch, rows):
    monkeypatch.setattr(sparse_embedding, "SPARSE_THRESHOLD_ROWS", rows)
    whole = towers(2, "whole", **DRAWING)
    assert np.abs(whole - towers(1, "other", **DRAWING)).max() > 1e-3, "each process draws its own numbers"
    with pytest.raises(OSError, match="stopped at batch 5"):
        towers(2, "stopped", [StopsAt(5, process=0)], 2, **DRAWING)
    np.testing.assert_array_equal(towers(2, "stopped", checkpoint_steps=2, **DRAWING), whole)


@pytest.mark.parametrize("others", [1, 3])
def test_a_checkpoint_of_two_processes_is_read_by_another_number(towers, monkeypatch, others):
    monkeypatch.setattr(sparse_embedding, "SPARSE_THRESHOLD_ROWS", SPREAD)
    alone = towers(1, "alone")
    with pytest.raises(OSError, match="stopped"):
        towers(2, "stopped", [StopsAt(5, process=0)], 2)
    np.testing.assert_allclose(towers(others, "stopped", checkpoint_steps=2), alone, atol=2e-5)


def test_another_process_that_fails_ends_the_fit_in_a_sentence(towers, capfd):
    with pytest.raises(RecsysError, match=r"a process of the fit in .* ended; its message stands above"):
        towers(2, "failed", [StopsAt(3, process=1)])
    assert "stopped at batch 3" in capfd.readouterr().err
    assert np.isfinite(towers(2, "again")).all(), "the next fit starts others"


def listed(examples, num_items, num=9):
    """Requests with candidates and labels at random, in some of them no label at all and in some no known one."""
    rng = np.random.default_rng(0)
    shape = (len(examples), num)
    rows = np.argsort(rng.random((len(examples), num_items)), axis=1)[:, :num]
    labels = (rng.random((*shape, examples.labels.shape[-1])) < 0.3).astype(np.float32)
    labels[::3] = 0
    labels[1::7] = np.nan
    scores = rng.normal(size=(*shape, examples.candidate_scores.shape[-1])).astype(np.float32)
    return replace(examples, candidate_rows=rows, candidate_scores=scores, labels=labels, positions=None)


@pytest.mark.parametrize("balance", ["equal", "gradients"])
@pytest.mark.parametrize("model", ["default", "field_dcn"])
def test_rankers_learn_the_same(prepared, root, tmp_path, model, balance):
    made, split = prepared
    known = split.known(VALIDATION)
    spec, items = made.spec(known)
    examples = listed(logged_examples(made, spec, items, Slates.of(made, known), position="position"), len(items))
    sampling = ExampleSampling(
        requests_per_user=1,
        requests=10**6,
        validation_requests=10**6,
        examples_gib=1.0,
        dense_candidates=100,
        shown=None,
    )
    sizes = RankerSizes(
        dim=8,
        num_heads=2,
        cross_rank=4,
        num_cross_layers=1,
        num_experts=2,
        expert_dim=8,
        dropout=0.0,
        id_dropout=0.0,
        feature_dropout=0.0,
    )
    config = RankerTrainerConfig(
        **OPTIM,
        model=instantiate(OmegaConf.load(root / "conf" / "ranking" / "model" / f"{model}.yaml")),
        sizes=sizes,
        num_positions=0,
        sampling=sampling,
        pointwise=BinaryCrossEntropy(),
        loss=ListNet(),
        listwise_weight=1.0,
        balance=balance,
        watch="likelihood",
        batch_size=32,
        learning_rate=0.05,
        optimizer=partial(torch.optim.SGD),  # adaptive steps turn the last bits of gradients near 0 into whole steps
    )

    def fitted(num):
        return config.fit(
            spec,
            items,
            examples.at(np.arange(101)),
            examples.at(np.arange(101, 200)),
            trainer=cpu_trainer(threads=1, options={**DEFAULT_OPTIONS, "devices": num}),
            folder=tmp_path / f"by_{num}",
            seed=0,
            loggers=[],
            epochs=EPOCHS,
        )

    alone, shared = (replace(fitted(num), gain=None) for num in (1, 2))
    valid = examples.at(np.arange(101, 200))
    np.testing.assert_allclose(shared.probabilities(items, valid), alone.probabilities(items, valid), atol=1e-6)


def test_the_parts_of_the_processes_are_the_batches():
    sizes = np.random.default_rng(0).integers(1, 9, 103)
    whole = list(LengthBucketSampler(sizes, 20, seed=0))
    parts = []
    for process in range(3):
        sampler = LengthBucketSampler(sizes, 20, seed=0)
        sampler.process, sampler.num_processes = process, 3
        parts.append(list(sampler))
    for batch, *own in zip(whole, *parts, strict=True):
        assert sorted({*np.concatenate(own).tolist()}) == sorted(batch.tolist())
        assert all(len(one) for one in own), "no process is without an example"
        assert max(map(len, own)) - min(map(len, own)) <= 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_processes_within_a_fit(root, tmp_path, number):
    small = ("data.users=150", "data.items=60", "data.events=3000", "retrieval.epochs=5000", "retrieval.patience=5000")
    options = ("recipe=synthetic", *small, "logger=csv", "cache=off", "trainer.options.devices=2", "trainer.threads=1")
    command = [sys.executable, "train.py", *options, f"run_dir={tmp_path / 'run'}"]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as run:
        try:
            assert until(lambda: any((tmp_path / "run").rglob("last.ckpt")), PATIENCE_S), "no epoch came to its end"
            children = psutil.Process(run.pid).children()
            run.send_signal(number)
            output, _ = run.communicate(timeout=PATIENCE_S)
        finally:
            run.kill()
    assert b"interrupted" in output
    assert run.returncode != 0
    assert not psutil.wait_procs(children, PATIENCE_S)[1]
    assert not list((tmp_path / "run").rglob("job.pt"))


def test_torchrun_trains_the_whole_cascade_by_its_processes(root, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "train.py"]
    small = ("data.users=150", "data.items=60", "data.events=3000", "retrieval.epochs=1", "ranking.epochs=1")
    options = (
        "recipe=synthetic",
        *small,
        "logger=csv",
        "cache=off",
        f"run_dir={tmp_path / 'run'}",
        "trainer.threads=1",
    )
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *options], cwd=root, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("bundle   ") == 1, "the first process alone reports"
    assert (tmp_path / "run" / "bundle" / "lineage.json").is_file()
    assert not list((tmp_path / "run").rglob("job.pt"))
