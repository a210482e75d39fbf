"""The losses against slow textbook twins and known answers.

Shapes: B lists, C candidates, T objectives.
"""

import math

import pytest
import torch

from recsys.nn.losses import listwise_softmax, masked_bce


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
    one = listwise_softmax(logits, torch.tensor([[0.0, 1.0, 0.0]]), every)
    assert float(one) == pytest.approx(-math.log(2 / 8))
    two = listwise_softmax(logits, torch.tensor([[1.0, 0.0, 3.0]]), every)
    assert float(two) == pytest.approx(-(math.log(1 / 8) + 3 * math.log(5 / 8)) / 4)


def test_listwise_leaves_masked_cells_missing_labels_and_empty_lists_out():
    logits = torch.log(torch.tensor([[1.0, 2.0, 5.0], [1.0, 1.0, 1.0], [3.0, 1.0, 1.0]]))
    labels = torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 1.0], [1.0, math.nan, 0.0]])
    mask = torch.tensor([[True, True, False], [True, True, False], [True, True, True]])
    expected = -(math.log(2 / 3) + math.log(3 / 4)) / 2
    assert float(listwise_softmax(logits, labels, mask)) == pytest.approx(expected, rel=1e-6)


def test_listwise_without_any_positive_is_zero_and_has_no_gradient():
    logits = torch.randn(2, 3, requires_grad=True)
    loss = listwise_softmax(logits, torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()
