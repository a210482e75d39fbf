"""Distillation: mixed labels against a loop, and students of a teacher that knows the truth where labels are noise.

Shapes: R rows, each a request with one candidate, T objectives.
"""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from recsys.errors import ConfigError
from recsys.features.encode import ItemTable
from recsys.features.spec import Column, FeatureSpec, TableSpec
from recsys.ranking.deepfm import DeepFMRanker
from recsys.ranking.losses import BinaryCrossEntropy, Distillation, DistillationWhereBetter, ListNet, masked_bce
from recsys.ranking.model import RankerSizes
from recsys.training.click_log import ImpressionTrainerConfig
from recsys.training.impression_examples import impression_examples
from recsys.training.optimizers import DEFAULT_OPTIMIZER
from recsys.training.ranking_examples import ExampleSampling
from recsys.training.schedules import DEFAULT_SCHEDULE
from recsys.training.trainer import cpu_trainer

NUM, T = 600, 2
NOTHING = TableSpec(name="none", columns=())
ITEMS = TableSpec(
    name="items", columns=(Column(name="item", kind="category"), Column(name="price", kind="number", scale=1.0))
)
SPEC = FeatureSpec(
    items=ITEMS,
    profile=NOTHING,
    context=NOTHING,
    history_length=0,
    actions=("click", "buy"),
    objectives={"click": "click", "buy": "buy"},
    target="click",
)


class Oracle(DeepFMRanker):
    """A teacher that is right from the beginning: the logit of each objective is the price, or minus the price."""

    def forward(self, batch):
        return self.last_layer(batch, self.request(batch)).logits

    def last_layer(self, batch, request):
        layer = super().last_layer(batch, request)
        price = batch["candidate_numbers"][..., :1]
        return layer._replace(logits=torch.cat([2 * price, -2 * price], dim=-1))

    def fit(self, train, valid, *, rounds, seed):
        return 1


class Fool(Oracle):
    """A teacher to whom all are alike."""

    def last_layer(self, batch, request):
        layer = super().last_layer(batch, request)
        return layer._replace(logits=0 * layer.logits)


@pytest.fixture(scope="module")
def prices():
    return np.random.default_rng(0).normal(size=NUM).astype(np.float32)


@pytest.fixture(scope="module")
def items(prices):
    numbers = np.stack([np.append(prices, 0), np.zeros(NUM + 1)], axis=1).astype(np.float32)
    return ItemTable(ids=(), encoded={"ids": np.zeros((NUM + 1, 1), np.int64), "numbers": numbers})


@pytest.fixture(scope="module")
def examples(prices):
    """Labels to learn from are coins, those of the validation are true."""
    random = np.random.default_rng(1)
    chances = 1 / (1 + np.exp(-2 * np.stack([prices, -prices], axis=1)))
    coins = (random.random((NUM, T)) < 0.5).astype(np.float32)
    coins[:5, 1] = np.nan
    true = (random.random((NUM, T)) < chances).astype(np.float32)
    return [impression_examples(SPEC, np.arange(NUM), labels) for labels in (coins, true)]


def config(pointwise, epochs=6):
    return ImpressionTrainerConfig(
        model=DeepFMRanker,
        sizes=RankerSizes(
            dim=4,
            num_heads=1,
            cross_rank=1,
            num_cross_layers=0,
            num_experts=1,
            expert_dim=4,
            dropout=0.0,
            id_dropout=0.0,
            feature_dropout=0.0,
        ),
        sampling=ExampleSampling(
            requests_per_user=1,
            requests=10**9,
            validation_requests=10**9,
            examples_gib=1.0,
            dense_candidates=1,
            shown=None,
        ),
        num_positions=0,
        pointwise=pointwise,
        loss=ListNet(),
        listwise_weight=0.0,
        balance="equal",
        watch="likelihood",
        batch_size=50,
        epochs=epochs,
        most_examples=None,
        patience=epochs,
        learning_rate=0.02,
        weight_decay=0.0,
        optimizer=DEFAULT_OPTIMIZER,
        scheduler=DEFAULT_SCHEDULE,
    )


@pytest.fixture(scope="module")
def trained(items, examples, tmp_path_factory):
    def trained(pointwise, epochs=6, **options):
        loop = cpu_trainer(threads=1)
        folder = tmp_path_factory.mktemp("run") / "ranker"
        options = {"trainer": loop, "folder": folder, "seed": 0, "loggers": [], "epochs": epochs, **options}
        return config(pointwise, options["epochs"] or 2).fit(SPEC, items, *examples, **options), folder

    return trained


def logits(fitted, items, examples):
    """[R, T] before calibration, which reads the true labels."""
    batch = {name: torch.from_numpy(part[:NUM, None]) for name, part in items.at(np.arange(NUM)).items()}
    batch = {f"candidate_{name}": part for name, part in batch.items()}
    request = {name: torch.from_numpy(part) for name, part in examples[0].request.items()}
    with torch.no_grad():
        return fitted.ranker({**request, **batch, "candidate_scores": torch.zeros(NUM, 1, 0)})[:, 0]


