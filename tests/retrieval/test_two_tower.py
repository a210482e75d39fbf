"""Laws of the two towers on real queries.

Shapes: B batch, L history, P = L + 1 positions, D dim.
"""

from functools import partial

import numpy as np
import pytest
import torch

from recsys.content.text import TextVectors
from recsys.contracts import Event, Query
from recsys.data.sources.synthetic import Synthetic
from recsys.data.splits import TEST, GlobalTime
from recsys.features.batches import ItemBatch
from recsys.features.encode import encode_queries
from recsys.features.spec import Features
from recsys.retrieval.transformer import TransformerEncoder
from recsys.retrieval.two_tower import TowerEnsemble, TwoTower
from recsys.training.prepare import prepare

D, L = 8, 6


def encoder(num_blocks, num_heads):
    return partial(TransformerEncoder, num_blocks=num_blocks, num_heads=num_heads)


@pytest.fixture(scope="module")
def prepared():
    dataset = Synthetic(users=40, items=30, events=1_500, seed=0).load()
    split = GlobalTime(rank=0.2, validation=0.1, test=0.2, cuts=1, later=0.0, horizon_days=None).splits(dataset)[-1]
    features = Features(history_length=L, max_values=3, min_count=2, leave_out=["position"])
    return prepare(dataset, split, features, TextVectors(dim=4, min_documents=1, seed=0))


@pytest.fixture(scope="module")
def fitted(prepared):
    return prepared.spec(prepared.split.known(TEST))


@pytest.fixture(scope="module")
def towers(fitted):
    torch.manual_seed(0)
    towers = TwoTower(spec=fitted[0], dim=D, dropout=0.5, id_dropout=0.5, user_encoder=encoder(2, 2)).eval()
    for block in towers.user_encoder.blocks:
        torch.nn.init.normal_(block.position_bias.weight)
    return towers.requires_grad_(False)


@pytest.fixture(scope="module")
def request_tensors(prepared, fitted):
    """Sixteen logged queries, a stranger and one who only met what nobody knows."""
    unknown = Event(user="x", item="never heard of", timestamp=1.0, actions={"click": 1.0})
    odd = [
        Query(user="stranger", now=0.0),
        Query(user="x", now=2.0, history=(unknown,), profile={"segment": "none such"}, context={"device": "?"}),
    ]
    rows = np.random.default_rng(0).integers(0, len(prepared.replay.items), 16)
    request, _ = encode_queries(*fitted, [*prepared.replay.queries(rows, k=1), *odd])
    return {name: torch.from_numpy(array) for name, array in request.tensors().items()}


def histories(towers, batch):
    present = batch["history_ids"][..., 0] > 0
    items = towers.item_encoder(batch, "history")
    return towers.histories(items, present, batch["history_labels"], batch["history_gaps"])


def item_tensors(items, rows):
    return {name: torch.from_numpy(part) for name, part in ItemBatch(items=items.at(rows)).tensors().items()}


def test_users_and_items_are_finite_unit_vectors(fitted, towers, request_tensors):
    users = towers.users(request_tensors)
    items = towers.items(item_tensors(fitted[1], np.arange(len(fitted[1]))))
    for vectors in (users, items):
        torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(len(vectors)), rtol=0, atol=1e-5)
    assert (users.shape, items.shape) == ((18, D), (len(fitted[1]), D))


def test_serving_reads_the_last_of_the_positions_that_training_reads_and_of_none_the_start(towers, request_tensors):
    every, empty = histories(towers, request_tensors), (request_tensors["history_ids"] == 0).all(-1).all(-1)
    assert every.shape == (18, L + 1, D)
    assert 2 <= empty.sum() < 18
    newest = torch.where(empty[:, None], every[:, 0], every[:, -1])
    assert torch.equal(towers.users(request_tensors), towers.head(newest, request_tensors))
    assert not torch.equal(every[empty, 0], every[empty, -1])


