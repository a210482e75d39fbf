"""Schedules and optimisers of conf/: known answers, and each makes a model better."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from recsys.training.optimizers import DEFAULT_OPTIMIZER
from recsys.training.schedules import DEFAULT_SCHEDULE

CONF = Path(__file__).parents[2] / "conf"


def built(group, name):
    return instantiate(OmegaConf.load(CONF / group / f"{name}.yaml"), _convert_="all")


def names(group):
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("constant", [1, 1, 1, 1, 1]),
        ("warmup_cosine", [0.2, 1, 1, 0.5, 0]),
        ("warmup_linear", [0.2, 1, 1, 0.5, 0]),
        ("inverse_square_root", [0.2, 1, (5 / 6) ** 0.5, (5 / 53.5) ** 0.5, (5 / 101) ** 0.5]),
    ],
)
def test_known_answers(name, want):
    """Of 100 steps five warm up; in the middle of the others lies 52.5."""
    found = [built("scheduler", name)(step=step, steps=100) for step in (0, 4, 5, 52.5, 100)]
    assert found == pytest.approx(want, abs=1e-9)


@pytest.mark.parametrize("name", names("scheduler"))
@pytest.mark.parametrize("steps", [1, 2, 19, 20, 41, 180, 1_000])
def test_a_factor_lies_between_nothing_and_the_whole_and_warms_up_in_whole_steps(name, steps):
    schedule = built("scheduler", name)
    factors = [schedule(step=step, steps=steps) for step in range(steps + 1)]
    assert all(0 <= factor <= 1 for factor in factors)
    warm = 0 if name == "constant" else max(1, steps // 20)
    assert factors.index(max(factors)) == max(0, warm - 1)
    assert factors == sorted(factors[:warm]) + sorted(factors[warm:], reverse=True)


@pytest.mark.parametrize("name", names("optimizer"))
def test_an_optimiser_finds_a_minimum(name):
    weight = torch.nn.Parameter(torch.tensor([3.0, -2.0]))
    made = built("optimizer", name)(parameters=[weight], learning_rate=0.1, weight_decay=0.0, fused=False)
    for _ in range(300):
        made.zero_grad()
        loss = (weight**2).sum()
        loss.backward()
        made.step()
    assert loss < 13.0 / 10


@pytest.mark.parametrize("name", names("optimizer"))
def test_weight_decay_pulls_weights_without_a_gradient_to_zero(name):
    weight = torch.nn.Parameter(torch.ones(2))
    made = built("optimizer", name)(parameters=[weight], learning_rate=0.1, weight_decay=0.5, fused=False)
    weight.grad = torch.zeros(2)
    made.step()
    assert (weight < 1).all()


def test_what_is_trained_without_conf_is_trained_as_by_default():
    for made, default in (
        (built("optimizer", "adamw"), DEFAULT_OPTIMIZER),
        (built("scheduler", "warmup_cosine"), DEFAULT_SCHEDULE),
    ):
        assert made.func is default.func
        assert made.keywords == default.keywords