def test_labels_are_mixed_with_the_mean_of_the_teachers():
    random = np.random.default_rng(2)
    labels = np.array([[[1.0, 0.0], [np.nan, 3.0]]], dtype=np.float32)
    one, two = (random.random(labels.shape).astype(np.float32) for _ in range(2))
    teachers = {"one": Oracle, "two": Oracle}
    found = Distillation(weight=0.3, teachers=teachers).mixed(labels, [one, two])
    for cell in np.ndindex(*labels.shape):
        label = min(float(labels[cell]), 1.0) if labels[cell] == labels[cell] else np.nan
        np.testing.assert_allclose(found[cell], 0.7 * label + 0.3 * (one[cell] + two[cell]) / 2, rtol=1e-6)
    assert found.dtype == np.float32


def test_the_loss_of_mixed_labels_is_the_mixture_of_two_losses():
    random = torch.Generator().manual_seed(0)
    made, taught = torch.randn(3, 4, 2, generator=random), torch.rand(3, 4, 2, generator=random)
    labels, weights = (torch.rand(3, 4, 2, generator=random) < 0.4).float(), torch.rand(3, 4, generator=random)
    loss = Distillation(weight=0.25, teachers={"one": Oracle})
    mixed = torch.from_numpy(loss.mixed(labels.numpy(), [taught.numpy()]))
    expected = 0.75 * masked_bce(made, labels, weights) + 0.25 * masked_bce(made, taught, weights)
    torch.testing.assert_close(loss(made, mixed, weights), expected)


def test_a_student_learns_from_its_teacher_and_not_from_noise(trained, items, examples, prices):
    taught, folder = trained(Distillation(weight=1.0, teachers={"one": Oracle}), epochs=12)
    made = logits(taught, items, examples).numpy()
    assert np.corrcoef(made[:, 0], prices)[0, 1] > 0.9
    assert np.corrcoef(made[:, 1], prices)[0, 1] < -0.9
    assert [file.name for file in folder.parent.glob("ranker_teacher_one/*")] == ["trained.pt"], "it needs no steps"
    alone, _ = trained(BinaryCrossEntropy(), epochs=12)
    assert (logits(alone, items, examples).numpy().std(0) < 0.4 * made.std(0)).all()


def test_two_teachers_teach_their_mean(trained, items, examples):
    both, _ = trained(Distillation(weight=1.0, teachers={"one": Oracle, "two": Fool}), epochs=12)
    one, _ = trained(Distillation(weight=1.0, teachers={"one": Oracle}), epochs=12)
    spread, wider = (logits(fitted, items, examples).std(0) for fitted in (both, one))
    assert (spread < 0.8 * wider).all()


def test_without_weight_the_student_is_the_one_that_has_no_teacher(trained, items, examples):
    taught, folder = trained(Distillation(weight=0.0, teachers={"one": DeepFMRanker}), epochs=2)
    alone, _ = trained(BinaryCrossEntropy(), epochs=2)
    for name, weights in alone.ranker.state_dict().items():
        assert torch.equal(weights, taught.ranker.state_dict()[name]), name
    assert list(folder.parent.glob("ranker_teacher_one/*")), "its own checkpoints"


def test_the_file_names_a_teacher_and_a_weight_out_of_range_is_refused():
    file = Path(__file__).parents[2] / "conf" / "ranking" / "pointwise" / "distillation.yaml"
    assert list(instantiate(OmegaConf.load(file)).teachers) == ["default"]
    refused = partial(Distillation, teachers={"one": Oracle})
    with pytest.raises(ConfigError, match=r"ranking\.pointwise\.weight is 1\.5"):
        refused(weight=1.5)
    with pytest.raises(ConfigError, match=r"ranking\.pointwise\.teachers is empty"):
        Distillation(weight=0.5, teachers={})


def where_better(teacher, most_cells=10**9):
    return DistillationWhereBetter(weight=1.0, teachers={"one": teacher}, most_cells=most_cells)


def test_a_better_teacher_teaches_and_the_choice_holds_for_another_fit(trained, items, examples):
    found, folder = trained(where_better(Oracle), epochs=None)
    assert found.taught
    same, _ = trained(Distillation(weight=1.0, teachers={"one": Oracle}), epochs=None)
    assert torch.equal(logits(found, items, examples), logits(same, items, examples))
    again, own_folder = trained(where_better(Oracle), epochs=3, taught=True)
    assert (again.taught, again.epochs) == (True, 3)
    assert not own_folder.exists(), "nothing is trained by the labels alone"
    assert folder.with_name("ranker_taught_teacher_one").is_dir()


@pytest.mark.parametrize("options", [{"most_cells": NUM - 1}, {"teacher": Fool}])
def test_many_examples_and_worse_teachers_leave_the_labels_alone(trained, items, examples, options):
    found, folder = trained(where_better(**{"teacher": Oracle} | options), epochs=None)
    assert not found.taught
    plain, _ = trained(BinaryCrossEntropy(), epochs=None)
    assert torch.equal(logits(found, items, examples), logits(plain, items, examples))
    assert folder.with_name("ranker_taught_teacher_one").is_dir() == ("teacher" in options)


def test_a_fit_of_so_many_epochs_chooses_nothing(trained):
    found, folder = trained(where_better(Oracle), epochs=2, taught=False)
    assert not found.taught
    assert not list(folder.parent.glob("*_teacher_*"))
