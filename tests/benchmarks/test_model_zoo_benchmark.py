"""The benchmark of all models: every choice of conf/ is in it, rows survive a stop, and a budget ends a training."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from benchmarks.claims.ranking import model_zoo
from benchmarks.claims.ranking.model_zoo import Plan, figures, measured, run, table
from benchmarks.claims.retrieval.retrieval_training import FILE
from benchmarks.lib.zoo_rankers import TREES, RankerJob, config_of
from benchmarks.lib.zoo_rows import CpuBudget, RowFile, key_of
from benchmarks.lib.zoo_towers import PEER, TowerJob
from recsys.errors import ConfigError, DataError
from recsys.ranking.losses import FocalLoss, ListNet
from recsys.ranking.ple import PLERanker

CONF = Path(__file__).parents[2] / "conf"
DEFAULTS = {"retrieval/loss=softmax", "ranking/pointwise=bce"}
"""the other rows are with these"""


def row(model, data="toys", part="towers", seed=0, **figures):
    return {"part": part, "data": data, "model": model, "seed": seed, "budget_s": 1.0, "cpu_s": 36.0, **figures}


@pytest.mark.parametrize(
    ("kind", "data", "groups", "peer"),
    [
        (TowerJob, "toys", ("retrieval/user_encoder", "retrieval/loss"), PEER),
        (RankerJob, "planted", ("ranking/model", "ranking/pointwise", "ranking/loss"), TREES),
    ],
)
def test_every_choice_is_compared(kind, data, groups, peer):
    files = {f"{group}={file.stem}" for group in groups for file in (CONF / group).glob("*.yaml")}
    assert sorted(kind.models(data)) == sorted(files - DEFAULTS | {peer})


def test_no_two_jobs_have_one_row():
    jobs = Plan(data=("movielens_100k", "planted"), seeds=2).jobs()
    assert len({key_of(vars(job)) for job in jobs}) == len(jobs) > 50


def test_data_that_are_not_at_hand_are_named_before_anything_is_trained(monkeypatch, tmp_path):
    monkeypatch.setenv("RECSYS_DATA", str(tmp_path))
    with pytest.raises(DataError, match="Toys_and_Games"):
        Plan(data=("toys",)).jobs()


def test_a_job_replaces_one_choice():
    assert config_of("planted", "ranking/model=ple").model.func is PLERanker
    focal, listnet = config_of("planted", "ranking/pointwise=focal"), config_of("informfully", "ranking/loss=listnet")
    assert isinstance(focal.pointwise, FocalLoss)
    assert (focal.listwise_weight, listnet.listwise_weight) == (0.0, 1.0)
    assert isinstance(listnet.loss, ListNet)


def test_arguments_are_read_or_refused_in_one_sentence():
    assert Plan.of(["data=toys,tiny", "seeds=3", "budget=60"]) == Plan(
        data=("toys", "tiny planted"), seeds=3, budget_s=60
    )
    assert Plan.of([]).data == model_zoo.WHOLE
    for wrong, sentence in {
        "data=moon": "choose among toys",
        "speed=1": "no option",
        "seeds=many": "give a number",
    }.items():
        with pytest.raises(ConfigError, match=sentence):
            Plan.of([wrong])


def test_rows_are_kept_by_key_and_a_line_that_was_cut_short_is_written_again(tmp_path):
    rows = RowFile(file=tmp_path / "new" / "rows.jsonl")
    assert rows.rows() == []
    rows.add(row("a", error="out of memory"))
    rows.add(row("b", epochs=1))
    with rows.file.open("a") as lines:
        lines.write(json.dumps(row("c"))[:20])
    assert [one["model"] for one in rows.rows()] == ["a", "b"]
    rows.add(row("c", epochs=3))
    rows.add(row("a", epochs=2))
    assert rows.rows() == [row("a", epochs=2), row("b", epochs=1), row("c", epochs=3)]


def test_a_job_that_fails_is_a_row_and_runs_again_and_no_other_does(tmp_path, monkeypatch):
    monkeypatch.setattr(model_zoo, "ProcessPoolExecutor", lambda *_, **__: ThreadPoolExecutor(1))
    ran: list[str] = []

    def once(job):
        ran.append(job.model)
        if job.model == "b" and len(ran) == 2:
            raise MemoryError("too large")
        return {**vars(job), "validation_ndcg@10": 0.5}

    monkeypatch.setattr(TowerJob, "run", once)
    jobs = [TowerJob(data="toys", model=model, seed=0, budget_s=1.0) for model in "abc"]
    rows = RowFile(file=tmp_path / "rows.jsonl")
    first = measured(jobs, rows)
    assert [one.get("error") for one in first] == [None, "MemoryError: too large", None]
    assert figures(first)["models_that_failed"].value == 1
    second = measured(jobs, rows)
    assert ran == ["a", "b", "c", "b"]
    assert [one["validation_ndcg@10"] for one in second] == [0.5, 0.5, 0.5]


class Steps(pl.LightningModule):
    """Steps that use some time of the CPU."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.steps = 0

    def training_step(self, batch):
        self.steps += 1
        torch.ones(200, 200) @ torch.ones(200, 200)
        return self.weight.square()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore")
