"""The contract of a ranker, for every file of conf/ranking/model: fit, export, exported equals eager, save, load, a gradient
for every weight, padding changes nothing, batch equals single, unknown and NaN inputs, same seed same weights.

Shapes: B batch, C candidates, T objectives.
"""

from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from safetensors.torch import load, save

from recsys.candidates.score_layout import ScoreLayout
from recsys.content.text import TextVectors
from recsys.contracts import PAD, Event, Query
from recsys.data.sources.synthetic import Synthetic
from recsys.data.splits import VALIDATION, GlobalTime
from recsys.features.batches import CandidateFeatures
from recsys.features.encode import encode_queries
from recsys.features.spec import Features
from recsys.graphs.export import export_ranker
from recsys.nn.sparse_embedding import sparse_tables
from recsys.ranking.dcn_v2 import DCNv2Ranker
from recsys.ranking.losses import BinaryCrossEntropy, ListNet
from recsys.ranking.model import RankerInputs, RankerModel, RankerSizes, logits_and_request
from recsys.ranking.uncertainty import certainty
from recsys.stages import OnnxModel, ranker_inputs
from recsys.training.optimizers import DEFAULT_OPTIMIZER
from recsys.training.prepare import prepare
from recsys.training.ranking import RankerTrainerConfig
from recsys.training.ranking_examples import ExampleSampling
from recsys.training.schedules import DEFAULT_SCHEDULE
from recsys.training.slates import Slates, logged_examples
from recsys.training.trainer import cpu_trainer

pytestmark = pytest.mark.slow

MODELS = Path(__file__).parents[2] / "conf" / "ranking" / "model"
NUM_SOURCES = 2
SIZES = {
    "dim": 8,
    "num_heads": 2,
    "cross_rank": 4,
    "num_cross_layers": 1,
    "num_experts": 2,
    "expert_dim": 8,
    "dropout": 0.1,
    "id_dropout": 0.3,
    "feature_dropout": 0.1,
}
SAMPLING = ExampleSampling(
    requests_per_user=1,
    requests=10**6,
    validation_requests=10**6,
    examples_gib=1.0,
    dense_candidates=10,
    shown=None,
)
MEMBERS = {
    "forward",
    "request",
    "last_layer",
    "weight_change",
    "fit_scores",
    "fit_values",
    "shared",
    "fit",
    "retrieval_first",
    "order_by_retrieval",
}


def config(model, **changed):
    return RankerTrainerConfig(
        model=model,
        sizes=RankerSizes(**SIZES),
        num_positions=4,
        sampling=SAMPLING,
        pointwise=BinaryCrossEntropy(),
        loss=ListNet(),
        listwise_weight=0.5,
        balance="equal",
        watch="likelihood",
        batch_size=16,
        epochs=1,
        most_examples=None,
        patience=1,
        learning_rate=0.01,
        weight_decay=0.01,
        optimizer=DEFAULT_OPTIMIZER,
        scheduler=DEFAULT_SCHEDULE,
        **changed,
    )


@pytest.fixture(scope="module")
def prepared():
    dataset = Synthetic(users=40, items=30, events=1_500, seed=0).load()
    objectives = dict(list(dataset.description.objectives.items())[:2])  # an export takes time for each
    dataset = replace(dataset, description=replace(dataset.description, objectives=objectives))
    split = GlobalTime(rank=0.2, validation=0.3, test=0.2, cuts=1, later=0.0, horizon_days=None).splits(dataset)[-1]
    features = Features(history_length=6, max_values=3, min_count=2, leave_out=["position"])
    return prepare(dataset, split, features, TextVectors(dim=4, min_documents=1, seed=0))


@pytest.fixture(scope="module")
def fitted(prepared):
    return prepared.spec(prepared.split.known(VALIDATION))


@pytest.fixture(scope="module")
def examples(prepared, fitted):
    """Logged slates of two periods, 60 of each, with retrieval scores drawn at random."""
    split, generator, found = prepared.split, np.random.default_rng(0), []
    for period in (split.known(VALIDATION), split.periods == VALIDATION):
        one = logged_examples(prepared, *fitted, Slates.of(prepared, period), position="position")
        shape = (*one.candidate_rows.shape, ScoreLayout.unnamed(NUM_SOURCES).width)
        object.__setattr__(one, "candidate_scores", generator.normal(size=shape).astype(np.float32))
        found.append(one.at(np.arange(60)))
    return found


@pytest.fixture(scope="module")
def train(fitted, examples, tmp_path_factory):
    def train(model, seed=0):
        loop = cpu_trainer(threads=1)
        folder = tmp_path_factory.mktemp("ranker")
        return config(model).fit(*fitted, *examples, trainer=loop, folder=folder, seed=seed, loggers=[])

    return train


