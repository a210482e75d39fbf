"""The tiled softmax and its own gradients against the textbook formula and autograd, in float64.

Shapes: M positions, N items, D dim, T targets of a position.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from recsys.retrieval import softmax
from recsys.retrieval.softmax import softmax_loss

TEMPERATURE = 0.5
M, N, D, T = 7, 9, 4, 3


def drawn(seed=0, positions=M, items=N, targets=T):
    """users, items, targets, weights (a third of them zero), log_inclusion"""
    random = torch.Generator().manual_seed(seed)
    users, vectors = (
        torch.randn(rows, D, generator=random, dtype=torch.double, requires_grad=True) for rows in (positions, items)
    )
    weights = torch.rand(positions, targets, generator=random, dtype=torch.double)
    weights[torch.rand(positions, targets, generator=random) < 1 / 3] = 0
    log_inclusion = torch.randn(items, generator=random, dtype=torch.double)
    return users, vectors, torch.randint(items, (positions, targets), generator=random), weights, log_inclusion


def textbook(users, items, targets, weights, temperature, log_inclusion=None):
    logits = users @ items.T / temperature
    if log_inclusion is not None:
        logits = logits - log_inclusion
    chances = logits.exp() / logits.exp().sum(1, keepdim=True)
    return -(weights * chances.gather(1, targets).log()).sum() / weights.sum()


@pytest.fixture(params=[1, N, 2 * N + 3, 2**20], ids=lambda cells: f"{cells} cells")
def tiles(request, monkeypatch):
    """One position a tile, one again, two with a rest, and all at once."""
    monkeypatch.setitem(softmax.TILE_LOGITS, "cpu", request.param)


def test_a_known_answer():
    """Chances 1/6, 2/6, 3/6; the second target counts three times as much as the first."""
    items = torch.log(torch.tensor([[1.0], [2.0], [3.0]])).requires_grad_()
    loss = softmax_loss(torch.ones(1, 1), items, torch.tensor([[0, 2]]), torch.tensor([[0.5, 1.5]]), temperature=1.0)
    assert loss.item() == pytest.approx(-(math.log(1 / 6) + 3 * math.log(1 / 2)) / 4)
    loss.backward()
    assert items.grad[:, 0].tolist() == pytest.approx([1 / 6 - 1 / 4, 1 / 3, 1 / 2 - 3 / 4], rel=1e-5)


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("corrected", [False, True])
def test_value_and_gradients_equal_the_textbook(corrected):
    users, items, targets, weights, log_inclusion = drawn()
    log_inclusion = log_inclusion if corrected else None
    found = softmax_loss(users, items, targets, weights, temperature=TEMPERATURE, log_inclusion=log_inclusion)
    expected = textbook(users, items, targets, weights, TEMPERATURE, log_inclusion)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    slopes, wanted = (torch.autograd.grad(3 * loss, (users, items)) for loss in (found, expected))
    for slope, one in zip(slopes, wanted, strict=True):
        torch.testing.assert_close(slope, one, rtol=1e-10, atol=1e-13)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 12), st.integers(1, 4), st.integers(1, 60))
def test_no_tiling_and_no_shape_changes_anything(seed, positions, num_items, num_targets, cells):
    users, items, targets, weights, log_inclusion = drawn(seed, positions, num_items, num_targets)
    weights[0, 0] = 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(softmax.TILE_LOGITS, "cpu", cells)
        found = softmax_loss(users, items, targets, weights, temperature=TEMPERATURE, log_inclusion=log_inclusion)
    expected = textbook(users, items, targets, weights, TEMPERATURE, log_inclusion)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    slopes, wanted = (torch.autograd.grad(loss, (users, items)) for loss in (found, expected))
    for slope, one in zip(slopes, wanted, strict=True):
        torch.testing.assert_close(slope, one, rtol=1e-9, atol=1e-11)


@pytest.mark.usefixtures("tiles")
def test_the_gradients_are_those_of_the_value():
    users, items, targets, weights, log_inclusion = drawn()

    def loss(users, items):
        return softmax_loss(users, items, targets, weights, temperature=TEMPERATURE, log_inclusion=log_inclusion)

    assert torch.autograd.gradcheck(loss, (users, items))


def test_one_target_each_is_the_cross_entropy():
    users, items, targets, *_ = drawn(targets=1)
    found = softmax_loss(users, items, targets, torch.ones(M, 1, dtype=torch.double), temperature=TEMPERATURE)
    torch.testing.assert_close(found, F.cross_entropy(users @ items.T / TEMPERATURE, targets[:, 0]))


def test_a_weight_of_zero_leaves_the_target_out_and_only_ratios_count():
    users, items, targets, weights, _ = drawn()
    other = torch.where(weights == 0, (targets + 1) % N, targets)
    losses = [
        softmax_loss(users, items, asked, scale * weights, temperature=TEMPERATURE)
        for asked, scale in ((targets, 1), (other, 1), (targets, 10))
    ]
    torch.testing.assert_close(losses[1], losses[0], rtol=0, atol=0)
    torch.testing.assert_close(losses[2], losses[0])


def test_without_any_weight_there_is_nothing_to_learn():
    users, items, targets, weights, _ = drawn()
    loss = softmax_loss(users, items, targets, torch.zeros_like(weights), temperature=TEMPERATURE)
    loss.backward()
    assert loss.item() == 0
    assert not users.grad.any()
    assert not items.grad.any()


def test_a_sample_of_every_item_is_the_full_softmax_and_doubles_are_corrected_away():
    users, items, targets, weights, _ = drawn()
    full = softmax_loss(users, items, targets, weights, temperature=TEMPERATURE)
    certain = torch.zeros(N, dtype=torch.double)
    every = softmax_loss(users, items, targets, weights, temperature=TEMPERATURE, log_inclusion=certain)
    torch.testing.assert_close(every, full, rtol=0, atol=0)
    thrice = torch.cat([items, items[-1:], items[-1:]])
    expected = torch.cat([certain[:-1], torch.full((3,), math.log(3), dtype=torch.double)])
    corrected = softmax_loss(users, thrice, targets, weights, temperature=TEMPERATURE, log_inclusion=expected)
    share = weights[targets == N - 1].sum() / weights.sum()
    assert share > 0
    torch.testing.assert_close(corrected, full + share * math.log(3), rtol=1e-12, atol=0)


def test_what_is_often_in_the_sample_is_pushed_less():
    """Two equal items that nobody asks for: the one that is there ten times as often gets a tenth of the push."""
    items = torch.tensor([[0.8, 0.6], [0.6, 0.8], [0.6, 0.8]], requires_grad=True)
    loss = softmax_loss(
        torch.tensor([[1.0, 0.0]]),
        items,
        torch.tensor([[0]]),
        torch.ones(1, 1),
        temperature=TEMPERATURE,
        log_inclusion=torch.tensor([0.0, math.log(10.0), 0.0]),
    )
    loss.backward()
    often, seldom = items.grad[1:, 0].tolist()
    assert seldom == pytest.approx(10 * often, rel=1e-4)
    assert often > 0


def test_the_precision_of_autocast_is_that_of_the_products_alone():
    users, items, targets, weights, _ = drawn()
    users, items = (tensor.detach().float().requires_grad_() for tensor in (users, items))
    exact = softmax_loss(users, items, targets, weights.float(), temperature=TEMPERATURE)
    wanted = torch.autograd.grad(exact, (users, items))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = softmax_loss(users, items, targets, weights.float(), temperature=TEMPERATURE)
    slopes = torch.autograd.grad(rough, (users, items))
    assert {tensor.dtype for tensor in (rough, *slopes)} == {torch.float32}
    assert rough.item() == pytest.approx(exact.item(), rel=0.02)
    assert rough.item() != exact.item()
    for slope, one in zip(slopes, wanted, strict=True):
        torch.testing.assert_close(slope, one, rtol=0.05, atol=0.01)
