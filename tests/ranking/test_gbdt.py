"""Boosted trees as a ranker: what they read, what they learn, and what is said without LightGBM.

Shapes: B requests, L history, C candidates, T objectives.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.contracts import PAD
from recsys.errors import ConfigError
from recsys.features.spec import Column, FeatureSpec, TableSpec
from recsys.ranking.gbdt import GBDTRanker
from recsys.ranking.model import RankerInputs, RankerSizes

ROOT = Path(__file__).parents[2]
B, L, C, KEYS = 150, 3, 6, {"rounds": 40, "leaves": 8, "learning_rate": 0.2, "min_rows": 5, "patience": 10}
CATEGORIES = tuple("abcdefgh")
SIZES = {"dim": 2, "num_heads": 1, "cross_rank": 1, "num_cross_layers": 0, "num_experts": 1, "expert_dim": 2}
SPEC = FeatureSpec(
    items=TableSpec(
        name="items",
        columns=(
            Column(name="item", kind="category", vocabulary=CATEGORIES),
            Column(name="price", kind="number"),
            Column(name="text", kind="vector", slots=2),
        ),
    ),
    profile=TableSpec(name="profile", columns=(Column(name="land", kind="category", vocabulary=("x", "y")),)),
    context=TableSpec(name="context", columns=(Column(name="hour", kind="number"),)),
    history_length=L,
    actions=("click", "buy"),
    objectives={"click": "click", "buy": "buy"},
    target="click",
)


def ranker(parents=(None, None), num_positions=0, **changed):
    inputs = RankerInputs(spec=SPEC, num_scores=1, num_positions=num_positions, parents=parents)
    sizes = RankerSizes(**SIZES, dropout=0.0, id_dropout=0.0, feature_dropout=0.0)
    return GBDTRanker(inputs=inputs, sizes=sizes, **{**KEYS, **changed})


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


def batch_of(seed, chance):
    """Requests with random features; chance(batch as numpy) [B, C, T] of the labels. The last candidate is padding."""
    random = np.random.default_rng(seed)

    def numbers(*shape):
        return random.normal(size=shape).astype(np.float32)

    batch = {
        "history_ids": random.integers(2, 10, (B, L, 1)),
        "history_numbers": numbers(B, L, 2),
        "history_vectors": numbers(B, L, 2),
        "history_labels": np.ones((B, L, 2), np.float32),
        "history_gaps": random.uniform(0, 10, (B, L)).astype(np.float32),
        "profile_ids": random.integers(0, 4, (B, 1)),
        "context_numbers": numbers(B, 2),
        "candidate_ids": random.integers(2, 10, (B, C, 1)),
        "candidate_numbers": numbers(B, C, 2),
        "candidate_vectors": numbers(B, C, 2),
        "candidate_scores": numbers(B, C, 1),
        "candidate_rows": np.zeros((B, C), np.int64),
    }
    batch["candidate_rows"][:, -1] = PAD
    chances = chance(batch)
    batch["labels"] = (random.random(chances.shape) < chances).astype(np.float32)
    return {name: torch.from_numpy(part) for name, part in batch.items()}, chances


def fitted(chance, *, changed=lambda batch: batch, rounds=None, **options):
    """The ranker, a later batch and its chances."""
    (train, _), (valid, _), later = (batch_of(seed, chance) for seed in range(3))
    built = ranker(**options)
    built.kept = built.fit([changed(train)], [changed(valid)], rounds=rounds, seed=0)
    return built, *later


def explained(built, batch, chances, objective=0):
    with torch.no_grad():
        made = built(batch)[:, :-1, objective].numpy()
    true = chances[:, :-1, objective]
    return np.corrcoef(made.ravel(), np.log(true / (1 - true)).ravel())[0, 1]


def of(*logits):
    return np.stack([sigmoid(np.clip(one, -6, 6)) for one in logits], axis=-1)


def price(batch):
    return of(3 * batch["candidate_numbers"][..., 0], batch["candidate_scores"][..., 0] * 3)


def interest(batch):
    """A candidate that the history holds is clicked; the second objective differs by the profile."""
    same = (batch["candidate_ids"][:, :, None, 0] == batch["history_ids"][:, None, :, 0]).any(-1)
    land = np.broadcast_to(batch["profile_ids"] == 2, same.shape)
    return of(4.0 * same - 2, 4.0 * land - 2)


def context(batch):
    """The product of a number of the context with one of the candidate; content near the history's."""
    moment = batch["context_numbers"][:, None, 0] * batch["candidate_numbers"][..., 0]
    cosines = np.einsum("bcv,blv->bcl", *(_unit(batch[f"{name}_vectors"]) for name in ("candidate", "history")))
    return of(4 * moment, 6 * cosines.max(-1) - 4)


