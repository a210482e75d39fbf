"""Users with several vectors: the encoder and the routing of targets against loops, ensembles, scores, searches.

Shapes: M positions, N items, D dim, K interests, T targets.
"""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from recsys.candidates.candidate_source import SourceQuery
from recsys.candidates.two_tower_source import TwoTowerSource
from recsys.contracts import PAD
from recsys.errors import ConfigError
from recsys.features.spec import Column, FeatureSpec, TableSpec
from recsys.index import ExactIndex, PatchedIndex
from recsys.index.faiss_index import IndexBuilder
from recsys.retrieval.interests import best_cosines, nearest_interests
from recsys.retrieval.mean_history import MeanHistoryEncoder
from recsys.retrieval.multi_interest import MultiInterestEncoder
from recsys.retrieval.sampled_losses import BPRLoss
from recsys.retrieval.softmax import SoftmaxLoss
from recsys.retrieval.two_tower import TowerEnsemble, TwoTower
from recsys.training.optimizers import DEFAULT_OPTIMIZER
from recsys.training.retrieval import RetrievalTrainerConfig
from recsys.training.schedules import DEFAULT_SCHEDULE

L, D, K = 5, 8, 3
NOTHING = TableSpec(name="none", columns=())
SPEC = FeatureSpec(
    items=TableSpec(
        name="items", columns=(Column(name="item", kind="category", vocabulary=tuple(map(str, range(20)))),)
    ),
    profile=NOTHING,
    context=NOTHING,
    history_length=L,
    actions=("click",),
    objectives={"click": "click"},
    target="click",
)


def encoder(interests=K):
    torch.manual_seed(0)
    built = MultiInterestEncoder(dim=D, length=L, dropout=0.5, interests=interests, attention_dim=6)
    nn.init.normal_(built.position_bias.weight)
    return built.eval().requires_grad_(False)


def test_each_interest_is_a_mean_of_the_events_so_far_under_weights_of_its_own():
    """A loop over positions, interests and events; the second history has two events behind padding."""
    built, tokens = encoder(), torch.randn(2, L + 1, D, generator=torch.Generator().manual_seed(1))
    present = torch.tensor([[True] * L, [False] * 3 + [True] * 2])
    found = built(tokens, present, torch.zeros(2, L)).unflatten(-1, (K, D))
    first, second = built.weigh[0].weight, built.weigh[2].weight
    for row in range(2):
        here = [True, *present[row].tolist()]
        for position in (p for p in range(L + 1) if here[p]):
            events = [j for j in range(position + 1) if here[j]]
            for k in range(K):
                scores = []
                for j in events:
                    score = second[k] @ torch.tanh(first @ tokens[row, j])
                    scores.append(score + built.position_bias.weight[k, position - j if j else L])
                shares = torch.stack(scores).softmax(0)
                mean = sum(share * tokens[row, j] for share, j in zip(shares, events, strict=True))
                torch.testing.assert_close(found[row, position, k], built.norm(mean), rtol=1e-4, atol=1e-5)


def drawn(seed, positions, num_items, interests, num_targets):
    random = torch.Generator().manual_seed(seed)
    users = F.normalize(torch.randn(positions, interests, D, generator=random), dim=-1)
    items = F.normalize(torch.randn(num_items, D, generator=random), dim=-1)
    targets = torch.randint(num_items, (positions, num_targets), generator=random)
    weights = torch.rand(positions, num_targets, generator=random) * (
        torch.rand(positions, num_targets, generator=random) > 0.3
    )
    return users, items, targets, weights


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31), positions=st.integers(1, 6), interests=st.integers(2, 4), num_targets=st.integers(1, 3)
)
def test_a_target_goes_to_its_nearest_interest_with_its_weight(seed, positions, interests, num_targets):
    users, items, targets, weights = drawn(seed, positions, 9, interests, num_targets)
    expected = {}
    for m in range(positions):
        for t in range(num_targets):
            nearest = max(range(interests), key=lambda k: float(users[m, k] @ items[targets[m, t]]))
            expected.setdefault((m, nearest), [0.0] * num_targets)[t] = float(weights[m, t])
    expected = {pair: own for pair, own in expected.items() if any(own)}
    vectors, own_targets, own_weights = nearest_interests(users.flatten(1), items, targets, weights)
    assert len(vectors) == len(expected)
    for row, (m, k) in enumerate(sorted(expected)):
        assert torch.equal(vectors[row], users[m, k])
        assert torch.equal(own_targets[row], targets[m])
        assert own_weights[row].tolist() == expected[m, k]


@pytest.mark.parametrize("loss", [SoftmaxLoss(temperature=0.2), BPRLoss(temperature=0.2)])
def test_a_loss_reads_the_nearest_interest_of_each_target_and_moves_no_other(loss):
    users, items, targets, weights = drawn(3, 6, 9, K, 1)
    leaf = users.flatten(1).requires_grad_()
    found = loss(*(lambda v, t, w: (v, items, t, w, None))(*nearest_interests(leaf, items, targets, weights)))
    found.backward()
    nearest = torch.stack([users[m, (users[m] @ items[targets[m, 0]]).argmax()] for m in range(6)])
    torch.testing.assert_close(found.detach(), loss(nearest, items, targets, weights, None))
    moved = leaf.grad.unflatten(-1, (K, D)).abs().sum(-1) > 0
    assert (moved.sum(1) == (weights[:, 0] > 0)).all()


