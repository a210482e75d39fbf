"""Options of Lightning's Trainer act as they do there, are refused by name where they cannot, and a kill changes no bit."""

import inspect
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import Callback, LearningRateMonitor
from torch import nn

from recsys.errors import ConfigError
from recsys.training.batches import index_batches
from recsys.training.experiment import check_same_configuration
from recsys.training.trainer import LAST_FILE, cpu_trainer

SIZE, BATCH, EPOCHS = 22, 4, 3
STEPS = 6
"""an epoch"""


class Killed(Exception):
    """Stands for the end of a process."""


class Noisy(pl.LightningModule):
    """A small network with dropout, a momentum optimiser and a schedule: every bit depends on all that came before."""

    def __init__(self, kill_at=None, scores=()):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.kill_at, self.scores = kill_at, scores
        self.batches = []

    def training_step(self, indices):
        if (self.current_epoch, self.trainer.fit_loop.batch_idx) == self.kill_at:
            raise Killed
        self.batches.append((self.current_epoch, indices.tolist()))
        inputs = torch.stack([indices / SIZE, torch.rand(len(indices)), torch.ones(len(indices))], dim=1)
        return {"loss": (self.layers(inputs) ** 2).mean(), "examples": len(indices)}

    def validation_step(self, _):
        self.log("score", float(self.scores[self.current_epoch]))

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.05)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.95)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def fit(task, folder, *, epochs=EPOCHS, seed=7, loggers=(), **settings):
    torch.manual_seed(seed)
    return cpu_trainer(**settings).fit(
        task,
        train=index_batches(SIZE, BATCH, 0),
        valid=index_batches(1, 1, 0) if task.scores else None,
        folder=folder,
        epochs=epochs,
        patience=10,
        monitor="score" if task.scores else None,
        loggers=list(loggers),
    )


def made(**task):
    """A task whose first weights are always the same."""
    torch.manual_seed(1)
    return Noisy(**task)


def weights(task):
    return torch.cat([one.detach().flatten() for one in task.parameters()])


@pytest.mark.parametrize(
    ("kill_at", "every", "accumulate"),
    [((1, 3), 1, 1), ((1, 4), 2, 1), ((0, 1), 1, 1), ((2, 0), 2, 1), ((2, 5), 5, 1), ((1, 4), 1, 2), ((1, 3), 3, 4)],
)
@pytest.mark.parametrize("scores", [(), (3, 2, 1), (1, 2, 3)])
def test_a_killed_fit_ends_with_the_weights_of_one_that_ran_through(tmp_path, kill_at, every, accumulate, scores):
    options = {"gradient_clip_val": 1.0, "accumulate_grad_batches": accumulate}
    whole, first, second = made(scores=scores), made(kill_at=kill_at, scores=scores), made(scores=scores)
    epochs = fit(whole, tmp_path / "whole", options=options, checkpoint_steps=every)
    with pytest.raises(Killed):
        fit(first, tmp_path / "run", options=options, checkpoint_steps=every)
    torch.manual_seed(99)
    assert fit(second, tmp_path / "run", seed=3, options=options, checkpoint_steps=every) == epochs
    assert torch.equal(weights(second), weights(whole))
    assert len(whole.batches) == EPOCHS * STEPS
    repeated = len(first.batches) + len(second.batches) - EPOCHS * STEPS
    assert second.batches == whole.batches[len(first.batches) - repeated :]
    assert 0 <= repeated < every * accumulate + accumulate


def test_checkpoints_within_an_epoch_change_nothing_and_are_written_only_if_wanted(tmp_path):
    plain, often = made(), made()
    fit(plain, tmp_path / "plain")
    fit(often, tmp_path / "often", checkpoint_steps=1)
    assert torch.equal(weights(plain), weights(often))
    for every, file_is_there in ((None, False), (2, True)):
        with pytest.raises(Killed):
            fit(made(kill_at=(0, 4)), tmp_path / f"{every}", checkpoint_steps=every)
        assert (tmp_path / f"{every}" / LAST_FILE).is_file() is file_is_there


@pytest.mark.parametrize("kill_at", [(1, 3), (2, 2)])
def test_validation_within_an_epoch_is_resumed_exactly(tmp_path, kill_at):
    settings = {"options": {"val_check_interval": 0.5}, "checkpoint_steps": 1}
    whole, first, second = (made(kill_at=at, scores=(1, 9, 3)) for at in (None, kill_at, None))
    assert fit(whole, tmp_path / "whole", **settings) == 2
    with pytest.raises(Killed):
        fit(first, tmp_path / "run", **settings)
    assert fit(second, tmp_path / "run", **settings) == 2
    assert torch.equal(weights(second), weights(whole))