def _unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.mark.parametrize(("chance", "least"), [(price, 0.8), (interest, 0.75), (context, 0.5)])
def test_trees_read_what_labels_depend_on(chance, least):
    built, batch, chances = fitted(chance)
    assert 1 <= built.kept <= KEYS["rounds"]
    for objective in range(2):
        assert explained(built, batch, chances, objective) > least, objective


def test_labels_that_are_missing_masked_or_without_weight_teach_nothing():
    """They are all wrong: whatever counted would show."""

    def spoiled(batch):
        random = torch.Generator().manual_seed(0)
        missing, light = torch.rand(2, B, C, generator=random) < 0.3
        labels = torch.where(missing.unsqueeze(-1), torch.nan, batch["labels"])
        labels[:, -1] = 1 - labels[:, -1]
        labels = torch.where((light & ~missing).unsqueeze(-1), 1 - batch["labels"], labels)
        return {**batch, "labels": labels, "candidate_weights": (~light).float()}

    built, batch, chances = fitted(price, changed=spoiled)
    assert explained(built, batch, chances) > 0.75


def test_an_objective_with_a_parent_is_learnt_where_the_parent_was_reached():
    """Half of what is clicked is bought, whatever it is; a purchase without a click does not occur."""

    def bought(batch):
        return {**batch, "labels": batch["labels"] * batch["labels"][..., :1]}

    def chance(batch):
        return np.stack([price(batch)[..., 0], np.full((B, C), 0.5)], axis=-1)

    built, batch, _ = fitted(chance, parents=(None, 0), changed=bought)
    with torch.no_grad():
        own = built.last_layer(batch, built.request(batch)).logits[:, :-1].sigmoid()
        chained = built(batch)[:, :-1].sigmoid()
    assert own[..., 1].mean() == pytest.approx(0.5, abs=0.05)
    assert own[..., 1].std() < 0.2
    torch.testing.assert_close(chained[..., 1], own[..., 0] * own[..., 1])


def test_the_position_of_a_logged_slate_is_learnt_and_the_first_one_is_served():
    """Logged slates have no retrieval scores."""
    positions = torch.arange(C).expand(B, C)

    def unscored(batch):
        return {**batch, "candidate_scores": batch["candidate_scores"][..., :0]}

    def placed(batch):
        return {**unscored(batch), "candidate_positions": positions}

    built, batch, _ = fitted(
        lambda batch: of(*[np.broadcast_to(3.0 - 2 * np.arange(C), (B, C))] * 2), changed=placed, num_positions=4
    )
    with torch.no_grad():
        logged, served = built(placed(batch)), built(unscored(batch))
    assert (logged[:, 0] - logged[:, 3]).mean() > 3
    torch.testing.assert_close(served[:, 3], built(placed(batch) | {"candidate_positions": 0 * positions})[:, 3])
    assert served[:, 3].mean() > 1.5


def test_a_second_fit_has_the_rounds_of_the_first():
    first, _, _ = fitted(price)
    again, batch, chances = fitted(price, rounds=7)
    assert again.kept == 7
    assert len(again.trees.root) == 14
    assert len(first.trees.root) == 2 * first.kept
    assert explained(again, batch, chances) > 0.7


def test_an_objective_without_labels_has_one_logit_and_the_others_are_fitted():
    def unknown(batch):
        labels = batch["labels"].clone()
        labels[..., 1] = torch.nan
        return {**batch, "labels": labels}

    built, batch, chances = fitted(price, changed=unknown)
    assert explained(built, batch, chances) > 0.8
    assert built(batch)[..., 1].unique().numel() == 1


def test_before_a_fit_all_candidates_are_alike():
    batch, _ = batch_of(0, price)
    assert ranker()(batch).unique().tolist() == [0.0]


@pytest.mark.parametrize(("key", "value"), [("rounds", 0), ("leaves", 1), ("learning_rate", 2.0), ("min_rows", 0)])
def test_a_key_out_of_range_is_refused(key, value):
    with pytest.raises(ConfigError, match=rf"ranking\.model\.{key}"):
        ranker(**{key: value})


WITHOUT = """
import sys
sys.modules["lightgbm"] = None
from recsys.errors import ConfigError
from recsys.ranking.gbdt import import_lightgbm
try:
    import_lightgbm()
except ConfigError as error:
    print(error)
"""


def test_without_lightgbm_one_sentence_says_what_to_install():
    done = subprocess.run([sys.executable, "-c", WITHOUT], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == (
        "boosted trees (ranking/model=gbdt, ranking/pointwise=auto) are fitted by LightGBM, which is not installed; "
        "run pip install 'recsys[train]', or choose ranking/pointwise=bce\n"
    )
