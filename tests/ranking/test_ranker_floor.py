"""A ranker that is no better than the order of retrieval on validation keeps that order.

Shapes: B requests, C candidates, T objectives.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from recsys.candidates.score_layout import ScoreLayout
from recsys.content.text import TextVectors
from recsys.data.sources.synthetic import Synthetic
from recsys.data.splits import VALIDATION, GlobalTime
from recsys.features.spec import Features
from recsys.ranking.losses import BinaryCrossEntropy, ListNet
from recsys.ranking.model import RankerSizes
from recsys.training.optimizers import DEFAULT_OPTIMIZER
from recsys.training.prepare import prepare
from recsys.training.ranker_gain import RankerGain
from recsys.training.ranking import RankerTrainerConfig
from recsys.training.ranking_examples import ExampleSampling
from recsys.training.ranking_task import LikeliestEpoch, RankingTask
from recsys.training.schedules import DEFAULT_SCHEDULE
from recsys.training.slates import Slates, logged_examples
from recsys.training.trainer import cpu_trainer

NUM_SOURCES, B, C = 2, 200, 12
SIZES = RankerSizes(
    dim=8,
    num_heads=2,
    cross_rank=4,
    num_cross_layers=1,
    num_experts=2,
    expert_dim=8,
    dropout=0.5,
    id_dropout=0.0,
    feature_dropout=0.5,
)
SAMPLING = ExampleSampling(
    requests_per_user=1,
    requests=10**6,
    validation_requests=10**6,
    examples_gib=1.0,
    dense_candidates=C,
    shown=None,
)


def config(root, model="default", **changed):
    given = {
        "model": instantiate(OmegaConf.load(root / "conf" / "ranking" / "model" / f"{model}.yaml")),
        "sizes": SIZES,
        "num_positions": 0,
        "sampling": SAMPLING,
        "pointwise": BinaryCrossEntropy(),
        "loss": ListNet(),
        "listwise_weight": 1.0,
        "balance": "equal",
        "watch": "ndcg@10",
        "batch_size": 20,
        "epochs": 6,
        "most_examples": None,
        "patience": 6,
        "learning_rate": 0.01,
        "weight_decay": 0.0,
        "optimizer": DEFAULT_OPTIMIZER,
        "scheduler": DEFAULT_SCHEDULE,
    }
    return RankerTrainerConfig(**(given | changed))


def world_of(*further):
    """A spec of the target and further objectives, its catalogue, and requests to take the place of retrieved ones."""
    dataset = Synthetic(users=60, items=40, events=2_500, seed=0).load()
    target = dataset.description.target
    objectives = {name: dataset.description.objectives[name] for name in (target, *further)}
    dataset = replace(dataset, description=replace(dataset.description, objectives=objectives))
    split = GlobalTime(rank=0.2, validation=0.3, test=0.2, cuts=1, later=0.0, horizon_days=None).splits(dataset)[-1]
    features = Features(history_length=6, max_values=3, min_count=2, leave_out=["position"])
    prepared = prepare(dataset, split, features, TextVectors(dim=4, min_documents=1, seed=0))
    spec, items = prepared.spec(split.known(VALIDATION))
    slates = Slates.of(prepared, split.known(VALIDATION))
    return spec, items, logged_examples(prepared, spec, items, slates, position="position").at(np.arange(2 * B))


@pytest.fixture(scope="module")
def world():
    return world_of()


def examples(world, label_of):
    """B requests to learn from and B of validation: random candidates in the order of their merged retrieval score.

    label_of: merged scores [B, C], catalogue rows [B, C], generator -> chance of the label
    """
    _, items, requests = world
    generator, parts = np.random.default_rng(0), []
    for part in (np.arange(B), np.arange(B, 2 * B)):
        rows = np.argsort(generator.random((B, len(items))), axis=1)[:, :C]
        scores = generator.normal(size=(B, C, ScoreLayout.unnamed(NUM_SOURCES).width)).astype(np.float32)
        scores[..., 0] = -np.sort(-3 * generator.standard_cauchy((B, C)), axis=1)
        chance = label_of(scores[..., 0], rows, generator)
        labels = (generator.random((B, C)) < chance).astype(np.float32)[..., None]
        parts.append(
            replace(requests.at(part), candidate_rows=rows, candidate_scores=scores, labels=labels, positions=None)
        )
    return parts


def of_retrieval(scores, rows, generator):
    return 1 / (1 + np.arange(C)) ** 1.5 + 0 * scores


def of_items(scores, rows, generator):
    """Every third item of the catalogue is liked, whatever retrieval says."""
    return np.where(rows % 3 == 0, 0.8, 0.02)


@pytest.fixture(scope="module")
def fit(world, root, tmp_path_factory):
    def fit(label_of, epochs=None, **changed):
        spec, items, _ = world
        train, valid = examples(world, label_of)
        trained = config(root, **changed).fit(
            spec,
            items,
            train,
            valid,
            trainer=cpu_trainer(threads=1),
            folder=tmp_path_factory.mktemp("run") / "ranker",
            seed=0,
            loggers=[],
            epochs=epochs,
        )
        return trained, valid

    return fit


def order_of(trained, world, valid):
    return np.argsort(-trained.probabilities(world[1], valid)[..., 0], axis=1, kind="stable")


def test_a_ranker_that_retrieval_has_nothing_to_learn_from_keeps_its_order(fit, world):
    """The labels follow the positions of retrieval and nothing else; its scores have the tails of a Cauchy variable."""
    trained, valid = fit(of_retrieval)
    assert trained.keeps_order
    assert trained.epochs == 0
    assert not trained.gain.helps
    np.testing.assert_array_equal(order_of(trained, world, valid), np.tile(np.arange(C), (B, 1)))
    assert "keeps the order of retrieval" in trained.verdict
    rates = trained.probabilities(world[1], valid)[..., 0].mean(), valid.labels.mean()
    assert rates[0] == pytest.approx(rates[1], rel=0.1)


def test_a_ranker_that_is_better_is_kept_as_trained(fit, world):
    trained, valid = fit(of_items)
    assert trained.epochs > 0
    assert trained.gain.ranker > trained.gain.retrieval + 0.1
    assert (order_of(trained, world, valid) != np.arange(C)).any()
    liked = valid.candidate_rows % 3 == 0
    found = trained.probabilities(world[1], valid)[..., 0]
    assert found[liked].mean() > 2 * found[~liked].mean()


@pytest.mark.parametrize(("judged_by", "kept"), [(of_items, True), (of_retrieval, False)])
def test_the_first_requests_of_users_alone_decide(world, root, tmp_path, judged_by, kept):
    """Half of the validation requests are first ones; the others, which outnumber them by what they gain, say the opposite."""
    spec, items, _ = world
    train, valid = examples(world, of_items)
    _, others = examples(world, of_retrieval if kept else of_items)
    first = np.arange(B) % 2 == 0
    own = examples(world, judged_by)[1]
    mixed = [
        np.where(first[:, None, None], own.labels, others.labels),
        np.where(first[:, None], own.candidate_rows, others.candidate_rows),
    ]
    scores = np.where(first[:, None, None], own.candidate_scores, others.candidate_scores)
    valid = replace(valid, labels=mixed[0], candidate_rows=mixed[1], candidate_scores=scores, first=first)
    trained = config(root).fit(
        spec, items, train, valid, trainer=cpu_trainer(threads=1), folder=tmp_path / "ranker", seed=0, loggers=[]
    )
    assert trained.keeps_order != kept


@pytest.mark.parametrize(("of_first", "kept"), [(of_items, True), (of_retrieval, False)])
def test_a_ranker_is_selected_where_it_is_better_with_the_periods_exchanged(world, root, tmp_path, of_first, kept):
    """The second part of the first period's requests are those it is judged by; the first part teaches what helps later."""
    spec, items, _ = world
    train, valid = examples(world, of_items)
    judged, _ = examples(world, of_first)
    first = np.arange(B) % 2 == 0
    mixed = {
        name: np.where(
            first.reshape(-1, *[1] * (getattr(train, name).ndim - 1)), getattr(judged, name), getattr(train, name)
        )
        for name in ("labels", "candidate_rows", "candidate_scores")
    }
    selected = config(root).select(
        spec,
        items,
        replace(train, first=first, **mixed),
        valid,
        trainer=cpu_trainer(threads=1),
        folder=tmp_path / "ranker",
        seed=0,
        loggers=[],
    )
    assert bool(selected.epochs) == kept
    assert selected.gain.ranker > selected.gain.retrieval + 0.05
    assert (selected.exchanged_gain.ranker > selected.exchanged_gain.retrieval) == kept
    assert ("is kept" in selected.verdict) == kept
    assert "the period before" in selected.verdict


