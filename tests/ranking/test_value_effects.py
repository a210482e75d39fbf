"""Effects of values: what they recover, what a row of their own estimate may not read."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.features.spec import Column
from recsys.ranking.value_effects import ValueEffects, shares_of

ROWS, FOLDS = 6_000, 4
COLUMNS = (
    Column(name="colour", kind="category", vocabulary=tuple("abcdefgh")),
    Column(name="shop", kind="category", hash_size=300),
    Column(name="tags", kind="categories", vocabulary=tuple("uvwxyz"), slots=3),
)


def module(columns=COLUMNS, labels=1):
    return ValueEffects(columns, num_labels=labels, folds=FOLDS)


@pytest.fixture(scope="module")
def rows():
    """Ids [R, 5], the true logits of each column [R, 3], labels [R, 1]."""
    rng = np.random.default_rng(0)
    ids = np.stack([rng.integers(0, column.num_ids, ROWS) for column in COLUMNS for _ in range(column.slots)], axis=1)
    ids[:, 1] = 2 + np.minimum(rng.zipf(1.3, ROWS), 299)
    truth = [rng.normal(0, 1, column.num_ids) for column in COLUMNS]
    tags = torch.from_numpy(ids[:, 2:])
    of_tags = (truth[2][ids[:, 2:]] * shares_of(tags).numpy()).sum(1)
    logits = np.stack([truth[0][ids[:, 0]], truth[1][ids[:, 1]], of_tags], axis=1)
    labels = rng.random(ROWS) < 1 / (1 + np.exp(1 - logits.sum(1)))
    return torch.from_numpy(ids), logits, torch.from_numpy(labels[:, None].astype(np.float32))


@pytest.fixture(scope="module")
def fitted(rows):
    effects = module()
    effects.fit(rows[0], torch.arange(ROWS), rows[2])
    return effects


def test_planted_effects_are_found(rows, fitted):
    found = fitted.eval()(rows[0]).numpy()
    for column, least in enumerate((0.95, 0.8, 0.95)):  # most shops have a few rows
        assert np.corrcoef(found[:, column], rows[1][:, column])[0, 1] > least


def test_a_value_of_few_rows_is_drawn_towards_nothing():
    """One click of one row, and fifty of fifty: the latter says more, and both say less than their rates."""
    labels = torch.cat([torch.ones(51), torch.tensor([0.0, 1.0]).repeat(500)])
    ids = torch.cat([torch.full((1,), 2), torch.full((50,), 3), torch.full((1_000,), 4)])
    effects = module([Column(name="shop", kind="category", vocabulary=("rare", "often", "usual"))])
    effects.fit(ids[:, None], torch.arange(len(ids)), labels[:, None])
    rare, often, usual = effects.eval()(torch.tensor([[2], [3], [4]])).flatten().tolist()
    assert usual < rare < often
    assert often > 3 * rare


def test_a_row_of_the_estimate_reads_nothing_of_its_fold(rows, fitted):
    """Labels of a fold are turned round; effects of its rows stay, but for the unit, and those of the other folds change."""
    ids, _, labels = rows
    numbers = torch.arange(ROWS)
    own = fitted.fold_of(numbers) == 1
    poisoned = module()
    poisoned.fit(ids, numbers, torch.where(own[:, None], 1 - labels, labels))
    first, second = (one.train()(ids, numbers) for one in (fitted, poisoned))
    units = (first[own] / second[own]).nanmedian(0).values
    torch.testing.assert_close(first[own], second[own] * units, rtol=1e-3, atol=1e-5)
    assert (first[~own] - second[~own] * units).abs().mean() > 0.05


def test_a_constant_label_and_an_unknown_one_have_no_effects(rows):
    ids, _, labels = rows
    effects = module(labels=3)
    effects.fit(
        ids,
        torch.arange(ROWS),
        torch.cat([torch.zeros_like(labels), torch.full_like(labels, torch.nan), labels], dim=1),
    )
    found = effects.eval()(ids).unflatten(-1, (3, 3))
    assert found[..., :2].abs().max() == 0
    assert found[..., 2].std(0).min() > 0.5


def test_rows_of_32_bits_are_in_the_same_folds(rows, fitted):
    numbers = torch.arange(ROWS)
    torch.testing.assert_close(fitted.train()(rows[0].int(), numbers.int()), fitted.train()(rows[0], numbers))


@pytest.mark.parametrize("own", [True, False])
def test_a_column_that_says_nothing_out_of_fold_says_nothing_served(rows, own):
    """An id of every row, and one of every item whose requests are all in its fold; the column beside it keeps its effects."""
    _, _, labels = rows
    items = torch.arange(ROWS) if own else torch.arange(ROWS) % 200
    table = torch.stack([2 + torch.arange(ROWS), 2 + torch.arange(ROWS) % 7], dim=1)
    columns = [Column(name="id", kind="category", hash_size=ROWS), Column(name="week", kind="category", hash_size=7)]
    effects = module(columns)
    effects.fit(table, items, labels * (items[:, None] % 7 < 3))
    served = effects.eval()(table[items])
    assert served[:, 0].abs().max() == 0
    assert served.abs().max() < 10
    assert served[:, 1].std() > 0.5


def test_rows_of_weight_0_are_as_if_they_were_not_there(rows):
    ids, _, labels = rows
    half, numbers = torch.arange(ROWS) < ROWS / 2, torch.arange(ROWS)
    weighed, alone = module(), module()
    weighed.fit(ids, numbers, torch.where(half[:, None], labels, 1 - labels), half.float())
    alone.fit(ids, numbers[half], labels[half])
    first, second = weighed.eval()(ids), alone.eval()(ids)
    for column in range(3):
        assert np.corrcoef(first[:, column], second[:, column])[0, 1] > 0.999


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 7), min_size=3, max_size=3), st.permutations(range(3)))
def test_the_order_of_several_values_is_nothing_to_the_served_effect(fitted, tags, order):
    served = fitted.eval()
    rows = torch.tensor([[2, 2, *tags], [2, 2, *(tags[at] for at in order)]])
    first, second = served(rows)
    torch.testing.assert_close(first, second)
    mean = torch.stack([served(torch.tensor([[2, 2, tag, 0, 0]]))[0] for tag in tags if tag] or [first]).mean(0)
    torch.testing.assert_close(first, mean, rtol=1e-4, atol=1e-5)
