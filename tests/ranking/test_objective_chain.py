"""Objectives on the way of another: known answers, and products that stay products."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys.ranking.objective_chain import (
    MIN_POSITIVES,
    and_logits,
    chain_logits,
    describe,
    enforce_monotone,
    parents_of,
)

NAMES = ("view", "cart", "buy", "share")
LOGITS = st.floats(-40, 40, width=32)


def chained_labels(num=200):
    """Every second one is viewed, of those every second carted, of those every fourth bought; shares lie anywhere."""
    places = np.arange(num)
    reached = [places % 2 == 0, places % 4 == 0, places % 16 == 0, places % 3 == 0]
    return np.stack(reached, axis=1).astype(np.float32)


def test_parents_are_the_rarest_objectives_that_hold_all_of_another():
    assert parents_of(np.tile(chained_labels(), (4, 1))) == (None, 0, 1, None)


def test_a_single_exception_and_too_few_positives_make_no_rule():
    labels = np.tile(chained_labels(), (4, 1))
    labels[1, 1] = 1.0  # carted, never viewed
    assert parents_of(labels) == (None, None, 1, None)
    assert (chained_labels()[:, 2] > 0).sum() < MIN_POSITIVES
    assert parents_of(chained_labels())[2] is None


def test_what_is_missing_speaks_neither_for_nor_against_a_rule():
    labels = np.tile(chained_labels(), (4, 1))
    labels[::4, 0] = np.nan  # whoever carted: the view is unknown
    assert parents_of(labels)[1] is None
    labels = np.tile(chained_labels(), (4, 1))
    labels[::8, 0] = np.nan  # of half of them
    assert parents_of(labels)[:2] == (None, 0)


def test_what_a_common_objective_holds_by_chance_is_no_rule():
    rng = np.random.default_rng(0)
    drawn = [parents_of((rng.random((2_000, 2)) < [0.95, 0.0125]).astype(np.float32)) for _ in range(200)]
    assert set(drawn) == {(None, None)}


def test_equal_objectives_do_not_follow_each_other():
    labels = np.repeat(np.tile(chained_labels()[:, :1], (4, 1)), 2, axis=1)
    assert parents_of(labels) == (None, None)


def test_logits_of_a_chain_are_those_of_products():
    logits = torch.tensor([[0.5, -1.0, 2.0, -3.0], [30.0, 30.0, -30.0, 0.0]], dtype=torch.float64)
    view, cart, buy, share = torch.sigmoid(logits).unbind(-1)
    found = torch.sigmoid(chain_logits(logits, (None, 0, 1, None)))
    torch.testing.assert_close(found, torch.stack([view, view * cart, view * cart * buy, share], dim=-1))


def test_a_parent_may_stand_behind_its_child():
    logits = torch.tensor([1.0, -2.0])
    torch.testing.assert_close(chain_logits(logits, (1, None)), chain_logits(logits.flip(0), (None, 0)).flip(0))


def test_without_parents_nothing_changes():
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(chain_logits(logits, (None,) * 4), logits)


@given(one=LOGITS, other=LOGITS)
def test_a_product_is_no_likelier_than_its_factors_and_stays_finite(one, other):
    found = and_logits(torch.tensor(one), torch.tensor(other))
    assert found.isfinite()
    assert found <= min(one, other) + 1e-5


@given(chances=st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4), parents=st.permutations([None, 0, 1, 2]))
def test_nothing_is_likelier_than_what_it_needs_and_the_least_is_kept(chances, parents):
    parents = tuple(None if parent is not None and parent >= place else parent for place, parent in enumerate(parents))
    found = enforce_monotone(torch.tensor(chances), parents).tolist()
    for place, parent in enumerate(parents):
        above = 1.0 if parent is None else found[parent]
        assert found[place] == pytest.approx(min(chances[place], above))


def test_gradients_of_extreme_logits_are_finite():
    logits = torch.tensor([[80.0, 80.0], [-80.0, -80.0], [80.0, -80.0]], requires_grad=True)
    chain_logits(logits, (None, 0)).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(
    ("parents", "text"), [((None, 0, 1, 0), "cart after view, buy after cart, share after view"), ((None,) * 4, "")]
)
def test_the_chain_in_words(parents, text):
    assert describe(NAMES, parents) == text