@pytest.fixture(scope="module", params=sorted(file.stem for file in MODELS.glob("*.yaml")))
def model(request):
    return instantiate(OmegaConf.load(MODELS / f"{request.param}.yaml"))


@pytest.fixture(scope="module")
def trained(train, model):
    return train(model)


@pytest.fixture(scope="module")
def learnt(trained):
    """The ranker, where gradient descent trains it."""
    if not list(trained.ranker.parameters()):
        pytest.skip("fitted without gradients")
    return trained.ranker


@pytest.fixture(scope="module")
def batch(prepared, fitted):
    """Logged queries, a stranger, and one with unknown values and NaN; the last candidate is padding."""
    unknown = Event(user="x", item="never heard of", timestamp=1.0, actions={"click": 1.0})
    strange = {name: float("nan") for name in prepared.dataset.users.columns}
    queries = [
        *prepared.replay.queries([3, 200, 600, 1_499], k=1),
        Query(user="stranger", now=0.0),
        Query(user="x", now=2.0, history=(unknown,), profile=strange, context={"device": 7, "position": float("nan")}),
    ]
    rows = np.stack([np.random.default_rng(0).permutation(len(fitted[1]))[:9] for _ in queries])
    rows[:, -1] = PAD
    request, _ = encode_queries(*fitted, queries)
    scores = (
        np.random.default_rng(1).normal(size=(*rows.shape, ScoreLayout.unnamed(NUM_SOURCES).width)).astype(np.float32)
    )
    return request.tensors() | CandidateFeatures(items=fitted[1].at(rows), scores=scores).tensors()


def tensors(arrays):
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def probabilities(trained, arrays):
    with torch.no_grad():
        return trained.calibrator(*logits_and_request(trained.ranker, trained.calibrator.parents, tensors(arrays)))


def test_a_ranker_has_ten_members():
    assert {name for name in vars(RankerModel) if not name.startswith("_")} == MEMBERS


@pytest.mark.parametrize("parents", [(None, None), (1, None), (None, 0)])
def test_an_objective_that_is_ordered_by_retrieval_leaves_the_others_as_they_are(learnt, batch, parents):
    """Also where it is conditional on another one, or another one on it."""
    if not learnt.retrieval_first:
        with pytest.raises(NotImplementedError, match="does not begin with the order of retrieval"):
            learnt.order_by_retrieval(0)
        return
    ordered = deepcopy(learnt).eval()
    ordered.parents = parents
    given = tensors(batch)
    with torch.no_grad():
        before = ordered.last_layer(given, ordered.request(given)).logits
        ordered.order_by_retrieval(0)
        after, reached = ordered.last_layer(given, ordered.request(given)).logits, ordered(given)
    own = given["candidate_scores"][..., 0]
    assert (reached[..., 0].argsort(dim=1) == own.argsort(dim=1)).all()
    kept = [1] if parents != (1, None) else []
    assert torch.equal(after[..., kept], before[..., kept])


def test_probabilities_of_strangers_unknown_values_and_padding_are_finite(trained, batch):
    found = probabilities(trained, batch)
    assert found.shape == (6, 9, trained.posterior.factors.shape[0])
    assert found.isfinite().all()
    assert ((found > 0) & (found < 1)).all()


