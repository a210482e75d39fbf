"""The losses of several objectives become one as told, as sure as they are, or so that all move what they share alike."""

import math

import pytest
import torch
from omegaconf import OmegaConf

from recsys.errors import ConfigError
from recsys.training.balance import ALPHA, FixedWeights, GradientNormWeights, UncertaintyWeights, balance_of

OBJECTIVES = ("click", "buy")


def shared():
    return torch.nn.Parameter(torch.tensor([3.0, 4.0]))


def test_fixed_weights_are_taken_by_name():
    balance = balance_of(OmegaConf.create({"buy": 3, "click": 0.5}), OBJECTIVES)
    assert isinstance(balance, FixedWeights)
    assert float(balance(torch.tensor([2.0, 1.0]), shared())) == 4.0
    assert float(balance_of("equal", OBJECTIVES)(torch.tensor([2.0, 1.0]), shared())) == 3.0


def test_variances_are_twice_the_mean_loss():
    balance, rng = UncertaintyWeights(2), torch.Generator().manual_seed(0)
    for _ in range(3_000):
        losses = torch.tensor([0.5, 0.02]) * torch.rand(2, generator=rng) * 2
        balance(losses, shared())
    torch.testing.assert_close(balance.means, torch.tensor([0.5, 0.02]), rtol=0.15, atol=0)
    weight = torch.tensor([0.5, 0.02], requires_grad=True)
    with torch.no_grad():
        means = balance.means.clone()
    balance(weight, shared()).backward()
    torch.testing.assert_close(weight.grad, 1 / (2 * balance.means))
    torch.testing.assert_close(balance.means, means, rtol=0.02, atol=0)


def test_a_step_without_labels_of_an_objective_says_nothing_about_its_loss():
    balance = UncertaintyWeights(2)
    for step in range(500):
        balance(torch.tensor([0.5, 0.5 if step % 50 == 0 else 0.0]), shared())
    torch.testing.assert_close(balance.means, torch.tensor([0.5, 0.5]))


def losses_of(weight, scales, left=(1.0, 1.0)):
    """Losses whose gradients are `scales` long, and of whose first values `left` is left."""
    length = weight.norm()
    return torch.stack([scale * (length - length.detach()) + now for scale, now in zip(scales, left, strict=True)])


def test_gradients_of_one_length_are_what_weights_settle_at():
    balance, weight = GradientNormWeights(2), shared()
    for _ in range(20):
        balance(losses_of(weight, (1.0, 10.0)), weight)
    lengths = balance.weights * torch.tensor([1.0, 10.0])
    assert float(lengths[0]) == pytest.approx(float(lengths[1]), rel=1e-3)
    assert float(balance.weights.sum()) == pytest.approx(2, abs=1e-3)


def test_an_objective_that_has_come_less_far_weighs_more():
    balance, weight = GradientNormWeights(2), shared()
    balance(losses_of(weight, (1.0, 1.0)), weight)
    for _ in range(1_500):
        balance(losses_of(weight, (1.0, 1.0), left=(0.9, 0.1)), weight)
    assert float(balance.weights[0] / balance.weights[1]) == pytest.approx(9**ALPHA, rel=1e-2)


def test_an_objective_without_labels_keeps_its_weight_and_starts_when_it_is_known():
    balance, weight = GradientNormWeights(2), shared()
    for _ in range(50):
        balance(losses_of(weight, (1.0, 0.0), left=(1.0, 0.0)), weight)
    assert balance.weights.tolist() == pytest.approx([1, 1])
    balance(losses_of(weight, (1.0, 2.0), left=(0.5, 0.7)), weight)
    assert balance.first.tolist() == pytest.approx([1.0, 0.7])


def test_steps_without_a_positive_do_not_take_the_weight():
    """A gradient of one step in four and next to none in the others is a quarter as long."""
    balance, weight = GradientNormWeights(2), shared()
    for step in range(4_000):
        balance(losses_of(weight, (1.0, 1.0 if step % 4 == 0 else 1e-6)), weight)
    assert float(balance.weights[1] / balance.weights[0]) == pytest.approx(4, rel=0.05)


def test_weights_do_not_move_where_nothing_is_learnt():
    balance, weight = GradientNormWeights(2), shared()
    with torch.no_grad():
        assert float(balance(torch.tensor([1.0, 2.0]), weight)) == 3.0
    assert balance.first.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("half", "choose equal, uncertainty, gradients"),
        (None, "choose equal, uncertainty, gradients"),
        ([1, 2], "choose equal, uncertainty, gradients"),
        ({1: 2}, "weighs 1; the objectives are click, buy"),
        ({"click": 1}, "the objectives are click, buy"),
        ({"click": 1, "buy": -1}, "give numbers from 0 on"),
        ({"click": 0, "buy": 0}, "give numbers from 0 on"),
        ({"click": 1, "buy": math.inf}, "give numbers from 0 on"),
        ({"click": 1, "buy": "much"}, "give numbers from 0 on"),
    ],
)
def test_anything_else_is_refused(how, sentence):
    with pytest.raises(ConfigError, match=sentence):
        balance_of(how, OBJECTIVES)
