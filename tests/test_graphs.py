"""The exported graphs against their modules, on real queries of every size.

Shapes: B batch, C candidates.
"""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from recsys.candidates.score_layout import ScoreLayout
from recsys.content.text import TextVectors
from recsys.contracts import PAD, Event, Query
from recsys.data.sources.synthetic import Synthetic
from recsys.data.splits import TEST, GlobalTime
from recsys.errors import BundleError
from recsys.features.batches import CandidateFeatures, ItemBatch, RequestBatch
from recsys.features.encode import encode_queries
from recsys.features.spec import UNKNOWN, Features
from recsys.graphs.export import check_against_eager, export_item_tower, export_ranker, export_user_tower
from recsys.nn import sparse_embedding
from recsys.ranking.calibration import Calibrator
from recsys.ranking.model import RankerInputs, RankerSizes, logits_and_request
from recsys.ranking.multi_objective import MultiObjectiveRanker
from recsys.ranking.uncertainty import LastLayerPosterior, certainty
from recsys.retrieval.transformer import TransformerEncoder
from recsys.retrieval.two_tower import TowerEnsemble, TwoTower
from recsys.stages import OnnxModel, ranker_inputs
from recsys.training.prepare import prepare

pytestmark = pytest.mark.slow

NUM_SOURCES = 3
BATCH_SIZES = (1, 2, 3, 17, 64)
NUM_CANDIDATES = (1, 2, 57, 1_000)


@pytest.fixture(scope="module")
def prepared():
    dataset = Synthetic(users=40, items=30, events=1_500, seed=0).load()
    split = GlobalTime(rank=0.2, validation=0.1, test=0.2, cuts=1, later=0.0, horizon_days=None).splits(dataset)[-1]
    features = Features(history_length=6, max_values=3, min_count=2, leave_out=["position"])
    return prepare(dataset, split, features, TextVectors(dim=4, min_documents=1, seed=0))


@pytest.fixture(scope="module")
def fitted(prepared):
    return prepared.spec(prepared.split.known(TEST))


@pytest.fixture(scope="module")
def towers(fitted):
    torch.manual_seed(0)
    encoder = partial(TransformerEncoder, num_blocks=2, num_heads=2)
    sizes = {"spec": fitted[0], "dim": 8, "dropout": 0.3, "id_dropout": 0.3}
    return TowerEnsemble([TwoTower(**sizes, user_encoder=encoder) for _ in range(2)]).eval()


@pytest.fixture(scope="module")
def ranker(fitted):
    torch.manual_seed(1)
    inputs = RankerInputs(
        spec=fitted[0], num_scores=ScoreLayout.unnamed(NUM_SOURCES).width, num_positions=5, parents=(None, 0, 0, 2)
    )
    sizes = RankerSizes(
        dim=8,
        num_heads=2,
        cross_rank=4,
        num_cross_layers=2,
        num_experts=2,
        expert_dim=6,
        dropout=0.3,
        id_dropout=0.3,
        feature_dropout=0.3,
    )
    ranker = MultiObjectiveRanker(inputs=inputs, sizes=sizes).eval()
    for layer in (ranker.heads, ranker.wide):
        layer.reset_parameters()  # as if trained: a fresh head says nothing
    ranker.fit_scores(torch.randn(50, ScoreLayout.unnamed(NUM_SOURCES).width))
    return ranker


@pytest.fixture(scope="module")
def calibrator(ranker):
    calibrator = Calibrator(ranker.request_width, ranker.parents)
    generator = torch.Generator().manual_seed(3)
    calibrator.intercept.fit(
        torch.randn(50, ranker.request_width, generator=generator), torch.randn(50, 4, generator=generator)
    )
    calibrator.slope.copy_(torch.tensor([0.0, 0.5, 1.0, 2.0]))
    calibrator.scale.copy_(torch.tensor([0.5, 1.0, 1.5, 2.0]))
    calibrator.shift.copy_(torch.tensor([-3.0, 0.0, 1.0, -1.0]))
    return calibrator