def test_batch_equals_single_and_candidates_never_see_each_other(trained, batch):
    together = probabilities(trained, batch)
    for row in range(6):
        one = {name: part[row : row + 1] for name, part in batch.items()}
        torch.testing.assert_close(probabilities(trained, one), together[row : row + 1], rtol=1e-5, atol=1e-6)
    few = {name: part[:, 2:5] if name.startswith("candidate_") else part for name, part in batch.items()}
    torch.testing.assert_close(probabilities(trained, few), together[:, 2:5], rtol=1e-5, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(num=st.integers(1, 5), rows=st.lists(st.integers(0, 5), min_size=1, max_size=3))
def test_padding_of_a_history_changes_nothing(trained, batch, num, rows):
    some = {name: part[rows] for name, part in batch.items()}
    padded = {
        name: np.pad(part, [(0, 0), (num, 0), *[(0, 0)] * (part.ndim - 2)]) if name.startswith("history_") else part
        for name, part in some.items()
    }
    torch.testing.assert_close(probabilities(trained, padded), probabilities(trained, some), rtol=1e-5, atol=1e-6)


def test_a_gradient_reaches_every_weight(learnt, batch):
    """Heads begin at zero, behind which nothing is trained: they are drawn."""
    torch.manual_seed(0)
    ranker = deepcopy(learnt)
    for layer in filter(None, (ranker.heads, ranker.wide)):
        torch.nn.init.normal_(layer.weight)
    positions = torch.arange(9).expand(6, 9)
    logits = ranker({**tensors(batch), "candidate_positions": positions})
    before = [(table, table.squares.sum().item()) for table in sparse_tables(ranker)]
    (logits * torch.randn(logits.shape)).sum().backward()
    for table, squares in before:  # these take their step within the backward pass and keep no gradient
        assert table.squares.sum().item() > squares
    own = {id(table.weight) for table, _ in before}
    for name, weights in ranker.named_parameters():
        if id(weights) in own:
            continue
        assert weights.grad is not None, name
        assert weights.grad.abs().amax() > 1e-7, name


def test_training_moves_the_ranker_and_candidates_differ(trained, batch):
    assert trained.ranker.weight_change().any()
    differ = probabilities(trained, batch)[:, :-1].std(1) > 0
    assert (
        differ.all() if list(trained.ranker.parameters()) else differ.any()
    )  # few rows make no tree of each objective


@torch.no_grad()
def test_conditional_logits_are_linear_in_the_features_of_the_last_layer(trained, batch):
    """From the prior's mean, the untrained ranker: what training added is features times the change of the weights."""
    ranker, given = trained.ranker, tensors(batch)
    logits, features = ranker.last_layer(given, ranker.request(given))
    change = ranker.weight_change()
    added = torch.stack([one @ change[index] for index, one in enumerate(features())], dim=-1)
    rest = logits - added
    expected = rest[..., :1].expand_as(
        rest
    )  # the same offset for every objective: initial logit, and first score if any
    torch.testing.assert_close(rest, expected, rtol=1e-4, atol=1e-4)


def test_the_exported_graph_equals_the_modules(trained, fitted, batch, tmp_path):
    inputs = ranker_inputs(fitted[0], NUM_SOURCES)
    posterior = trained.posterior if isinstance(trained.ranker, DCNv2Ranker) else None
    export_ranker(trained.ranker, trained.calibrator, posterior, inputs, tmp_path / "ranker.onnx")
    found = OnnxModel(tmp_path / "ranker.onnx", inputs).named(batch)
    np.testing.assert_allclose(found["probabilities"], probabilities(trained, batch).numpy(), rtol=0, atol=1e-5)
    if (
        posterior is not None
    ):  # the features of the last layer of all others are read by the tests above, and not exported
        with torch.no_grad():
            _, deviations = certainty(trained.ranker, trained.calibrator, posterior, tensors(batch))
        np.testing.assert_allclose(found["deviations"], deviations.numpy(), rtol=1e-5, atol=1e-5)


def test_saved_weights_loaded_into_a_new_ranker_give_the_same_figures(trained, model, fitted, batch):
    parents, num_scores = trained.calibrator.parents, ScoreLayout.unnamed(NUM_SOURCES).width
    again = config(model).ranker(fitted[0], num_scores, parents).eval()
    again.load_state_dict(load(save(trained.ranker.state_dict())))
    for loaded, saved in zip(again.state_dict().values(), trained.ranker.state_dict().values(), strict=True):
        assert torch.equal(loaded, saved)
    with torch.no_grad():
        assert torch.equal(again(tensors(batch)), trained.ranker(tensors(batch)))


def test_the_same_seed_gives_the_same_weights(trained, train, model):
    again = train(model)
    for name, weights in trained.ranker.state_dict().items():
        assert torch.equal(weights, again.ranker.state_dict()[name]), name


def test_another_seed_gives_other_weights(learnt, model, fitted):
    torch.manual_seed(1)
    other = config(model).ranker(fitted[0], ScoreLayout.unnamed(NUM_SOURCES).width, learnt.parents)
    torch.manual_seed(2)
    different = config(model).ranker(fitted[0], ScoreLayout.unnamed(NUM_SOURCES).width, learnt.parents)
    assert not torch.equal(other.shared, different.shared)


def test_gradients_reach_the_shared_weights_from_every_objective(learnt, batch):
    ranker = learnt
    logits = ranker.last_layer(tensors(batch), ranker.request(tensors(batch))).logits
    for objective in range(logits.shape[-1]):
        (gradient,) = torch.autograd.grad(logits[..., objective].sum(), ranker.shared, retain_graph=True)
        assert gradient.any()


def test_an_unfinished_ranker_is_refused_by_name(fitted):
    class Unfinished(RankerModel):
        pass

    inputs = RankerInputs(spec=fitted[0], num_scores=0, num_positions=0, parents=(None,) * fitted[0].num_objectives)
    with pytest.raises(TypeError, match="last_layer"):
        partial(Unfinished, inputs=inputs, sizes=RankerSizes(**SIZES))()