def test_a_budget_ends_a_training_and_a_large_one_does_not():
    steps = {}
    for seconds in (0.0, 1e9):
        task = Steps()
        trainer = pl.Trainer(
            max_epochs=2,
            callbacks=[CpuBudget(seconds)],
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(task, torch.utils.data.DataLoader(range(5), batch_size=1))
        steps[seconds] = task.steps
    assert steps == {0.0: 1, 1e9: 10}


def test_the_table_has_the_best_first_and_published_figures_beside_it():
    sasrec, hstu = "retrieval/user_encoder=sasrec", "retrieval/user_encoder=hstu"
    rows = [row(hstu, error="out of memory"), row(PEER, **{"validation_ndcg@10": 0.06, "test_ndcg@10": 0.05})]
    rows += [
        row(sasrec, seed=seed, **{"validation_ndcg@10": 0.07, "test_ndcg@10": 0.04 + seed / 50}) for seed in (0, 1)
    ]
    shown = table(rows)
    assert list(shown.columns[1].cells) == ["user_encoder=sasrec", PEER, "user_encoder=hstu"]
    assert "R@10 .0970, N@10 .0580 (sampled softmax)" in next(iter(shown.columns[-1].cells))
    claimed = figures(rows)
    assert claimed["sasrec_relative_to_rectools"].value == 1.0
    assert claimed["core_hours"].value == 0.04
    assert figures(rows[:1])["sasrec_relative_to_rectools"].value is None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "job",
    [
        TowerJob(data="synthetic", model="retrieval/user_encoder=hstu", seed=0, budget_s=1.0),
        TowerJob(data="synthetic", model="retrieval/loss=bpr", seed=0, budget_s=1.0),
        RankerJob(data="tiny planted", model="ranking/model=din", seed=0, budget_s=1.0),
        RankerJob(data="tiny planted", model=TREES, seed=0, budget_s=1.0),
    ],
    ids=lambda job: job.model,
)
def test_a_job_is_a_row_of_figures(job):
    found = run(job)
    assert "error" not in found
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    if isinstance(job, TowerJob):
        assert 0 < found["validation_ndcg@10"] < 1
        assert found["test_recall@10"] <= found["test_recall@100"] <= 1
    else:
        assert found["explained"] < 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_rectools_is_a_row_of_the_same_figures(tmp_path, monkeypatch):
    pytest.importorskip("rectools")
    rng = np.random.default_rng(0)
    walks = (rng.integers(30) + np.cumsum(rng.integers(1, 4, rng.integers(6, 12))) for _ in range(120))
    file = tmp_path / FILE
    file.parent.mkdir()
    file.write_text(
        "".join(f"u{user} {' '.join(f'i{step % 30}' for step in walk)}\n" for user, walk in enumerate(walks))
    )
    monkeypatch.setenv("RECSYS_DATA", str(tmp_path))
    found = run(TowerJob(data="toys", model=PEER, seed=0, budget_s=0.0))
    assert found.get("error") is None
    assert found["epochs"] == 1
    assert 0 < found["test_ndcg@10"] <= found["test_recall@10"] <= found["test_recall@100"] <= 1
