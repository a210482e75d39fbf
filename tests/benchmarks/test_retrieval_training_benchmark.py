"""The training benchmark: both systems learn from the same events, answer the same questions, and only training is timed."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from benchmarks.claims.retrieval import retrieval_training
from benchmarks.claims.retrieval.retrieval_training import (
    Stopwatch,
    composed,
    figures,
    read,
    train_ours,
    train_rectools,
)
from recsys.errors import DataError
from recsys.replay.evaluation_queries import EvaluationQueries

USERS, ITEMS = 120, 30
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Users walk along a circle of items."""
    rng = np.random.default_rng(0)
    walks = (rng.integers(ITEMS) + np.cumsum(rng.integers(1, 4, rng.integers(6, 12))) for _ in range(USERS))
    file = tmp_path / retrieval_training.FILE
    file.parent.mkdir()
    lines = [f"u{user} {' '.join(f'i{step % ITEMS}' for step in walk)}" for user, walk in enumerate(walks)]
    file.write_text("\n".join(lines) + "\n")
    monkeypatch.setenv("RECSYS_DATA", str(tmp_path))
    monkeypatch.setattr(retrieval_training, "BUDGET", 0.0)
    monkeypatch.setattr(retrieval_training, "THREADS", 1)
    return "retrieval.dim=16", "retrieval.epochs=2", "retrieval.negatives=20"


@pytest.fixture
def questions(small: tuple[str, ...]) -> EvaluationQueries:
    return read(composed(*small))[1]


def test_ours_is_asked_after_every_epoch_until_it_is_good_enough(small: tuple[str, ...]) -> None:
    watch = train_ours(composed(*small), target=2.0)
    assert [one["ndcg@10"] > 0 for one in watch.epochs] == [True, True]
    assert watch.epochs[0]["seconds"] <= watch.epochs[1]["seconds"]
    assert len(train_ours(composed(*small), target=0.0).epochs) == 1


def test_rectools_gets_its_budget_and_the_same_events(questions: EvaluationQueries) -> None:
    pytest.importorskip("rectools")
    watch = train_rectools(questions)
    assert len(watch.epochs) == 1, "no epoch begins after the budget"
    assert watch.num_examples == len(questions.known.items) - USERS, "all but the first event of a user are asked for"


def test_rectools_is_asked_as_it_answers_by_itself(questions: EvaluationQueries) -> None:
    """Our reading of its scores ranks what its own `recommend` does."""
    peer = pytest.importorskip("benchmarks.lib.peer_rectools")
    from rectools.dataset import Dataset
    from rectools.models import SASRecModel

    torch.manual_seed(0)
    model = SASRecModel(**peer.SETTINGS, epochs=1)
    log = Dataset.construct(peer._frame(questions.known))
    model.fit(log)
    told = model.recommend(users=questions.users, dataset=log, k=1, filter_viewed=True)
    with torch.no_grad():
        scores = peer.scores_of(model.lightning_model.eval(), questions)(slice(0, len(questions)))
    scores[questions.removed.toarray() > 0] = -np.inf
    best = told.set_index("user_id")["item_id"].loc[questions.users].to_numpy()
    np.testing.assert_array_equal(scores.argmax(axis=1), best)


def test_a_missing_peer_is_one_sentence(questions: EvaluationQueries, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "benchmarks.lib.peer_rectools", None)
    with pytest.raises(DataError, match="run `make setup`"):
        train_rectools(questions)


def test_seconds_are_counted_to_the_first_epoch_that_is_as_good() -> None:
    def row(system: str, *epochs: tuple[float, float]) -> dict[str, Any]:
        watch = Stopwatch(lambda task: 0.0, lambda outputs, batch: 0, lambda epoch: False)
        watch.wall = watch.cpu = epochs[-1][0]
        watch.epochs = [{"seconds": seconds, "ndcg@10": figure} for seconds, figure in epochs]
        return watch.row(system, 0.4)

    peer, ours = row("peer", (10.0, 0.1), (30.0, 0.4), (40.0, 0.3)), row("ours", (2.0, 0.3), (5.0, 0.5))
    assert figures([peer, ours])["times_faster_to_equal_quality"].value == 6.0
    assert figures([peer, row("ours", (2.0, 0.3))])["times_faster_to_equal_quality"].value == 0.0


def test_time_for_questions_does_not_count() -> None:
    """The clock stands still between the end of an epoch and the start of the next."""

    class Task(pl.LightningModule):
        pass

    watch = Stopwatch(lambda task: float(task.training), lambda outputs, batch: 0, lambda epoch: True)
    trainer, task = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu"), Task()
    watch.on_train_epoch_start(trainer, task)
    watch.on_train_epoch_end(trainer, task)
    asked = watch.wall
    assert trainer.should_stop
    assert task.training
    assert watch.epochs[0]["ndcg@10"] == 0.0, "asked in evaluation mode"
    watch.on_train_epoch_start(trainer, task)
    assert watch.wall == asked