def test_every_position_knows_only_what_came_before(towers, request_tensors):
    before = histories(towers, request_tensors)
    for place in range(L):
        other = dict(request_tensors)
        for name in ("history_labels", "history_gaps"):
            other[name] = request_tensors[name].clone()
            other[name][:, place] += 1
        after = histories(towers, other)
        assert torch.equal(before[:, : place + 1], after[:, : place + 1])
        assert not torch.equal(before[:, place + 1 :], after[:, place + 1 :])


def test_an_event_is_read_alike_wherever_the_window_begins(towers, request_tensors):
    """Positions are relative: the same two events give the same state with padding before or after them."""
    long = request_tensors["history_ids"][:, -2, 0] > 0
    late = {name: part[long].clone() for name, part in request_tensors.items()}
    early = {name: part.clone() for name, part in late.items()}
    for name in (name for name in late if name.startswith("history_")):
        late[name][:, :-2], early[name][:, 2:] = 0, 0
        early[name][:, :2] = late[name][:, -2:]
    assert long.any()
    torch.testing.assert_close(histories(towers, late)[:, -1], histories(towers, early)[:, 2], rtol=0, atol=1e-6)


def test_the_company_in_a_batch_does_not_change_a_vector(towers, request_tensors):
    together = towers.users(request_tensors)
    alone = [towers.users({name: part[row : row + 1] for name, part in request_tensors.items()}) for row in range(18)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-6)
    order = torch.randperm(18, generator=torch.Generator().manual_seed(0))
    shuffled = towers.users({name: part[order] for name, part in request_tensors.items()})
    torch.testing.assert_close(together[order], shuffled, rtol=0, atol=1e-6)


def test_an_item_is_the_same_alone_and_in_the_catalogue(fitted, towers):
    every = towers.items(item_tensors(fitted[1], np.arange(len(fitted[1]))))
    alone = [towers.items(item_tensors(fitted[1], np.array([row]))) for row in range(len(fitted[1]))]
    torch.testing.assert_close(every, torch.cat(alone), rtol=0, atol=1e-6)


def test_time_device_profile_and_history_all_reach_the_vector(towers, request_tensors):
    before = towers.users(request_tensors)
    for name in ("context_numbers", "context_ids", "profile_numbers", "profile_ids", "history_labels"):
        part = request_tensors[name]
        changed = torch.where(part == 2, 3, 2) if part.dtype == torch.long else part + 1
        assert not torch.allclose(towers.users({**request_tensors, name: changed}), before), name


def test_a_user_without_profile_columns_needs_none(prepared):
    dataset = prepared.dataset
    features = Features(history_length=L, max_values=3, min_count=2, leave_out=["position", "age", "segment"])
    plain = prepare(dataset, prepared.split, features, TextVectors(dim=4, min_documents=1, seed=0))
    spec, items = plain.spec(plain.split.known(TEST))
    towers = TwoTower(spec=spec, dim=D, dropout=0.0, id_dropout=0.0, user_encoder=encoder(0, 1)).eval()
    request, _ = encode_queries(spec, items, prepared.replay.queries([5, 1_400], k=1))
    arrays = request.tensors()
    assert not [name for name in arrays if name.startswith("profile")]
    with torch.no_grad():
        assert towers.users({name: torch.from_numpy(part) for name, part in arrays.items()}).isfinite().all()


def test_the_cosine_of_an_ensemble_is_the_mean_of_its_members(fitted, request_tensors, towers):
    spec, items = fitted
    torch.manual_seed(5)
    other = TwoTower(spec=spec, dim=2 * D, dropout=0.0, id_dropout=0.0, user_encoder=encoder(1, 1)).eval()
    catalogue = item_tensors(items, np.arange(len(items)))
    with torch.no_grad():
        cosines = [one.users(request_tensors) @ one.items(catalogue).T for one in (towers, other)]
        both = TowerEnsemble([towers, other])
        torch.testing.assert_close(both.users(request_tensors) @ both.items(catalogue).T, sum(cosines) / 2)