def test_one_interest_is_left_as_it_is():
    users, items, targets, weights = drawn(0, 4, 9, 1, 2)
    for found, given_ in zip(
        nearest_interests(users[:, 0], items, targets, weights), (users[:, 0], targets, weights), strict=True
    ):
        assert found is given_ or torch.equal(found, given_)
    torch.testing.assert_close(best_cosines(users[:, 0], items), users[:, 0] @ items.T)


def towers(seed, factory):
    torch.manual_seed(seed)
    return TwoTower(spec=SPEC, dim=D, dropout=0.0, id_dropout=0.0, user_encoder=factory).eval().requires_grad_(False)


@pytest.mark.parametrize("members", [1, 2, 3])
def test_the_score_of_an_ensemble_is_the_mean_of_its_members_largest_cosines(members):
    factory = partial(MultiInterestEncoder, interests=2, attention_dim=4)
    ensemble = TowerEnsemble([towers(seed, factory) for seed in range(members)])
    random = torch.Generator().manual_seed(1)
    ids = torch.randint(2, 22, (4, L, 1), generator=random)
    ids[1, :3] = 0
    request = {"history_ids": ids, "history_labels": torch.ones(4, L, 1), "history_gaps": torch.rand(4, L)}
    items = {"item_ids": torch.arange(2, 22).unsqueeze(-1)}
    found = best_cosines(ensemble.users(request), ensemble.items(items))
    expected = torch.zeros(4, 20)
    for member in ensemble.members:
        interests = member.users(request).view(4, 2, D)
        expected += (interests @ member.items(items).T).max(1).values / members
    torch.testing.assert_close(found, expected)
    assert ensemble.users(request).shape == (4, 2**members * members * D)


@pytest.mark.parametrize("factory", [MeanHistoryEncoder, partial(MultiInterestEncoder, interests=1, attention_dim=4)])
def test_with_one_interest_a_member_alone_is_the_ensemble(factory):
    one = towers(0, factory)
    request = {
        "history_ids": torch.full((1, L, 1), 3),
        "history_labels": torch.ones(1, L, 1),
        "history_gaps": torch.zeros(1, L),
    }
    assert torch.equal(TowerEnsemble([one]).users(request), one.users(request))


def searched(index, vectors, k):
    queries = SourceQuery(vectors=vectors, history=np.full((len(vectors), 0), PAD))
    return TwoTowerSource(index=index).scores_for(queries)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), interests=st.integers(1, 4), num_items=st.integers(1, 30), k=st.integers(1, 12))
def test_served_candidates_are_those_of_the_largest_inner_product(seed, interests, num_items, k):
    """Against all pairs, also where interests and items are equal; every row once, ties by the lower row."""
    random = np.random.default_rng(seed)
    items = random.integers(-1, 2, (num_items, 2)).astype(np.float32)  # small integers: many ties, exact products
    users = random.integers(-1, 2, (5, interests, 2)).astype(np.float32)
    index = ExactIndex(items)
    index.remove(removed := np.flatnonzero(random.random(num_items) < 0.2))
    scores = searched(index, users.reshape(5, -1), k)
    best = (users @ items.T).max(1)
    found = scores.top_k(k)
    for row, own in enumerate(best):
        order = [item for item in np.lexsort((np.arange(num_items), -own)) if item not in removed][:k]
        assert found[row][found[row] != PAD].tolist() == order
        assert (found[row][len(order) :] == PAD).all()
    query, item = (part.ravel() for part in np.indices((5, num_items)))
    assert scores.score(query, item).tolist() == best.ravel().tolist()
    some = scores.select(np.array([1, 3]))
    assert some.top_k(k).tolist() == found[[1, 3]].tolist()


def test_every_index_says_the_length_of_its_vectors():
    vectors = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)
    flat, _ = IndexBuilder(factory="Flat", nprobe=1, ef_search=16, k_factor=1.0, min_recall=0.0, recall_at=5).build(
        vectors
    )
    patched = PatchedIndex(flat, np.array([3]), vectors[:1], np.array([], dtype=np.int64))
    assert {ExactIndex(vectors).dim, flat.dim, patched.dim} == {6}
    users = np.random.default_rng(1).normal(size=(4, 12)).astype(np.float32)
    np.testing.assert_array_equal(searched(flat, users, 7).top_k(7), searched(ExactIndex(vectors), users, 7).top_k(7))


def config(**changed):
    return RetrievalTrainerConfig(
        dim=D,
        dropout=0.1,
        id_dropout=0.1,
        user_encoder=partial(MultiInterestEncoder, interests=4, attention_dim=4),
        loss=SoftmaxLoss(temperature=0.3),
        negatives=0,
        lookahead=2,
        lookahead_decay=1.0,
        half_life_days=None,
        least_steps=1,
        batch_size=64,
        epochs=1,
        most_examples=None,
        patience=1,
        learning_rate=0.01,
        weight_decay=0.0,
        optimizer=DEFAULT_OPTIMIZER,
        scheduler=DEFAULT_SCHEDULE,
        **changed,
    )


def test_more_searches_than_a_request_can_bear_are_refused_before_the_data_are_read():
    assert config(members=3).members == 3
    with pytest.raises(ConfigError, match=r"retrieval\.members 4 with 4 interests each search the index 256 times"):
        config(members=4)
