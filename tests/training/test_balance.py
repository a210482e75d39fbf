"""The losses of several objectives become one as told, as sure as they are, or so that all move what they share alike."""

import math

import pytest
import torch
from omegaconf import OmegaConf

from recsys.errors import ConfigError
from recsys.training.balance import PACE, ByGradients, ByUncertainty, Fixed, balance_of

OBJECTIVES = ("click", "buy")


def shared():
    return torch.nn.Parameter(torch.tensor([3.0, 4.0]))


def test_fixed_weights_are_taken_by_name():
    balance = balance_of(OmegaConf.create({"buy": 3, "click": 0.5}), OBJECTIVES)
    assert isinstance(balance, Fixed)
    assert float(balance(torch.tensor([2.0, 1.0]), shared())) == 4.0
    assert float(balance_of("equal", OBJECTIVES)(torch.tensor([2.0, 1.0]), shared())) == 3.0


def test_learnt_variances_settle_at_twice_the_loss():
    balance, losses = ByUncertainty(2), torch.tensor([0.5, 0.02])
    optimiser = torch.optim.LBFGS(balance.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = balance(losses, shared())
        loss.backward()
        return loss

    optimiser.step(closure)
    torch.testing.assert_close(balance.log_variances.detach().exp(), 2 * losses, rtol=1e-3, atol=0)


def losses_of(weight, scales, left=(1.0, 1.0)):
    """Losses whose gradients are `scales` long, and of whose first values `left` is left."""
    length = weight.norm()
    return torch.stack([scale * (length - length.detach()) + now for scale, now in zip(scales, left, strict=True)])


def test_gradients_of_one_length_are_what_weights_settle_at():
    balance, weight = ByGradients(2), shared()
    for _ in range(1_500):
        balance(losses_of(weight, (1.0, 10.0)), weight)
    lengths = balance.weights * torch.tensor([1.0, 10.0])
    assert float(lengths[0]) == pytest.approx(float(lengths[1]), rel=1e-3)
    assert float(balance.weights.sum()) == pytest.approx(2, abs=1e-3)


def test_an_objective_that_has_come_less_far_weighs_more():
    balance, weight = ByGradients(2), shared()
    balance(losses_of(weight, (1.0, 1.0)), weight)
    for _ in range(1_500):
        balance(losses_of(weight, (1.0, 1.0), left=(0.9, 0.1)), weight)
    assert float(balance.weights[0] / balance.weights[1]) == pytest.approx(9**PACE, rel=1e-2)


def test_an_objective_without_labels_keeps_its_weight_and_starts_when_it_is_known():
    balance, weight = ByGradients(2), shared()
    for _ in range(50):
        balance(losses_of(weight, (1.0, 0.0), left=(1.0, 0.0)), weight)
    assert balance.weights.tolist() == pytest.approx([1, 1])
    balance(losses_of(weight, (1.0, 2.0), left=(0.5, 0.7)), weight)
    assert balance.first.tolist() == pytest.approx([1.0, 0.7])


def test_weights_do_not_move_where_nothing_is_learnt():
    balance, weight = ByGradients(2), shared()
    with torch.no_grad():
        assert float(balance(torch.tensor([1.0, 2.0]), weight)) == 3.0
    assert balance.first.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("half", "choose equal, uncertainty, gradients"),
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