class Counts(Callback):
    """Counts the optimiser steps and the validations of one fit and keeps its clipped gradients."""

    def __init__(self):
        self.steps = self.validations = 0
        self.gradients = []

    def __deepcopy__(self, memo):
        return self

    def on_before_optimizer_step(self, trainer, task, optimizer):
        self.gradients.append(torch.cat([one.grad.flatten() for one in task.parameters()]))

    def on_validation_end(self, trainer, task):
        self.validations += 1

    def on_train_end(self, trainer, task):
        self.steps = trainer.global_step


@pytest.fixture
def nondeterministic():
    """Undo `deterministic`, which torch keeps for the whole process."""
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("options", "steps", "validations"),
    [
        ({}, EPOCHS * STEPS, EPOCHS),
        ({"accumulate_grad_batches": 4}, EPOCHS * 2, EPOCHS),
        ({"limit_train_batches": 2}, EPOCHS * 2, EPOCHS),
        ({"limit_train_batches": 0.5}, EPOCHS * 3, EPOCHS),
        ({"check_val_every_n_epoch": 2}, EPOCHS * STEPS, 1),
        ({"val_check_interval": 0.5}, EPOCHS * STEPS, EPOCHS * 2),
        ({"overfit_batches": 1}, EPOCHS, EPOCHS),
        ({"fast_dev_run": True}, 1, 1),
        ({"deterministic": True, "detect_anomaly": True}, EPOCHS * STEPS, EPOCHS),
    ],
    ids=str,
)
@pytest.mark.usefixtures("nondeterministic")
def test_an_option_makes_as_many_steps_and_validations_as_in_lightning(tmp_path, options, steps, validations):
    counts = Counts()
    fit(made(scores=(1, 2, 3)), tmp_path, options=options, callbacks=[counts])
    assert (counts.steps, counts.validations) == (steps, validations)


def test_overfitting_repeats_the_first_batch_of_the_first_epoch(tmp_path):
    task, first = made(), made()
    fit(task, tmp_path / "overfit", options={"overfit_batches": 1})
    fit(first, tmp_path / "first", epochs=1)
    assert [batch for _, batch in task.batches] == [first.batches[0][1]] * EPOCHS


def test_gradients_are_clipped_by_norm_or_by_value(tmp_path):
    """A callback sees a gradient before it is clipped, so a task of plain descent tells by how far it moved."""
    options = {
        "free": {"gradient_clip_val": None},
        "norm": {"gradient_clip_val": 1e-3},
        "value": {"gradient_clip_val": 1e-3, "gradient_clip_algorithm": "value"},
    }
    moved = {}
    for name, chosen in options.items():
        task = Descending()
        before = weights(task)
        fit(task, tmp_path / name, epochs=1, options={**chosen, "limit_train_batches": 1})
        moved[name] = weights(task) - before
    gradient = -moved["free"]
    assert float(gradient.norm()) > 0.1
    torch.testing.assert_close(moved["norm"], -1e-3 * gradient / gradient.norm(), rtol=1e-3, atol=1e-9)
    torch.testing.assert_close(moved["value"], -gradient.clamp(-1e-3, 1e-3), rtol=1e-3, atol=1e-9)


class Descending(Noisy):
    """Plain descent, from weights that are always the same."""

    def __init__(self):
        torch.manual_seed(1)
        super().__init__()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


