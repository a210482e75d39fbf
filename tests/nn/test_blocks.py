"""Laws of the blocks: causality, padding that says nothing, and dropout of ids in training only.

Shapes: B batch, L history, D dim, I id slots.
"""

import pytest
import torch

from recsys.features.spec import MISSING, UNKNOWN, Column, TableSpec
from recsys.nn.blocks import HistoryEncoder, RelativePositionBias, TableEncoder, causal_mask
from recsys.retrieval.transformer import CausalBlock

L, D = 6, 8
TABLE = TableSpec(
    name="items",
    columns=(
        Column(name="item", kind="category", vocabulary=tuple("abcdef")),
        Column(name="tags", kind="categories", vocabulary=("x", "y"), slots=3),
        Column(name="price", kind="number"),
        Column(name="text", kind="vector", slots=2),
    ),
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def block():
    block = CausalBlock(dim=D, num_heads=2, length=L, dropout=0.5).eval()
    torch.nn.init.normal_(block.position_bias.weight)
    return block


def rows(ids, **parts):
    shape = torch.tensor(ids).shape[:-1]
    zeros = {"numbers": torch.zeros(*shape, 2), "vectors": torch.zeros(*shape, 2)}
    return {"item_ids": torch.tensor(ids), **{f"item_{name}": part for name, part in {**zeros, **parts}.items()}}


@torch.no_grad()
@pytest.mark.parametrize("changed", range(L + 1))
def test_a_changed_event_leaves_everything_before_bit_identical(block, changed):
    x, mask = torch.randn(3, L + 1, D), causal_mask(torch.ones(3, L, dtype=torch.bool))
    other = x.clone()
    other[:, changed] += torch.randn(D)
    before, after = block(x, mask), block(other, mask)
    assert torch.equal(before[:, :changed], after[:, :changed])
    assert not torch.isclose(before[:, changed:], after[:, changed:]).all(-1).any(), "and reaches everything after"


@torch.no_grad()
def test_the_content_of_padding_never_reaches_an_event(block):
    present = torch.tensor([[False] * 4 + [True] * 2, [True] * 6, [False] * 6])
    x, mask = torch.randn(3, L + 1, D), causal_mask(present)
    other = x.clone()
    other[:, 1:][~present] = 1e6
    kept = torch.cat([torch.ones(3, 1, dtype=torch.bool), present], dim=1)
    assert torch.equal(block(x, mask)[kept], block(other, mask)[kept])
    assert block(x, mask).isfinite().all()


def test_the_mask_is_causal_and_never_empty():
    mask = causal_mask(torch.tensor([[False, True]]))
    assert mask.tolist() == [[[[True, False, False], [True, False, False], [True, False, True]]]]


@torch.no_grad()
def test_the_bias_of_a_distance_known_answer():
    position_bias = RelativePositionBias(num_heads=1, length=3)
    position_bias.weight.copy_(torch.tensor([[10.0, 11.0, 12.0, 99.0]]))
    bias = position_bias(4)[0].tril()
    assert bias.tolist() == [[99, 0, 0, 0], [99, 10, 0, 0], [99, 11, 10, 0], [99, 12, 11, 10]]


@torch.no_grad()
def test_absent_values_add_nothing_and_a_list_is_the_mean_of_what_is_there():
    encoder = TableEncoder(TABLE, dim=D, id_column="item").eval()
    batch = rows([[2, 2, 3, 0], [2, 3, 2, 0], [2, 2, 2, 0], [2, 2, 0, 0]])
    both, swapped, twice, once = encoder(batch, "item")
    torch.testing.assert_close(both, swapped)
    torch.testing.assert_close(twice, once)
    assert not torch.allclose(both, once)
    assert all(not embedding.weight[MISSING].any() for embedding in encoder.embeddings)


@torch.no_grad()
@pytest.mark.parametrize("ids", [[[MISSING] * 4], [[UNKNOWN] * 4]])
def test_a_row_of_nothing_or_of_strangers_is_finite(ids):
    encoder = TableEncoder(TABLE, dim=D, id_column="item").eval()
    assert encoder(rows(ids), "item").isfinite().all()


@torch.no_grad()
def test_an_absent_part_is_no_part():
    alone = TableEncoder(TableSpec(name="items", columns=TABLE.columns[:1]), dim=D, id_column="item").eval()
    assert (alone.numbers, alone.vectors) == (None, None)
    assert alone({"item_ids": torch.tensor([[2], [3]])}, "item").shape == (2, D)


def test_ids_are_dropped_in_training_only_and_content_never():
    encoder = TableEncoder(TABLE, dim=D, id_column="item", id_dropout=0.5)
    batch = rows([[2, 2, 3, 0]] * 400)
    seen = encoder.train()(batch, "item").unique(dim=0)
    assert len(seen) == 2, "with and without the id, nothing else"
    encoder.eval()
    kept = encoder(batch, "item").unique(dim=0)
    unknown = encoder(rows([[UNKNOWN, 2, 3, 0]]), "item")
    assert len(kept) == 1
    torch.testing.assert_close(seen[(seen - kept).abs().sum(1).argmax()], unknown[0])


@torch.no_grad()
def test_an_id_without_content_beside_it_is_never_dropped():
    alone = TableEncoder(TableSpec(name="items", columns=TABLE.columns[:1]), dim=D, id_column="item", id_dropout=0.9)
    seen = alone.train()({"item_ids": torch.full((400, 1), 2)}, "item").unique(dim=0)
    assert len(seen) == 1


def test_the_share_of_dropped_ids_is_as_asked_and_padding_stays_padding():
    encoder = TableEncoder(TABLE, dim=D, id_column="item", id_dropout=0.3).train()
    dropped = encoder._drop(torch.full((20_000, 1), 4))
    assert set(dropped.unique().tolist()) == {UNKNOWN, 4}
    assert float((dropped == UNKNOWN).float().mean()) == pytest.approx(0.3, abs=0.02)
    assert not encoder._drop(torch.full((100, 1), MISSING)).any()


def test_padding_is_never_trained():
    encoder = TableEncoder(TABLE, dim=D, id_column="item").train()
    encoder(rows([[MISSING, MISSING, 2, 0]]), "item").square().sum().backward()
    for embedding in encoder.embeddings:
        assert not embedding.weight.grad[MISSING].any()


@torch.no_grad()
def test_an_event_is_its_item_its_labels_and_its_gap():
    encoder = HistoryEncoder(dim=D, num_objectives=2).eval()
    items, labels, gaps = torch.randn(2, L, D), torch.rand(2, L, 2), torch.rand(2, L) * 15
    tokens = encoder(items, labels, gaps)
    assert tokens.shape == (2, L, D)
    torch.testing.assert_close(encoder(items + 1, labels, gaps), tokens + 1)
    for other in (encoder(items, 1 - labels, gaps), encoder(items, labels, gaps + 1)):
        assert not torch.isclose(other, tokens).all(-1).any()


@torch.no_grad()
def test_no_rows_at_all_are_encoded_too():
    """A batch of strangers has histories without a place."""
    encoder = TableEncoder(TABLE, dim=D, id_column="item", id_dropout=0.0).eval()
    rows = {name: torch.zeros((2, 0, width)) for name, width in TABLE.widths.items()}
    rows["ids"] = rows["ids"].long()
    assert encoder({f"item_{name}": one for name, one in rows.items()}, "item").shape == (2, 0, D)


@torch.no_grad()
def test_a_batch_without_any_event_looks_at_the_start_token_alone(block):
    mask = causal_mask(torch.ones(3, 0, dtype=torch.bool))
    assert mask.tolist() == [[[[True]]]] * 3
    padded = torch.randn(3, L + 1, D)
    alone = block(padded[:, :1], mask)
    assert torch.allclose(alone[:, 0], block(padded, causal_mask(torch.zeros(3, L, dtype=torch.bool)))[:, 0], atol=1e-6)
