"""The losses against slow textbook twins and known answers.

Shapes: B lists, C candidates, T objectives.
"""

import math
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from recsys.errors import ConfigError
from recsys.ranking.losses import FocalLoss, LambdaRank, ListNet, RankNet, masked_bce


def test_masked_bce_equals_a_loop_over_the_cells_that_count():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(3, 4, 2, generator=generator)
    labels = (torch.rand(3, 4, 2, generator=generator) < 0.4).float()
    labels[0, 1, 0] = labels[2, 3, 1] = math.nan
    mask = torch.rand(3, 4, generator=generator) < 0.7
    expected = []
    for objective in range(2):
        cells = []
        for b, c in mask.nonzero().tolist():
            if not math.isnan(label := float(labels[b, c, objective])):
                probability = 1 / (1 + math.exp(-float(logits[b, c, objective])))
                cells.append(-math.log(probability if label else 1 - probability))
        expected.append(sum(cells) / len(cells))
    assert masked_bce(logits, labels, mask).tolist() == pytest.approx(expected, rel=1e-5)


def test_missing_labels_and_masked_cells_have_no_gradient():
    logits = torch.zeros(1, 3, 2, requires_grad=True)
    labels = torch.tensor([[[1.0, math.nan], [0.0, math.nan], [1.0, 1.0]]])
    loss = masked_bce(logits, labels, torch.tensor([[True, True, False]]))
    assert loss.tolist() == pytest.approx([math.log(2), 0])
    loss.sum().backward()
    assert logits.grad.tolist() == [[[-0.25, 0], [0.25, 0], [0, 0]]]


def test_listwise_known_answer():
    logits = torch.log(torch.tensor([[1.0, 2.0, 5.0]]))
    every = torch.ones(1, 3, dtype=torch.bool)
    one = ListNet()(logits, torch.tensor([[0.0, 1.0, 0.0]]), every)
    assert float(one) == pytest.approx(-math.log(2 / 8))
    two = ListNet()(logits, torch.tensor([[1.0, 0.0, 3.0]]), every)
    assert float(two) == pytest.approx(-(math.log(1 / 8) + 3 * math.log(5 / 8)) / 4)


def test_listwise_leaves_masked_cells_missing_labels_and_empty_lists_out():
    logits = torch.log(torch.tensor([[1.0, 2.0, 5.0], [1.0, 1.0, 1.0], [3.0, 1.0, 1.0]]))
    labels = torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 1.0], [1.0, math.nan, 0.0]])
    mask = torch.tensor([[True, True, False], [True, True, False], [True, True, True]])
    expected = -(math.log(2 / 3) + math.log(3 / 4)) / 2
    assert float(ListNet()(logits, labels, mask)) == pytest.approx(expected, rel=1e-6)


def test_listwise_without_any_positive_is_zero_and_has_no_gradient():
    logits = torch.randn(2, 3, requires_grad=True)
    loss = ListNet()(logits, torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_focal_known_answers():
    logits = torch.tensor([[[0.0], [math.log(3)], [math.log(3)], [math.log(3)]]])
    labels = torch.tensor([[[1.0], [1.0], [0.0], [0.5]]])
    one = torch.tensor([[True, False, False, False]])
    assert FocalLoss(gamma=2.0)(logits, labels, one).item() == pytest.approx(0.5**2 * math.log(2))
    cost = [0.25 * 0.25 * -math.log(0.75), 0.75 * 0.75 * -math.log(0.25)]
    graded = 0.25**2 * -(math.log(0.75) + math.log(0.25)) / 2
    found = FocalLoss(gamma=2.0)(logits, labels, ~one).item()
    assert found == pytest.approx((sum(cost) + graded) / 3, rel=1e-5)


CONF = Path(__file__).parents[2] / "conf" / "ranking"


@pytest.fixture(params=sorted(file.stem for file in (CONF / "pointwise").glob("*.yaml")))
def pointwise(request):
    return instantiate(OmegaConf.load(CONF / "pointwise" / f"{request.param}.yaml"))


def cells():
    """logits, labels (some of them missing or graded), weights (some of them zero)"""
    random = torch.Generator().manual_seed(5)
    logits = torch.randn(3, 4, 2, generator=random, dtype=torch.double, requires_grad=True)
    labels = torch.rand(3, 4, 2, generator=random).round(decimals=1).double()
    labels[0, 1, 0] = labels[2, 3, 1] = math.nan
    return logits, labels, torch.rand(3, 4, generator=random).double() * torch.tensor([1.0, 0, 1, 2])


def test_a_pointwise_loss_is_the_weighted_mean_of_known_labels(pointwise):
    logits, labels, weights = cells()
    found = pointwise(logits, labels, weights)
    for objective in range(2):
        costs = [
            (pointwise(logits[b : b + 1, c : c + 1], labels[b : b + 1, c : c + 1], torch.ones(1, 1))[objective], weight)
            for (b, c), weight in zip(
                torch.cartesian_prod(torch.arange(3), torch.arange(4)), weights.flatten(), strict=True
            )
            if not labels[b, c, objective].isnan()
        ]
        mean = sum(cost * weight for cost, weight in costs) / sum(weight for _, weight in costs)
        torch.testing.assert_close(found[objective], mean)


def test_a_missing_label_and_a_weight_of_zero_have_no_gradient_and_a_wrong_logit_has(pointwise):
    logits, labels, weights = cells()
    (gradient,) = torch.autograd.grad(pointwise(logits, labels, weights).sum(), logits)
    off = labels.isnan() | (weights == 0).unsqueeze(-1)
    assert not gradient[off].any()
    assert (gradient[~off] != 0).all()


def test_of_labels_that_are_predicted_for_sure_a_pointwise_loss_is_zero(pointwise):
    certain = torch.tensor([[[1.0, 0.0]]])
    assert (pointwise(60 * certain - 30, certain, torch.ones(1, 1)) < 1e-9).all()
    assert (pointwise(30 - 60 * certain, certain, torch.ones(1, 1)) > 20).all()


def test_of_an_objective_without_labels_the_loss_is_zero(pointwise):
    logits, labels, weights = cells()
    assert pointwise(logits, labels * math.nan, weights).tolist() == [0, 0]


def test_focal_without_its_power_is_cross_entropy_and_one_out_of_range_is_refused_by_name():
    logits, labels, weights = cells()
    torch.testing.assert_close(FocalLoss(gamma=0.0)(logits, labels, weights), masked_bce(logits, labels, weights))
    with pytest.raises(ConfigError, match=r"ranking\.pointwise\.gamma is -1"):
        FocalLoss(gamma=-1)


FILES = CONF / "loss"


@pytest.fixture(params=sorted(file.stem for file in FILES.glob("*.yaml")))
def loss(request):
    return instantiate(OmegaConf.load(FILES / f"{request.param}.yaml"))


def lists(seed=0):
    """logits, labels (some missing), mask"""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, 6, generator=generator, dtype=torch.double, requires_grad=True)
    labels = (torch.rand(4, 6, generator=generator) < 0.4).double()
    labels[0, 1] = labels[2, 3] = math.nan
    labels[3] = 0
    return logits, labels, torch.rand(4, 6, generator=generator) < 0.8