@pytest.mark.parametrize("profiler", ["simple", "advanced", "pytorch"])
def test_a_profile_lies_in_the_folder_of_the_fit_and_its_path_is_printed(tmp_path, capsys, profiler):
    fit(made(), tmp_path / "towers", epochs=1, options={"profiler": profiler, "limit_train_batches": 2})
    lines = [line for line in capsys.readouterr().out.splitlines() if "profile in" in line]
    files = [Path(line.partition("profile in ")[2]) for line in lines]
    assert files
    assert all(file.parent == tmp_path / "towers" and file.stat().st_size > 100 for file in files)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"options": {"grad_clip_val": 1}}, "lacks; did you mean gradient_clip_val"),
        ({"options": {"zzz": 1}}, "give an argument of Lightning's Trainer"),
        ({"options": {"logger": False}}, "has logger, which is not chosen there; choose logger="),
        ({"options": {"max_epochs": 3}}, "set retrieval.epochs and ranking.epochs"),
        ({"options": {"strategy": "ddp"}}, "trainer.options.devices says how many"),
        ({"options": {"devices": [0, 1]}}, "on the CPU write how many processes"),
        ({"options": {"devices": 0}}, "trainer.options.devices is 0; choose how many"),
        ({"options": {"devices": "auto"}}, "choose how many, or a list of their numbers"),
        ({"options": {"devices": [0, "1"]}}, "choose how many, or a list of their numbers"),
        ({"options": {"limit_val_batches": 0}}, "validation is one batch"),
        ({"options": {"val_check_interval": 10}}, "choose a share of an epoch"),
        ({"options": {"check_val_every_n_epoch": None}}, "check_val_every_n_epoch is None"),
        ({"options": {"gradient_clip_algorithm": "most"}}, r"trainer\.options: .*gradient_clip_algorithm"),
        ({"options": {"accumulate_grad_batches": 0}}, "accumulate_grad_batches is 0; choose a whole number from 1"),
        ({"options": {"profiler": "fast"}}, "choose simple, advanced, pytorch"),
        ({"checkpoint_steps": 0}, "trainer.checkpoint_steps is 0; choose a whole number from 1"),
        ({"callbacks": [{"every": 3}]}, r"trainer\.callbacks\.0 is .*by _target_"),
        ({"callbacks": {"mine": "x"}}, r"trainer\.callbacks\.mine is 'x'"),
    ],
    ids=str,
)
def test_a_setting_that_cannot_be_followed_is_one_sentence(settings, sentence):
    with pytest.raises(ConfigError, match=sentence) as refused:
        cpu_trainer(**settings)
    assert "\n" not in str(refused.value)


def test_validation_that_would_never_come_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="check_val_every_n_epoch is 5, but there are 3 epochs"):
        fit(made(scores=(1, 2, 3)), tmp_path, options={"check_val_every_n_epoch": 5})


def test_a_trainer_without_conf_is_that_of_its_file():
    """Lightning leaves three options at None that act as the file says."""
    node = OmegaConf.load(Path(__file__).parents[2] / "conf" / "trainer" / "cpu.yaml")
    del node["defaults"]
    built, plain = instantiate(node, callbacks={}, _convert_="all"), cpu_trainer()
    left_out = {name: one.default for name, one in inspect.signature(pl.Trainer.__init__).parameters.items()}
    left_out |= {"devices": 1, "gradient_clip_algorithm": "norm", "limit_train_batches": 1.0, "val_check_interval": 1.0}
    assert built.options == {name: (left_out | plain.options)[name] for name in built.options} | {
        "deterministic": False
    }
    assert (built.progress, plain.progress) == (True, False)
    assert (built.accelerator, built.precision) == (plain.accelerator, plain.precision)


def test_callbacks_are_a_list_or_a_mapping_by_target():
    target = {"_target_": "pytorch_lightning.callbacks.LearningRateMonitor", "logging_interval": "step"}
    for callbacks in ([target], {"rate": target, "none": None}):
        built = instantiate({"callbacks": callbacks}, _convert_="all")["callbacks"]
        assert [type(one) for one in cpu_trainer(callbacks=built).callbacks] == [LearningRateMonitor]


def test_a_run_that_was_begun_before_options_goes_on_and_others_are_refused(tmp_path):
    node = OmegaConf.to_container(OmegaConf.load(Path(__file__).parents[2] / "conf" / "trainer" / "cpu.yaml"))
    now = {"trainer": {name: value for name, value in node.items() if name != "defaults"} | {"callbacks": {}}}
    earlier = {name: value for name, value in now["trainer"].items() if name not in ("options", "checkpoint_steps")}
    check_same_configuration(tmp_path, {"trainer": earlier})
    (tmp_path / "seed_0" / "ranker").mkdir(parents=True)
    (tmp_path / "seed_0" / "ranker" / LAST_FILE).touch()
    check_same_configuration(tmp_path, now)
    for harmless in ({"profiler": "simple"}, {"devices": [1]}):
        check_same_configuration(
            tmp_path, {"trainer": now["trainer"] | {"options": now["trainer"]["options"] | harmless}}
        )
    now["trainer"]["checkpoint_steps"] = 5
    check_same_configuration(tmp_path, now)
    now["trainer"]["options"]["accumulate_grad_batches"] = 4
    with pytest.raises(ConfigError, match=r"begun with trainer\.options\.accumulate_grad_batches=1, this run has 4"):
        check_same_configuration(tmp_path, now)