@pytest.mark.parametrize("exchanged", [False, True])
def test_a_target_keeps_the_order_of_retrieval_while_another_objective_learns(root, tmp_path, exchanged):
    """The target follows retrieval, in one of the periods at least, the other objective the items."""
    two = world_of("like")
    spec, items, _ = two
    of_target = examples(two, of_retrieval)
    if exchanged:
        of_target = [examples(two, of_retrieval)[0], examples(two, of_items)[1]]
    of_other = examples(two, of_items)
    train, valid = (
        replace(one, labels=np.concatenate([own.labels, one.labels], axis=2), candidate_scores=own.candidate_scores)
        for one, own in zip(of_other, of_target, strict=True)
    )
    selected = config(root).select(
        spec, items, train, valid, trainer=cpu_trainer(threads=1), folder=tmp_path / "ranker", seed=0, loggers=[]
    )
    assert selected.keeps_order
    assert selected.epochs > 0
    np.testing.assert_array_equal(order_of(selected, two, valid), np.tile(np.arange(C), (B, 1)))
    liked = valid.candidate_rows % 3 == 0
    other = selected.probabilities(items, valid)[..., 1]
    assert other[liked].mean() > 2 * other[~liked].mean()
    assert "gives the probabilities of the other objectives" in selected.verdict
    options = {"trainer": cpu_trainer(threads=1), "seed": 0, "loggers": [], "keeps_order": True}
    again = config(root).fit(spec, items, train, valid, folder=tmp_path / "again", epochs=selected.epochs, **options)
    np.testing.assert_array_equal(order_of(again, two, valid), np.tile(np.arange(C), (B, 1)))


