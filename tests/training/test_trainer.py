"""A fit is resumed where it stopped, keeps its best epoch, and is read back once finished."""

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from recsys.errors import ConfigError
from recsys.nn.sparse_embedding import RowWiseAdagradEmbedding
from recsys.training.batches import IndexDataset, ShuffledBatchSampler, index_batches
from recsys.training.device_tensors import DeviceTensors
from recsys.training.fit_callbacks import SPARSE_LR_MULTIPLIER, Throughput
from recsys.training.schedules import warmup_cosine
from recsys.training.trainer import FINISHED_FILE, cpu_trainer

SIZE, BATCH = 10, 4
STEPS = 3


class Counting(pl.LightningModule):
    """A weight that grows by one a step, so that it tells for how many steps it was trained."""

    def __init__(self, scores=(), stop_at=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.scores = scores
        self.stop_at = stop_at
        self.seen = []

    def on_train_epoch_start(self):
        if self.current_epoch == self.stop_at:
            raise KeyboardInterrupt

    def training_step(self, indices):
        self.seen.append((self.current_epoch, indices.tolist()))
        return {"loss": -self.weight / 2, "examples": len(indices)}

    def validation_step(self, _):
        self.log("score", float(self.scores[self.current_epoch]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=2.0)

    @property
    def epochs(self):
        return sorted({epoch for epoch, _ in self.seen})


def fit(task, folder, *, epochs=5, patience=10, **settings):
    return cpu_trainer(**settings).fit(
        task,
        train=index_batches(SIZE, BATCH, 0),
        valid=index_batches(1, 1, 0) if task.scores else None,
        folder=folder,
        epochs=epochs,
        patience=patience,
        monitor="score" if task.scores else None,
        loggers=[],
    )


def test_a_permutation_covers_everything_once_an_epoch_and_is_always_the_same():
    def epoch(number, seed=0):
        batches = ShuffledBatchSampler(SIZE, BATCH, seed)
        batches.set_epoch(number)
        return [batch.tolist() for batch in batches]

    for number in range(5):
        assert [len(batch) for batch in epoch(number)] == [4, 4, 2]
        assert sorted(index for batch in epoch(number) for index in batch) == list(range(SIZE))
        assert epoch(number) == epoch(number)
    assert len({str(epoch(number, seed)) for number in range(5) for seed in range(3)}) == 15
    assert len(ShuffledBatchSampler(SIZE, BATCH, 0)) == STEPS
    assert len(ShuffledBatchSampler(8, 4, 0)) == 2


def test_an_index_batch_is_its_own_example():
    assert IndexDataset()[np.array([3, 1])].tolist() == [3, 1]


def test_every_epoch_sees_everything_in_another_order(tmp_path):
    task = Counting()
    assert fit(task, tmp_path) == 5
    assert float(task.weight.detach()) == 5 * STEPS
    orders = [[one for epoch, batch in task.seen if epoch == number for one in batch] for number in range(5)]
    assert all(sorted(order) == list(range(SIZE)) for order in orders)
    assert len(set(map(tuple, orders))) == 5


class Ends(Callback):
    """Notes the epochs of its own task; copies share the list."""

    def __init__(self):
        self.ended = []
        self.tasks = ENDED

    def on_train_epoch_end(self, trainer, task):
        self.ended.append(trainer.current_epoch)

    def on_fit_end(self, trainer, task):
        self.tasks.append(self.ended)

    def __deepcopy__(self, memo):
        return Ends()


ENDED = []


def test_every_task_has_callbacks_of_its_own_and_none_leaves_one_out(tmp_path):
    loop = cpu_trainer(callbacks={"ends": Ends(), "absent": None})
    ENDED.clear()
    for name in ("one", "two"):
        batches = index_batches(SIZE, BATCH, 0)
        loop.fit(
            Counting(),
            train=batches,
            valid=None,
            folder=tmp_path / name,
            epochs=2,
            patience=1,
            monitor=None,
            loggers=[],
        )
    assert ENDED == [[0, 1], [0, 1]]


@pytest.mark.parametrize("stop_at", [1, 3])
def test_an_interrupted_fit_goes_on_where_it_stopped(tmp_path, stop_at):
    whole, first, second = Counting(), Counting(stop_at=stop_at), Counting()
    fit(whole, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(first, tmp_path / "run")
    assert first.epochs == list(range(stop_at))
    assert not (tmp_path / "run" / FINISHED_FILE).exists()
    assert fit(second, tmp_path / "run") == 5
    assert second.epochs == list(range(stop_at, 5))
    assert first.seen + second.seen == whole.seen
    assert torch.equal(second.weight, whole.weight)


@pytest.mark.parametrize("stop_at", [2, 3])
def test_a_fit_that_watches_validation_is_resumed_with_its_best_epoch(tmp_path, stop_at):
    scores = (1, 9, 3, 2, 1)
    with pytest.raises(KeyboardInterrupt):
        fit(Counting(scores, stop_at=stop_at), tmp_path)
    again = Counting(scores)
    assert fit(again, tmp_path) == 2
    assert again.epochs == list(range(stop_at, 5))
    assert float(again.weight.detach()) == 2 * STEPS


def test_a_finished_fit_is_read_back_without_training(tmp_path):
    first, again = Counting(), Counting(stop_at=0)
    assert fit(first, tmp_path) == fit(again, tmp_path) == 5
    assert again.seen == []
    assert torch.equal(first.weight, again.weight)
    assert not list(tmp_path.glob("*.draft"))


@pytest.mark.parametrize(
    ("scores", "patience", "kept", "trained"),
    [((1, 3, 2, 1, 0), 2, 2, 4), ((1, 2, 3, 4, 5), 2, 5, 5), ((5, 4, 3, 2, 1), 1, 1, 2), ((1, 1, 1, 1, 1), 3, 1, 4)],
)
def test_the_best_epoch_is_kept_and_patience_ends_the_rest(tmp_path, scores, patience, kept, trained):
    task = Counting(scores)
    assert fit(task, tmp_path, patience=patience) == kept
    assert float(task.weight.detach()) == kept * STEPS
    assert task.epochs == list(range(trained))
    again = Counting(scores, stop_at=0)
    assert fit(again, tmp_path, patience=patience) == kept
    assert torch.equal(again.weight, task.weight)


@pytest.mark.parametrize(("accelerator", "sentence"), [("tpu", "choose cpu or cuda"), ("cuda", "no CUDA device")])
def test_an_accelerator_that_is_not_there_is_refused(monkeypatch, accelerator, sentence):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=rf"trainer\.accelerator is .*{sentence}"):
        cpu_trainer(accelerator=accelerator)


def test_threads_are_set_only_when_asked(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    for threads in (0, 3):
        cpu_trainer(threads=threads)
    assert asked == [3]


def test_resident_arrays_stay_out_of_checkpoints_and_are_sliced_by_name():
    resident = DeviceTensors({"ids": np.array([[1], [2], [0]]), "numbers": np.ones((3, 2), np.float32)})
    assert resident.state_dict() == {}
    assert resident["ids"].tolist() == [[1], [2], [0]]
    rows = resident.join("item", torch.tensor([[1, -1]]))
    assert rows["item_ids"].tolist() == [[[2], [0]]]
    assert {name: tuple(part.shape) for name, part in resident.rows(slice(2)).items()} == {
        "ids": (2, 1),
        "numbers": (2, 2),
    }


class Projecting(Counting):
    """One product with a known price: 2 x 6 x 7 operations an example forward, as many for the gradient."""

    def __init__(self):
        super().__init__()
        self.projection = torch.nn.Linear(6, 7)

    def training_step(self, indices):
        return {"loss": self.projection(torch.ones(len(indices), 6)).sum(), "examples": len(indices)}


def test_the_operations_of_an_example_are_counted_in_both_directions(tmp_path, monkeypatch):
    made = []

    class Kept(Throughput):
        def __init__(self, name):
            super().__init__(name)
            made.append(self)

    monkeypatch.setattr("recsys.training.trainer.Throughput", Kept)
    fit(Projecting(), tmp_path)
    assert made[0].flops == 2 * (2 * 6 * 7)
    assert len(made[0].rates) == 5


def test_the_learning_rate_rises_for_a_twentieth_and_falls_along_a_cosine():
    assert [warmup_cosine(step=step, steps=105, warmup=0.05) for step in (0, 1, 4, 5, 55, 105, 200)] == pytest.approx(
        [0.2, 0.4, 1, 1, 0.5, 0, 0]
    )
    falling = [warmup_cosine(step=step, steps=105, warmup=0.05) for step in range(5, 106)]
    assert falling == sorted(falling, reverse=True)
    assert warmup_cosine(step=0, steps=1, warmup=0.05) == 1


def test_a_compiled_fit_is_the_same_and_leaves_the_task_as_it_was(tmp_path, monkeypatch):
    graphs, inductor = [], torch.compile

    def counted(graph, _):
        graphs.append(graph)
        return graph.forward

    plain, task = Projecting(), Projecting()
    task.load_state_dict(plain.state_dict())
    fit(plain, tmp_path / "plain")
    monkeypatch.setattr(
        "recsys.training.fit_callbacks.torch.compile", lambda step, **how: inductor(step, backend=counted, **how)
    )
    fit(task, tmp_path / "compiled", compile=True)
    assert graphs
    assert "training_step" not in vars(task)
    torch.testing.assert_close(task.projection.weight, plain.projection.weight)


class Meeting(Counting):
    """A large table of which rows 1 and 2 are met."""

    def __init__(self):
        super().__init__()
        self.table = RowWiseAdagradEmbedding(5, 3, padding_idx=0)

    def training_step(self, indices):
        return {"loss": self.weight + self.table(indices % 2 + 1).sum(), "examples": len(indices)}


def test_a_large_table_learns_at_the_rate_of_the_rest_beside_its_optimiser(tmp_path):
    task = Meeting()
    before = task.table.weight.detach().clone()
    fit(task, tmp_path, epochs=1)
    moved = (task.table.weight.detach() - before)[1:]
    assert task.table.learning_rate == 2.0 * SPARSE_LR_MULTIPLIER
    assert (moved[:2] < 0).all()
    assert not moved[2:].any()


@pytest.mark.parametrize("precision", ["16-mixed"])
def test_a_large_table_is_refused_where_its_steps_would_be_lost(tmp_path, precision):
    with pytest.raises(ConfigError, match="choose bf16-mixed"):
        fit(Meeting(), tmp_path, precision=precision)


class Wider(Counting):
    """The same with a weight of another shape and, unless it is 0, so many further ones."""

    def __init__(self, further, **named):
        super().__init__(**named)
        self.weight = torch.nn.Parameter(torch.zeros(1 if not further else ()))
        self.others = torch.nn.ParameterList(torch.zeros(()) for _ in range(further))


@pytest.mark.parametrize(("further", "name"), [(0, "weight"), (2, "others.0")])
@pytest.mark.parametrize("stop_at", [2, None])
def test_checkpoints_of_other_weights_are_refused_in_a_sentence(tmp_path, stop_at, further, name):
    if stop_at is None:
        fit(Counting(), tmp_path)
    else:
        with pytest.raises(KeyboardInterrupt):
            fit(Counting(stop_at=stop_at), tmp_path)
    with pytest.raises(ConfigError, match=f"cannot be resumed: {name} is not as in this version"):
        fit(Wider(further), tmp_path)