@pytest.fixture(scope="module")
def posterior(ranker):
    learnt = ranker.weight_change()
    posterior = LastLayerPosterior(*learnt.shape)
    rows = torch.randn(learnt.shape[0], 40, learnt.shape[1], generator=torch.Generator().manual_seed(2))
    posterior.fit(rows.transpose(1, 2) @ rows, learnt)
    return posterior


@pytest.fixture(scope="module")
def folder(tmp_path_factory, fitted, towers, ranker, calibrator, posterior):
    folder = tmp_path_factory.mktemp("graphs")
    export_user_tower(towers, fitted[0], folder / "user_tower.onnx")
    export_item_tower(towers, fitted[0], folder / "item_tower.onnx")
    export_ranker(ranker, calibrator, posterior, ranker_inputs(fitted[0], NUM_SOURCES), folder / "ranker.onnx")
    return folder


@pytest.fixture(scope="module")
def user_graph(folder, fitted):
    return OnnxModel(folder / "user_tower.onnx", RequestBatch.specs(fitted[0].sizes))


@pytest.fixture(scope="module")
def ranker_graph(folder, fitted):
    return OnnxModel(folder / "ranker.onnx", ranker_inputs(fitted[0], NUM_SOURCES))


def queries_of(prepared, num):
    """Real ones, a stranger, and one who only met what nobody knows."""
    rows = np.random.default_rng(num).integers(0, len(prepared.replay.items), num)
    unknown = Event(user="x", item="never heard of", timestamp=1.0, actions={"click": 1.0})
    odd = [
        Query(user="stranger", now=1_700_000_000.0),
        Query(user="x", now=2.0, history=(unknown,), profile={"segment": "none such"}, context={"device": 7}),
    ]
    return (odd + prepared.replay.queries(rows, k=1))[:num] if num > 1 else prepared.replay.queries(rows, k=1)


def request_of(prepared, fitted, num):
    return encode_queries(*fitted, queries_of(prepared, num))[0].tensors()


def candidates_of(items, batch, num):
    """Random rows with padding, and retrieval scores."""
    generator = np.random.default_rng(batch * num)
    rows = generator.integers(PAD, len(items), (batch, num))
    scores = generator.normal(size=(batch, num, ScoreLayout.unnamed(NUM_SOURCES).width)).astype(np.float32)
    return CandidateFeatures(items=items.at(rows), scores=scores).tensors()


def tensors(arrays):
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


@torch.no_grad()
@pytest.mark.parametrize("batch", BATCH_SIZES)
def test_the_user_graph_equals_its_module(prepared, fitted, towers, user_graph, batch):
    request = request_of(prepared, fitted, batch)
    eager = towers.users(tensors(request)).numpy()
    np.testing.assert_allclose(user_graph(request), eager, rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(user_graph(request), axis=1), 1, atol=1e-5)