def test_the_refit_of_a_ranker_that_kept_the_order_trains_nothing(fit, world):
    trained, valid = fit(of_items, epochs=0)
    np.testing.assert_array_equal(order_of(trained, world, valid), np.tile(np.arange(C), (B, 1)))
    assert trained.gain is None


def test_the_refit_of_a_taught_ranker_that_learnt_nothing_trains_no_teacher(world, root, tmp_path):
    spec, items, _ = world
    train, valid = examples(world, of_items)
    auto = instantiate(OmegaConf.load(root / "conf" / "ranking" / "pointwise" / "auto.yaml"))
    options = {"trainer": cpu_trainer(threads=1), "seed": 0, "loggers": [], "epochs": 0, "taught": True}
    config(root, pointwise=auto).fit(spec, items, train, valid, folder=tmp_path / "ranker", **options)
    assert not list(tmp_path.glob("*teacher*"))


@pytest.mark.parametrize("changed", [{"watch": "likelihood"}, {"model": "gbdt"}])
def test_nothing_is_compared_where_the_order_is_no_goal_or_no_start(fit, changed):
    trained, _ = fit(of_retrieval, **changed)
    assert trained.gain is None
    assert trained.epochs > 0


def close(mean):
    """NDCG of 200 requests, whose mean differs from .4 by one or two standard errors."""
    noise = np.random.default_rng(2).normal(0, 0.1, 200)
    return 0.4 + mean + noise - noise.mean()


@pytest.mark.parametrize(
    ("ranker", "helps"),
    [
        (np.linspace(0.3, 0.9, 200), True),
        (np.linspace(0.1, 0.7, 200), False),
        (close(0.008), False),
        (close(0.014), True),
        (close(-0.014), False),
        (np.where(np.arange(200) == 0, 1.0, 0.4), False),
    ],
    ids=["better", "worse", "hardly", "by two errors", "hardly worse", "better by one request"],
)
def test_a_ranker_helps_where_it_is_better_beyond_chance(ranker, helps):
    assert RankerGain.of(ranker[None], np.full(200, 0.4)).helps == helps


def test_without_a_request_nothing_is_compared():
    assert RankerGain.of(np.empty((3, 0)), np.empty(0)) is None


def test_a_single_request_cannot_show_a_gain():
    assert not RankerGain.of(np.ones((3, 1)), np.zeros(1)).helps


def test_the_best_of_many_epochs_without_a_gain_gains_nothing():
    """Fifteen epochs that differ from retrieval by chance: the best of them looks better by two standard errors."""
    generator, gains, looks = np.random.default_rng(5), [], []
    for _ in range(100):
        retrieval = generator.random(150)
        epochs = (retrieval + generator.normal(0, 0.1, (15, 150))).clip(0, 1)
        gain = RankerGain.of(epochs, retrieval)
        gains.append(gain.ranker - gain.retrieval)
        looks.append(epochs.mean(axis=1).max() - gain.retrieval)
    error = np.std(gains) / 10
    assert abs(np.mean(gains)) < 3 * error
    assert np.mean(looks) > 10 * error


def test_validations_survive_a_checkpoint_and_the_best_one_takes_none_away(root, world):
    spec, items, _ = world
    tasks = [RankingTask(config(root).ranker(spec, 1, (None,)), items, 0, config(root)) for _ in range(2)]
    tasks[0].validated = torch.arange(6.0).view(3, 2)
    tasks[1].load_state_dict(tasks[0].state_dict())
    assert torch.equal(tasks[1].validated, tasks[0].validated)
    best = tasks[0].state_dict()
    tasks[1].validated = torch.ones(5, 2)
    tasks[1].load_state_dict(best)
    assert torch.equal(tasks[1].validated, torch.ones(5, 2))


def test_outliers_of_a_score_keep_their_order(root, world):
    spec, *_ = world
    ranker = config(root).ranker(spec, 1, (None,))
    ranker.fit_scores(torch.randn(1_000, 1, generator=torch.Generator().manual_seed(0)))
    scores = torch.tensor([-1e6, -40.0, -6.0, -5.0, 0.0, 4.0, 5.0, 7.0, 40.0, 1e6]).view(1, -1, 1)
    found = ranker.standard_scores({"candidate_scores": scores}).flatten()
    assert (found.diff() > 0).all()
    assert found.abs().max() < 5 + np.log1p(2e6)


def test_the_likeliest_epoch_survives_a_checkpoint_and_older_ones_know_none():
    one = LikeliestEpoch(number=3, likelihood=-0.5, weights={"heads.weight": torch.ones(2, 3)})
    again = LikeliestEpoch.from_tensors({"validated": torch.zeros(3, 4), **one.to_tensors()})
    assert (again.number, again.likelihood) == (3, -0.5)
    assert torch.equal(again.weights["heads.weight"], one.weights["heads.weight"])
    assert LikeliestEpoch.from_tensors({"validated": torch.zeros(3, 4)}).number == 0