def test_a_loss_on_the_order_reads_differences_of_present_logits_alone(loss):
    logits, labels, mask = lists()
    value = loss(logits, labels, mask)
    (gradient,) = torch.autograd.grad(value, logits)
    assert value > 0
    assert not gradient[~mask | labels.isnan()].any()
    assert not gradient[3].any()
    torch.testing.assert_close(gradient.sum(1), torch.zeros(4, dtype=torch.double), rtol=0, atol=1e-9)
    torch.testing.assert_close(loss(logits + torch.arange(4).unsqueeze(1), labels, mask), value)


def test_a_loss_on_the_order_is_a_mean_over_lists_that_hold_a_positive(loss):
    logits, labels, mask = lists()
    alone = [loss(logits[i : i + 1], labels[i : i + 1], mask[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(loss(logits, labels, mask), sum(alone) / 3)
    shuffled = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(loss(logits[:, shuffled], labels[:, shuffled], mask[:, shuffled]), sum(alone) / 3)
    nothing = loss(logits, torch.zeros_like(labels), mask)
    nothing.backward()
    assert nothing.item() == 0
    assert not logits.grad.any()


def test_a_loss_on_the_order_falls_as_the_positive_rises(loss):
    labels, mask = torch.tensor([[0.0, 1.0, 0.0]]), torch.ones(1, 3, dtype=torch.bool)
    values = [loss(torch.tensor([[1.0, height, 0.0]]), labels, mask).item() for height in (-2.0, 0.5, 3.0, 20.0)]
    assert values == sorted(values, reverse=True)
    assert values[-1] == pytest.approx(0, abs=1e-6)


def test_ranknet_and_lambdarank_equal_loops_over_pairs():
    logits, labels, mask = (one.detach() for one in lists(3))
    ranknet, lambdarank = [], []
    for b in range(4):
        known = [c for c in range(6) if mask[b, c] and not math.isnan(labels[b, c])]
        order = sorted(known, key=lambda c: -float(logits[b, c]))
        discount = {c: 1 / math.log2(position + 2) for position, c in enumerate(order)}
        gains = sorted((float(labels[b, c]) for c in known), reverse=True)
        best = sum(gain / math.log2(position + 2) for position, gain in enumerate(gains))
        pairs = [(i, j) for i in known for j in known if labels[b, i] > labels[b, j]]
        if pairs:
            cost = {(i, j): math.log1p(math.exp(float(logits[b, j] - logits[b, i]))) for i, j in pairs}
            ranknet.append(sum(cost.values()) / len(pairs))
            lambdarank.append(sum(cost[i, j] * abs(discount[i] - discount[j]) / best for i, j in pairs))
    assert RankNet()(logits, labels, mask).item() == pytest.approx(sum(ranknet) / len(ranknet))
    assert LambdaRank()(logits, labels, mask).item() == pytest.approx(sum(lambdarank) / len(lambdarank))
