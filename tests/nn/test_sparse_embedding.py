"""Large tables move the rows that a step met, as row-wise Adagrad written out does, and no others."""

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from recsys.features.spec import Column, TableSpec
from recsys.nn import sparse_embedding
from recsys.nn.blocks import TableEncoder
from recsys.nn.sparse_embedding import RowWiseAdagradEmbedding, dense_parameters, sparse_tables

NUM, DIM, RATE = 12, 4, 0.1
STEPS = ([[1, 3], [3, 5]], [[3, 0], [7, 7]], [[1, 1], [1, 2]])


def table():
    torch.manual_seed(0)
    made = RowWiseAdagradEmbedding(NUM, DIM, padding_idx=0)
    made.learning_rate = RATE
    return made


def loss_of(embedded, seed):
    weights = torch.randn(embedded.shape, generator=torch.Generator().manual_seed(seed))
    return (embedded * weights).sum() + (embedded**2).sum()


def test_rows_move_as_row_wise_adagrad_written_out():
    own = table()
    expected, squares = own.weight.detach().clone(), np.zeros(NUM)
    for seed, ids in enumerate(STEPS):
        twin = expected.clone().requires_grad_()
        loss_of(F.embedding(torch.tensor(ids), twin), seed).backward()
        for row in {row for pair in ids for row in pair} - {0}:
            gradient = twin.grad[row].numpy()
            squares[row] += (gradient.astype(np.float64) ** 2).mean()
            expected[row] -= torch.from_numpy(RATE * gradient / np.sqrt(squares[row])).float()
        loss_of(own(torch.tensor(ids)), seed).backward()
        assert own.weight.grad is None
    torch.testing.assert_close(own.weight.detach(), expected)
    np.testing.assert_allclose(own.squares.numpy(), squares, rtol=1e-5)


def test_rows_that_no_step_met_and_padding_stay():
    own = table()
    before = own.weight.detach().clone()
    loss_of(own(torch.tensor([[0, 2]])), 0).backward()
    moved = (own.weight.detach() != before).any(1)
    assert moved.nonzero().flatten().tolist() == [2]


def test_a_copy_moves_its_own_rows():
    own = table()
    other = copy.deepcopy(own)
    loss_of(other(torch.tensor([[1, 2]])), 0).backward()
    assert other.weight.grad is None
    assert (other.weight.detach() != own.weight.detach()).any(1).nonzero().flatten().tolist() == [1, 2]
    assert other.squares.any()
    assert not own.squares.any()


def test_no_optimiser_sees_them():
    model = torch.nn.ModuleList([table(), torch.nn.Linear(3, 2)])
    assert {tuple(one.shape) for one in dense_parameters(model)} == {(2, 3), (2,)}
    assert list(sparse_tables(model)) == [model[0]]


@pytest.mark.parametrize("kind", ["category", "categories"])
def test_a_table_with_many_values_is_one_and_is_summed_like_a_small_one(monkeypatch, kind):
    columns = (Column(name="a", kind=kind, vocabulary=tuple("bcdefgh"), slots=1 if kind == "category" else 3),)
    batch = {"item_ids": torch.tensor([[2, 0, 4]])[:, : columns[0].slots]}
    found = []
    for start in (1_000, 5):
        monkeypatch.setattr(sparse_embedding, "SPARSE_THRESHOLD_ROWS", start)
        torch.manual_seed(0)
        encoder = TableEncoder(TableSpec(name="items", columns=columns), dim=DIM)
        found.append(encoder(batch, "item"))
        assert len(list(sparse_tables(encoder))) == (start == 5)
    torch.testing.assert_close(*found)
    before = encoder.embeddings[0].weight.detach().clone()
    encoder.embeddings[0].learning_rate = RATE
    found[1].sum().backward()
    found_rows = (encoder.embeddings[0].weight.detach() != before).any(1).nonzero().flatten().tolist()
    assert set(found_rows) <= {2, 4}
