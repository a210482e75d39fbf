"""Any class of torch.optim and any of its schedulers trains a model by `_target_`, or is refused before data are read."""

import math
from functools import partial
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from recsys.errors import ConfigError, sentence_of
from recsys.training.optimizers import DEFAULT_OPTIMIZER, build_optimizer, check_optimizer
from recsys.training.schedules import DEFAULT_SCHEDULE, build_schedule, check_schedule

CONF = Path(__file__).parents[2] / "conf"
RATE = 0.1


def ranking(*overrides):
    """The ranker's configuration with overrides, built."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return instantiate(compose("train", overrides=list(overrides)).ranking, _convert_="all")


def chosen(optimizer, *further):
    return ranking(f"ranking.optimizer._target_=torch.optim.{optimizer}", "~ranking.optimizer.betas", *further)


@pytest.mark.parametrize(
    "name", ["NAdam", "RAdam", "Adamax", "AdamW", "RMSprop", "SGD", "Adagrad", "Adadelta", "ASGD", "Adafactor"]
)
def test_a_class_of_torch_is_the_optimiser_that_torch_builds(name):
    config = chosen(name)
    ours, theirs = (torch.nn.Parameter(torch.tensor([3.0, -2.0])) for _ in range(2))
    optimizer = build_optimizer(config.optimizer, [ours], learning_rate=RATE, weight_decay=0.01, fused=False)
    expected = getattr(torch.optim, name)([theirs], lr=RATE, weight_decay=0.01)
    assert type(optimizer) is type(expected)
    for _ in range(20):
        for weight, steps in ((ours, optimizer), (theirs, expected)):
            steps.zero_grad()
            (weight**2).sum().backward()
            steps.step()
    assert torch.equal(ours, theirs)
    assert float(ours.detach().abs().sum()) < 5


def test_keys_of_the_class_reach_it_and_those_of_an_inherited_file_too():
    config = ranking("ranking.optimizer._target_=torch.optim.NAdam", "+ranking.optimizer.momentum_decay=0.1")
    made = build_optimizer(
        config.optimizer, [torch.nn.Parameter(torch.ones(1))], learning_rate=RATE, weight_decay=0.2, fused=True
    )
    (group,) = made.param_groups
    assert group["betas"] == [0.9, 0.999]
    assert (group["momentum_decay"], group["lr"], group["weight_decay"]) == (0.1, RATE, 0.2)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ["ranking.optimizer._target_=torch.optim.SGD"],
            r"ranking\.optimizer: SGD cannot train here: .*its keys are momentum",
        ),
        (["ranking.optimizer._target_=torch.optim.NAdam", "+ranking.optimizer.lr=1"], "is ranking.learning_rate"),
        (["ranking.optimizer.betas=[2,3]"], "adamw cannot train here: Invalid beta"),
        (["+ranking.optimizer.momentum=1"], r"adamw cannot train here: .*momentum.*its keys are betas"),
        (["ranking.optimizer._target_=torch.optim.Muon", "~ranking.optimizer.betas"], "Muon cannot train here: .*2D"),
        (["ranking.optimizer._target_=torch.optim.SparseAdam"], "SparseAdam cannot train here: .*dense"),
        (["ranking.optimizer._target_=torch.nn.Linear", "~ranking.optimizer.betas"], "Linear cannot train here"),
        (
            ["ranking.optimizer._target_=torch.optim.Rprop", "~ranking.optimizer.betas"],
            "ranking.weight_decay is 0.05, but Rprop has none; set it to 0",
        ),
        (["ranking.scheduler._target_=torch.optim.lr_scheduler.StepLR"], "StepLR cannot be used: .*step_size, gamma"),
        (["+ranking.scheduler.warm=1"], "warmup_cosine cannot be used: .*its keys are warmup"),
        (
            ["ranking.scheduler._target_=torch.optim.lr_scheduler.ReduceLROnPlateau", "~ranking.scheduler.warmup"],
            "ReduceLROnPlateau, which reads a validation figure",
        ),
    ],
    ids=str,
)
def test_what_cannot_train_is_one_sentence_before_data_are_read(overrides, sentence):
    with pytest.raises(Exception, match=sentence) as refused:
        ranking(*overrides)
    assert isinstance(refused.value.__cause__, ConfigError)
    assert sentence_of(refused.value) == str(refused.value.__cause__)
    assert "\n" not in str(refused.value.__cause__)


def rates(scheduler, steps, *keys):
    """Learning rates of so many steps and the one behind them."""
    config = ranking(
        f"ranking.scheduler._target_=torch.optim.lr_scheduler.{scheduler}", "~ranking.scheduler.warmup", *keys
    )
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=RATE, momentum=0.9)
    schedule = build_schedule(config.scheduler, optimizer, steps=steps, learning_rate=RATE)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return [*found, optimizer.param_groups[0]["lr"]]


def test_a_scheduler_of_torch_counts_steps_and_knows_how_many_there_are():
    cosine = [RATE * (1 + math.cos(math.pi * step / 8)) / 2 for step in range(9)]
    assert rates("CosineAnnealingLR", 8) == pytest.approx(cosine)
    assert rates("CosineAnnealingLR", 4, "+ranking.scheduler.T_max=8") == pytest.approx(cosine[:5])
    assert rates("StepLR", 4, "+ranking.scheduler.step_size=2", "+ranking.scheduler.gamma=0.5") == pytest.approx(
        [RATE, RATE, RATE / 2, RATE / 2, RATE / 4]
    )
    cycle = rates("OneCycleLR", 10)
    assert max(cycle) == pytest.approx(RATE)
    assert cycle[0] == pytest.approx(RATE / 25)
    assert cycle[-2] < cycle[0]


def test_the_default_choices_pass_their_own_check():
    optimizer = check_optimizer("ranking", DEFAULT_OPTIMIZER, RATE, 0.0)
    check_schedule("ranking", DEFAULT_SCHEDULE, optimizer, RATE)
    with pytest.raises(ConfigError, match="it builds a Parameter"):
        check_optimizer("ranking", partial(lambda params: params[0]), RATE, 0.0)