@torch.no_grad()
def test_large_tables_go_into_the_graph(prepared, fitted, folder, monkeypatch):
    monkeypatch.setattr(sparse_embedding, "SPARSE_THRESHOLD_ROWS", 5)
    torch.manual_seed(0)
    encoder = partial(TransformerEncoder, num_blocks=1, num_heads=2)
    towers = TwoTower(spec=fitted[0], dim=8, dropout=0.0, id_dropout=0.0, user_encoder=encoder).eval()
    assert any(sparse_embedding.sparse_tables(towers))
    export_user_tower(TowerEnsemble([towers]), fitted[0], folder / "large.onnx")
    request = request_of(prepared, fitted, 3)
    found = OnnxModel(folder / "large.onnx", RequestBatch.specs(fitted[0].sizes))(request)
    np.testing.assert_allclose(found, towers.users(tensors(request)).numpy(), rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("known", [True, False], ids=["known", "new"])
def test_the_item_graph_equals_its_module(fitted, towers, folder, known):
    spec, items = fitted
    graph, rows = OnnxModel(folder / "item_tower.onnx", ItemBatch.specs(spec.sizes)), np.arange(len(items))
    features = ItemBatch(items=items.at(rows)).tensors()
    if not known:
        features["item_ids"] = np.where(np.arange(features["item_ids"].shape[1]) == 0, UNKNOWN, features["item_ids"])
    found = graph(features)
    np.testing.assert_allclose(found, towers.items(tensors(features)).numpy(), rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("batch", "num"), [*((batch, 33) for batch in BATCH_SIZES), *((2, c) for c in NUM_CANDIDATES)])
def test_the_ranker_graph_equals_its_modules(prepared, fitted, ranker, calibrator, posterior, ranker_graph, batch, num):
    arrays = {**request_of(prepared, fitted, batch), **candidates_of(fitted[1], batch, num)}
    eager = certainty(ranker, calibrator, posterior, tensors(arrays))
    answer = ranker_graph.named(arrays)
    assert list(answer) == ["probabilities", "deviations"]
    for found, wanted in zip(answer.values(), eager, strict=True):
        assert found.shape == (batch, num, 4)
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-5, atol=1e-5)
    probabilities = calibrator(*logits_and_request(ranker, calibrator.parents, tensors(arrays)))
    np.testing.assert_allclose(ranker_graph(arrays), probabilities.numpy(), rtol=0, atol=1e-5)
    assert (answer["deviations"] > 0).all()


def test_the_deviations_of_a_request_do_not_depend_on_its_batch(prepared, fitted, ranker_graph):
    arrays = {**request_of(prepared, fitted, 17), **candidates_of(fitted[1], 17, 9)}
    alone = [
        ranker_graph.named({name: array[row : row + 1] for name, array in arrays.items()})["deviations"]
        for row in range(17)
    ]
    np.testing.assert_allclose(ranker_graph.named(arrays)["deviations"], np.concatenate(alone), rtol=1e-5, atol=1e-5)


def test_the_calibration_is_inside(prepared, fitted, ranker, ranker_graph):
    arrays = {**request_of(prepared, fitted, 3), **candidates_of(fitted[1], 3, 5)}
    with torch.no_grad():
        uncalibrated = torch.sigmoid(ranker(tensors(arrays))).numpy()
    assert np.abs(ranker_graph(arrays) - uncalibrated).max() > 0.1


def test_the_answer_of_a_query_does_not_depend_on_its_batch(prepared, fitted, user_graph):
    request = request_of(prepared, fitted, 17)
    one_by_one = [user_graph({name: array[row : row + 1] for name, array in request.items()}) for row in range(17)]
    np.testing.assert_allclose(user_graph(request), np.concatenate(one_by_one), rtol=0, atol=1e-6)


class Constant(nn.Module):
    def forward(self, *arguments):
        return torch.full((len(arguments[0]), 1), 0.5)


class NotANumber(nn.Module):
    def forward(self, *arguments):
        return torch.full((len(arguments[0]), 1), torch.nan)


@pytest.mark.parametrize("other", [Constant(), NotANumber()], ids=["other", "nan"])
def test_a_graph_that_differs_from_its_module_is_refused(folder, fitted, other):
    with pytest.raises(BundleError, match=r"user_tower\.onnx differs from its module by"):
        check_against_eager(other, RequestBatch.specs(fitted[0].sizes), folder / "user_tower.onnx")


def test_a_graph_that_reads_what_the_spec_does_not_give_is_refused(folder, fitted):
    with pytest.raises(BundleError, match=r"ranker\.onnx reads the tensor 'candidate_"):
        OnnxModel(folder / "ranker.onnx", RequestBatch.specs(fitted[0].sizes))


def test_a_graph_of_another_width_is_refused_when_it_is_opened(folder, fitted):
    """A bundle of a version that read other features of retrieval fails before the first request."""
    other = ranker_inputs(fitted[0], NUM_SOURCES + 1)
    with pytest.raises(
        BundleError, match=r"ranker\.onnx reads \d+ features of 'candidate_scores', .*train the bundle again"
    ):
        OnnxModel(folder / "ranker.onnx", other)
