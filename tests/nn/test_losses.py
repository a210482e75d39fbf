"""The losses against slow textbook twins and known answers.

Shapes: B positions, N items, M sampled negatives, D dim, C candidates, T objectives.
"""

import math

import pytest
import torch
from torch.nn import functional as F

from recsys.nn.losses import full_softmax, listwise_softmax, masked_bce, sampled_softmax

TEMPERATURE = 0.5


@pytest.fixture
def vectors():
    """users [6, 4], items [9, 4], targets [6]"""
    generator = torch.Generator().manual_seed(0)
    users = F.normalize(torch.randn(6, 4, generator=generator, dtype=torch.double), dim=-1)
    items = F.normalize(torch.randn(9, 4, generator=generator, dtype=torch.double), dim=-1)
    return users, items, torch.randint(9, (6,), generator=generator)


def test_full_softmax_is_the_negative_log_likelihood(vectors):
    users, items, targets = vectors
    losses = []
    for user, target in zip(users, targets, strict=True):
        scores = [math.exp(float(user @ item) / TEMPERATURE) for item in items]
        losses.append(-math.log(scores[target] / sum(scores)))
    found = full_softmax(users, items, targets, temperature=TEMPERATURE)
    assert found.tolist() == pytest.approx(losses, rel=1e-9)


def sampled(users, items, targets, sample, log_expected):
    return sampled_softmax(
        users,
        items[targets],
        items[sample],
        duplicates=targets[:, None] == sample,
        log_expected=log_expected[targets],
        log_expected_negatives=log_expected[sample],
        temperature=TEMPERATURE,
    )


def test_all_items_as_negatives_with_exact_expected_counts_equal_the_full_softmax(vectors):
    users, items, targets = vectors
    every, once = torch.arange(len(items)), torch.zeros(len(items), dtype=torch.double)
    expected = full_softmax(users, items, targets, temperature=TEMPERATURE)
    torch.testing.assert_close(sampled(users, items, targets, every, once), expected, rtol=1e-9, atol=0)


def test_an_item_sampled_three_times_with_its_expected_count_weighs_as_one(vectors):
    users, items, _ = vectors
    targets = torch.arange(6)
    sample = torch.cat([torch.arange(9), torch.tensor([8, 8])])
    log_expected = torch.zeros(9, dtype=torch.double)
    log_expected[8] = math.log(3)
    expected = full_softmax(users, items, targets, temperature=TEMPERATURE)
    torch.testing.assert_close(sampled(users, items, targets, sample, log_expected), expected, rtol=1e-9, atol=0)


def test_sampled_softmax_equals_its_textbook_twin(vectors):
    users, items, targets = vectors
    sample, log_expected = torch.tensor([0, 3, 3, 7]), torch.linspace(-1, 1, 9, dtype=torch.double)
    losses = []
    for user, target in zip(users, targets.tolist(), strict=True):

        def corrected(item, user=user):
            return math.exp(float(user @ items[item]) / TEMPERATURE - float(log_expected[item]))

        others = sum(corrected(item) for item in sample.tolist() if item != target)
        losses.append(-math.log(corrected(target) / (corrected(target) + others)))
    found = sampled(users, items, targets, sample, log_expected)
    assert found.tolist() == pytest.approx(losses, rel=1e-9)


def test_a_popular_negative_is_pushed_less():
    """Two equal negatives: the one that is sampled more often gets the smaller gradient away from the user."""
    user = torch.tensor([[1.0, 0.0]])
    negatives = torch.tensor([[0.6, 0.8], [0.6, 0.8]], requires_grad=True)
    loss = sampled_softmax(
        user,
        torch.tensor([[0.8, 0.6]]),
        negatives,
        duplicates=torch.zeros(1, 2, dtype=torch.bool),
        log_expected=torch.zeros(1),
        log_expected_negatives=torch.tensor([math.log(10.0), 0.0]),
        temperature=TEMPERATURE,
    )
    loss.sum().backward()
    popular, rare = (negatives.grad @ user[0]).tolist()
    assert rare == pytest.approx(10 * popular, rel=1e-4)
    assert popular > 0


def test_a_popular_positive_is_pulled_more():
    losses = [
        sampled_softmax(
            torch.ones(1, 1),
            torch.ones(1, 1),
            torch.ones(1, 1),
            duplicates=torch.zeros(1, 1, dtype=torch.bool),
            log_expected=torch.tensor([log_expected]),
            log_expected_negatives=torch.zeros(1),
            temperature=1.0,
        )
        for log_expected in (0.0, math.log(3))
    ]
    assert [float(loss) for loss in losses] == pytest.approx([math.log(2), math.log(4)])


def test_the_own_positive_is_no_negative():
    loss = sampled_softmax(
        torch.ones(1, 1),
        torch.ones(1, 1),
        torch.ones(2, 1),
        duplicates=torch.tensor([[True, True]]),
        log_expected=torch.zeros(1),
        log_expected_negatives=torch.zeros(2),
        temperature=1.0,
    )
    assert float(loss) == 0


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
    expected = -(math.log(2 / 3) + math.log(3 / 5)) / 2
    assert float(listwise_softmax(logits, labels, mask)) == pytest.approx(expected, rel=1e-6)


def test_listwise_without_any_positive_is_zero_and_has_no_gradient():
    logits = torch.randn(2, 3, requires_grad=True)
    loss = listwise_softmax(logits, torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()
