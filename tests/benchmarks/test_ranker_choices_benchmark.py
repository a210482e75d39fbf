"""The benchmark of what the ranker is made of: its variants are what they are called, and its figures are right."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.claims.ranking import ranker_choices
from benchmarks.claims.ranking.ranker_choices import (
    AFRESH,
    OURS,
    PLANTED,
    FreshEmbeddingTask,
    Job,
    ahead,
    figures,
    run,
    ways,
    without,
)
from benchmarks.claims.ranking.ranker_truth import CONFIG
from benchmarks.lib.ranker_peers import BOTTOM, DEFAULT, MMOE, PEERS, STEM, model_of
from benchmarks.lib.ranker_world import Examples
from recsys.data.sources.planted import EFFECTS, Planted
from recsys.training.ranking_examples import tensors
from recsys.training.ranking_task import RankingTask

TINY = Planted(users=60, items=60, rounds=12, slate=5, seed=0, strength=2.0, effects=tuple(EFFECTS))
SMALL = replace(CONFIG, sizes=replace(CONFIG.sizes, dim=8, expert_dim=8, num_experts=2), epochs=2)


@pytest.fixture(scope="module")
def examples():
    return Examples.of(TINY)


def gradients(peer, examples):
    """A ranker of the variant, with the gradients of one batch."""
    torch.manual_seed(0)
    config = replace(SMALL, model=model_of(PEERS.get(peer, DEFAULT)))
    ranker = config.ranker(examples.spec, examples.train.candidate_scores.shape[-1], (None,) * 4)
    task = RankingTask(ranker, examples.items, 0, SMALL)
    batch = tensors(examples.train.at(np.arange(16)))
    with torch.no_grad():  # before training nothing reaches the experts
        ranker.heads.weight.normal_()
    task.logits(batch).sum().backward()
    return ranker


def moved(module):
    return any(one.grad is not None and bool(one.grad.any()) for one in module.parameters())


@pytest.mark.parametrize("peer", [OURS, STEM, MMOE])
def test_every_expert_learns(examples, peer):
    ranker = gradients(peer, examples)
    assert len(ranker.experts) == 2 + 4
    assert all(moved(one) for one in ranker.experts)


def test_a_shared_bottom_is_one_expert(examples):
    ranker = gradients(BOTTOM, examples)
    assert moved(ranker.bottom)
    assert not hasattr(ranker, "gates")


def test_each_objective_reads_embeddings_of_its_own(examples):
    ranker = gradients(STEM, examples)
    assert len(ranker.own_encoders) == 4
    assert all(moved(one) for one in ranker.own_encoders)
    assert not hasattr(gradients(MMOE, examples), "own_encoders")


def test_embeddings_begin_afresh_and_nothing_else_does(examples, monkeypatch):
    ranker = SMALL.ranker(examples.spec, examples.train.candidate_scores.shape[-1], (None,) * 4)
    task = FreshEmbeddingTask(ranker, examples.items, 0, SMALL)
    before = {name: one.clone() for name, one in ranker.state_dict().items()}
    for epoch, changed in ((0, False), (1, True)):
        monkeypatch.setattr(RankingTask, "current_epoch", epoch, raising=False)
        task.on_train_epoch_start()
        after = ranker.state_dict()
        different = {name for name in before if not torch.equal(before[name], after[name])}
        embedded = {name for name in before if "embeddings" in name}
        assert different == (embedded if changed else set())
    for column, embedding in zip(ranker.item_encoder.columns, ranker.item_encoder.embeddings, strict=True):
        assert (embedding.weight[:2] == 0).all(dim=1).tolist() == [True, column.name != "item"], "as they begin"


@pytest.mark.parametrize("peer", [OURS, STEM])
def test_a_way_is_trained_and_judged_with_all_and_with_parts_lost(examples, peer, tmp_path):
    file = examples.save(tmp_path / "examples")
    row = run(
        Job(
            data=PLANTED,
            system=peer,
            seed=0,
            config=replace(SMALL, epochs=8, learning_rate=0.02, model=model_of(PEERS.get(peer, DEFAULT))),
            file=file,
        )
    )
    assert row["lost"].keys() == {"history", "profile", "context"}
    assert row["explained"] not in row["lost"].values(), "each part says something"


def test_what_is_lost_is_as_if_it_had_never_come(examples):
    lost = without(examples.test, "history", examples.spec).request
    for name, array in lost.items():
        assert (not array.any()) if name.startswith("history_") else (array == examples.test.request[name]).all()


def test_ahead_is_a_paired_difference_over_the_seeds():
    rows = [
        {"data": PLANTED, "system": system, "seed": seed, "explained": value, "lost": {"history": value / 2}}
        for system, values in ((OURS, (0.5, 0.6, 0.7)), ("other", (0.52, 0.62, 0.72)))
        for seed, value in enumerate(values)
    ]
    mean, error = ahead(rows, PLANTED, "other")
    assert mean == pytest.approx(0.02)
    assert error == pytest.approx(0, abs=1e-12)
    dropping = [{**row, "system": "feature dropout 0.1"} for row in rows if row["system"] == "other"]
    claimed = figures([*rows, *dropping])
    assert claimed["most_that_another_choice_is_surely_ahead"].value == 0.02
    assert claimed["kept_without_history_by_feature_dropout"].value == 0.01
    assert claimed["price_of_feature_dropout"].value == -0.02


def test_the_variants_differ_in_what_they_are_named_after():
    planted = dict(ways(PLANTED))
    assert {name: planted[name].model.func for name in (MMOE, BOTTOM, STEM)} == {
        name: model_of(PEERS[name]).func for name in (MMOE, BOTTOM, STEM)
    }
    assert planted["one epoch"] == replace(planted[OURS], epochs=1)
    assert {"feature dropout 0.1", "feature dropout 0.2"} <= planted.keys()
    assert dict(ways(ranker_choices.NEWS))[AFRESH].task_type is FreshEmbeddingTask
