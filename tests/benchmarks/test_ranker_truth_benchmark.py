"""The benchmark of the ranker's truth on worlds that take no time, and its measures against textbook values."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.claims.ranking import ranker_truth
from benchmarks.claims.ranking.ranker_truth import CONFIG, OURS, RATES, Job, jobs, learnt, run, single
from benchmarks.lib.ranker_peers import CROSSED, DEFAULT, PEERS, POOLED, TOWERS, model_of, rates
from benchmarks.lib.ranker_world import Examples, agreement, tabular, trained, truth_metrics
from recsys.data.sources.planted import EFFECTS, OBJECTIVES, Planted
from recsys.errors import ConfigError
from recsys.ranking.base import INITIAL_LOGIT
from recsys.training.ranking_examples import tensors
from recsys.training.ranking_task import RankingTask

TINY = Planted(users=60, items=60, rounds=12, slate=5, seed=0, strength=2.0, effects=tuple(EFFECTS))
SMALL = replace(CONFIG, sizes=replace(CONFIG.sizes, dim=8, expert_dim=8, num_experts=1), epochs=1)


@pytest.fixture(scope="module")
def examples():
    return Examples.of(TINY)


@pytest.fixture(scope="module")
def file(examples, tmp_path_factory):
    return examples.save(tmp_path_factory.mktemp("world") / "examples")


def test_the_truth_explains_everything_and_a_constant_nothing(examples):
    true = examples.probabilities
    for found in truth_metrics(true, true).values():
        assert (found["share"], found["ece"], found["predicted_over_true"]) == (1, 0, 1)
    constant = np.broadcast_to(true.mean(axis=(0, 1)), true.shape)
    assert all(found["share"] == 0 for found in truth_metrics(true, constant).values())
    assert all(found["share"] < 1 for found in truth_metrics(true, true**1.2).values())


def test_agreement_is_the_rank_correlation_within_slates():
    true = np.array([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]])[..., None].repeat(4, axis=2)
    assert set(agreement(true, 10 * true - 3).values()) == {1.0}
    assert set(agreement(true, -true).values()) == {-1.0}
    assert set(agreement(true, np.broadcast_to(true[:1], true.shape)).values()) == {0.0}


def test_periods_do_not_overlap_and_truth_stands_beside_its_labels(examples):
    assert len(examples.train) > len(examples.valid) > len(examples.test) > 0
    labels, true = examples.test.labels, examples.probabilities
    assert labels.shape == true.shape == examples.unbiased.shape
    assert (true <= examples.unbiased + 1e-12).all(), "the first place is the best"
    assert labels[..., 0].mean() == pytest.approx(true[..., 0].mean(), abs=0.1)


def test_trees_read_the_shares_of_the_history_that_have_what_the_candidate_has(examples):
    found = tabular(examples.test, examples.items, [1])
    request, rows = examples.test.request, examples.test.candidate_rows
    column = examples.items.encoded["ids"].shape[1] + examples.items.encoded["numbers"].shape[1]
    column += sum(part.shape[-1] for name, part in request.items() if name.startswith(("profile_", "context_")))
    for query, place in [(0, 0), (len(rows) - 1, 4)]:
        present = request["history_ids"][query, :, 0] > 0
        same = request["history_ids"][query, present, 1] == examples.items.encoded["ids"][rows[query, place], 1]
        row = found[query * rows.shape[1] + place]
        assert row[column] == pytest.approx(same.mean() if present.any() else 0)


@pytest.mark.parametrize("system", [OURS, CROSSED, POOLED, TOWERS, RATES])
def test_a_system_is_trained_and_measured(file, system):
    row = run(Job(system=system, file=file, seed=0, config=SMALL, model=PEERS.get(system, DEFAULT)))
    assert row["objectives"].keys() == set(OBJECTIVES)
    assert all(np.isfinite(list(found.values())).all() for found in row["objectives"].values())


@pytest.mark.parametrize("system", [CROSSED, POOLED, TOWERS])
def test_a_peer_is_the_ranker_of_its_file_and_never_the_default(examples, file, system):
    fitted = trained(
        replace(SMALL, model=model_of(PEERS[system])),
        *(examples.spec, examples.items, examples.train, examples.valid, 0),
    )
    found, _ = learnt(Job(system=system, file=file, seed=0, config=SMALL, model=PEERS[system]), examples)
    np.testing.assert_array_equal(found, fitted.probabilities(examples.items, examples.test))
    assert type(fitted.ranker) is model_of(PEERS[system]).func is not model_of(DEFAULT).func


def test_every_system_of_a_peer_is_a_job_of_its_file():
    planned = {job.system: job.model for job in jobs(dict.fromkeys(("everything", "no position", *EFFECTS), Path()), 1)}
    assert {system: planned[system] for system in (CROSSED, POOLED, TOWERS)} == {
        system: PEERS[system] for system in (CROSSED, POOLED, TOWERS)
    }
    assert {model for system, model in planned.items() if system not in PEERS} == {DEFAULT}


@pytest.mark.parametrize(("system", "inner"), [(TOWERS, True), (OURS, False)])
def test_two_towers_are_an_inner_product_and_the_ranker_is_more(examples, system, inner):
    """The logits of all requests and all candidates are a matrix of rank D + 2, biases of both sides included."""
    torch.manual_seed(0)
    config = replace(SMALL, sizes=replace(SMALL.sizes, dim=4), model=model_of(PEERS.get(system, DEFAULT)))
    ranker = config.ranker(examples.spec, examples.train.candidate_scores.shape[-1], (None,) * 4)
    with torch.no_grad():  # before training nothing reaches the experts
        ranker.heads.weight.normal_()
    task = RankingTask(ranker.eval(), examples.items, 0, SMALL)
    num = 20
    batch = {**tensors(examples.train.at(np.arange(num))), "candidate_rows": torch.arange(num).repeat(num, 1)}
    batch["candidate_scores"] = batch["candidate_scores"][:, :1].expand(-1, num, -1)
    batch.pop("candidate_positions")
    with torch.no_grad():
        logits = task.logits(batch).double() - INITIAL_LOGIT
    for objective in range(4):
        values = torch.linalg.svdvals(logits[..., objective])
        assert (values[6] < 1e-6 * values[0]) == inner


def test_a_twin_learns_its_own_objective_only(file, examples):
    row = run(Job(system=single("like"), file=file, seed=0, objectives=("like",), config=SMALL))
    assert row["objectives"].keys() == {"like"}


def test_rates_of_items_lie_between_their_own_and_the_mean(examples):
    found, labels = rates(examples), examples.train.labels
    item = examples.test.candidate_rows[0, 0]
    own = labels[examples.train.candidate_rows == item].mean(axis=0)
    low, high = (np.minimum, np.maximum)
    mean = labels.mean(axis=(0, 1))
    assert (found[0, 0] >= low(own, mean) - 1e-6).all()
    assert (found[0, 0] <= high(own, mean) + 1e-6).all()


def test_figures_take_the_worst_and_count_standard_errors():
    def row(system, seed, share):
        found = {"share": share, "ece": 0.001, "predicted_over_true": 0.99, "bayes_gain": 0.3}
        return {
            "system": system,
            "seed": seed,
            "objectives": dict.fromkeys(OBJECTIVES, found),
            "agreement": dict.fromkeys(OBJECTIVES, share),
        }

    rows = [row(OURS, seed, share) for seed, share in enumerate((0.95, 0.96, 0.97))]
    rows += [row(single(name), seed, share) for name in OBJECTIVES for seed, share in enumerate((0.97, 0.98, 0.99))]
    rows += [row(ranker_truth.UNBIASED, 0, 0.99), *(row(f"{name} alone", 0, 0.93) for name in EFFECTS)]
    found = ranker_truth.figures(rows)
    assert found["worst_share_of_explainable_loss"].value == 0.95
    assert found["worst_pcoc_distance"].value == 0.01
    assert found["worst_standard_errors_behind_single_task"].value == pytest.approx(
        0.02 / (0.01 * (2 / 3) ** 0.5), abs=0.01
    )
    assert found["worst_share_of_an_interaction_alone"].value == 0.93
    assert found["worst_agreement_lost_to_position_bias"].value == pytest.approx(0.03)


def test_one_seed_has_no_twins(tmp_path):
    planned = list(ranker_truth.jobs(dict.fromkeys(ranker_truth.worlds(0), tmp_path), 1))
    assert not any("twin" in job.system for job in planned)
    assert len(list(ranker_truth.jobs(dict.fromkeys(ranker_truth.worlds(0), tmp_path), 3))) == len(planned) + 2 + 2 + 12


def test_only_seeds_are_arguments():
    assert ranker_truth.read([]) == (0, 3)
    assert ranker_truth.read(["seed=7", "seeds=1"]) == (7, 1)
    for wrong in ("seed=x", "sead=1", "seeds=0"):
        with pytest.raises(ConfigError, match="write seed=7, seeds=1 or nothing"):
            ranker_truth.read([wrong])
