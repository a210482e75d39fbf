"""The contract of a user encoder, for every file of conf/retrieval/user_encoder: causal, padding changes nothing, batch equals
single, a gradient for every weight, fit, export, exported equals eager, save, load, same seed same weights.

Shapes: B batch, L history, P = L + 1 positions, D dim.
"""

from copy import deepcopy
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

from recsys.content.text import TextVectors
from recsys.contracts import Query
from recsys.data.sources.synthetic import Synthetic
from recsys.data.splits import TEST, GlobalTime
from recsys.errors import ConfigError
from recsys.features.batches import RequestBatch
from recsys.features.encode import encode_queries
from recsys.features.spec import Features
from recsys.graphs.export import export_user_tower
from recsys.retrieval.softmax import SoftmaxLoss
from recsys.retrieval.two_tower import TowerEnsemble
from recsys.retrieval.user_encoder import UserEncoder
from recsys.stages import OnnxModel
from recsys.training.optimizers import DEFAULT_OPTIMIZER
from recsys.training.prepare import prepare
from recsys.training.retrieval import RetrievalExamples, RetrievalTrainerConfig
from recsys.training.schedules import DEFAULT_SCHEDULE
from recsys.training.trainer import cpu_trainer

pytestmark = pytest.mark.slow

FILES = Path(__file__).parents[2] / "conf" / "retrieval" / "user_encoder"
B, L, D = 5, 6, 8


def config(factory):
    return RetrievalTrainerConfig(
        dim=D,
        dropout=0.1,
        id_dropout=0.1,
        user_encoder=factory,
        loss=SoftmaxLoss(temperature=0.3),
        negatives=0,
        lookahead=2,
        lookahead_decay=1.0,
        members=1,
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
    )


@pytest.fixture(scope="module", params=sorted(file.stem for file in FILES.glob("*.yaml")))
def factory(request):
    return instantiate(OmegaConf.load(FILES / f"{request.param}.yaml"))


@pytest.fixture(scope="module")
def encoder(factory):
    """With weights that all matter: those that begin at 0 are drawn."""
    torch.manual_seed(0)
    encoder = factory(dim=D, length=L, dropout=0.5).eval().requires_grad_(False)
    for weights in encoder.parameters():
        if not weights.any():
            torch.nn.init.normal_(weights)
    return encoder


@pytest.fixture(scope="module")
def tokens():
    return torch.randn(B, L + 1, D, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def gaps():
    return 15 * torch.rand(B, L, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def present():
    """Histories of 6, 4, 2, 1 and 0 events, padding in front."""
    return torch.arange(L) >= torch.tensor([[0], [2], [4], [5], [6]])


@pytest.fixture(scope="module")
def prepared():
    dataset = Synthetic(users=30, items=20, events=800, seed=0).load()
    split = GlobalTime(rank=0.1, validation=0.1, test=0.2, cuts=1, later=0.0, horizon_days=None).splits(dataset)[-1]
    features = Features(history_length=L, max_values=3, min_count=1, leave_out=["position"])
    return prepare(dataset, split, features, TextVectors(dim=4, min_documents=1, seed=0))


@pytest.fixture(scope="module")
def fit(prepared, tmp_path_factory):
    known = prepared.split.known(TEST)
    spec, items = prepared.spec(known)

    def fit(factory, seed=0):
        trainer = cpu_trainer(threads=1)
        examples = RetrievalExamples.of(prepared, spec, known)
        folder = tmp_path_factory.mktemp("towers")
        options = {"trainer": trainer, "folder": folder, "epochs": 1, "seed": seed, "loggers": []}
        return config(factory).fit(spec, items, examples, None, **options)[0].members[0]

    return fit


@pytest.fixture(scope="module")
def trained(fit, factory):
    return fit(factory)


def test_an_encoder_has_three_members():
    assert {name for name in vars(UserEncoder) if not name.startswith("_")} == {"forward", "last", "interests"}


def test_states_are_finite_also_without_any_event(encoder, tokens, present, gaps):
    states = encoder(tokens, present, gaps)
    assert states.shape == (B, L + 1, encoder.interests * D)
    assert states.isfinite().all()


def test_the_last_state_is_that_of_the_whole_history_or_of_the_start_token(encoder, tokens, present, gaps):
    states = encoder(tokens, present, gaps)
    expected = torch.stack([states[row, -1] if present[row].any() else states[row, 0] for row in range(B)])
    torch.testing.assert_close(encoder.last(tokens, present, gaps), expected, rtol=0, atol=1e-5)
    alone = encoder.last(tokens[:, :1], present[:, :0], gaps[:, :0])
    torch.testing.assert_close(alone, states[:, 0], rtol=0, atol=1e-5)


def test_a_state_reads_its_token_and_gap_and_those_before_them_alone(encoder, tokens, gaps):
    every = torch.ones(B, L, dtype=torch.bool)
    before = encoder(tokens, every, gaps)
    for position in range(L + 1):
        changed, later = tokens.clone(), gaps.clone()
        changed[:, position, 0] += 1
        later[:, max(position - 1, 0) :] += 1
        after = encoder(changed, every, later if position else gaps)
        torch.testing.assert_close(after[:, :position], before[:, :position], rtol=0, atol=1e-6)
        assert ((after - before)[:, position:].abs().amax(-1) > 1e-6).all()


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(0, L), min_size=1, max_size=4), seed=st.integers(0, 2**31))
def test_padding_changes_no_state(encoder, lengths, seed):
    random = torch.Generator().manual_seed(seed)
    tokens = torch.randn(len(lengths), L + 1, D, generator=random)
    gaps, noise = (15 * torch.rand(2, len(lengths), L, generator=random)).unbind()
    present = torch.arange(L) >= L - torch.tensor(lengths).unsqueeze(1)
    states, here = encoder(tokens, present, gaps), torch.nn.functional.pad(present, (1, 0), value=True)
    noisy = torch.where(here.unsqueeze(-1), tokens, 100 * torch.randn(D, generator=random))
    others = encoder(noisy, present, torch.where(present, gaps, noise))
    torch.testing.assert_close(others[here], states[here], rtol=0, atol=1e-6)
    for row, length in enumerate(lengths):
        events = present[row]
        alone = encoder(tokens[row : row + 1, here[row]], torch.ones(1, length).bool(), gaps[row : row + 1, events])
        torch.testing.assert_close(alone[0], states[row, here[row]], rtol=0, atol=1e-5)


def test_a_batch_equals_its_single_histories(encoder, tokens, present, gaps):
    together = encoder(tokens, present, gaps)
    alone = [encoder(tokens[[row]], present[[row]], gaps[[row]]) for row in range(B)]
    torch.testing.assert_close(torch.cat(alone), together, rtol=0, atol=1e-6)


def test_a_gradient_reaches_every_weight(encoder, tokens, present, gaps):
    trained = deepcopy(encoder).requires_grad_()
    (trained(tokens, present, gaps) * tokens.flip(0).repeat(1, 1, encoder.interests)).sum().backward()
    for name, weights in trained.named_parameters():
        assert weights.grad is not None, name
        assert weights.grad.abs().amax() > 1e-6, name


def test_training_reaches_every_weight(trained, factory):
    torch.manual_seed(0)
    untrained = factory(dim=D, length=L, dropout=0.1).state_dict()
    for name, weights in trained.user_encoder.state_dict().items():
        assert not torch.equal(weights, untrained[name]), name


def test_the_exported_graph_equals_the_modules(trained, prepared, tmp_path):
    spec, items = prepared.spec(prepared.split.known(TEST))
    queries = [*prepared.replay.queries([3, 200, 799], k=1), Query(user="stranger", now=0.0)]
    request, _ = encode_queries(spec, items, queries)
    arrays = request.tensors()
    ensemble = TowerEnsemble([trained]).eval()
    export_user_tower(ensemble, spec, tmp_path / "user_tower.onnx")
    with torch.no_grad():
        eager = ensemble.users({name: torch.from_numpy(part) for name, part in arrays.items()}).numpy()
    graph = OnnxModel(tmp_path / "user_tower.onnx", RequestBatch.specs(spec.sizes))
    for rows in (slice(None), slice(1, 2)):
        (found,) = graph.named({name: part[rows] for name, part in arrays.items()}).values()
        np.testing.assert_allclose(found, eager[rows], rtol=0, atol=1e-5)


def test_saved_weights_give_the_same_states_and_a_seed_the_same_weights(trained, fit, factory, tokens, present, gaps):
    again = factory(dim=D, length=L, dropout=0.1).eval()
    again.load_state_dict(load(save(trained.user_encoder.state_dict())))
    with torch.no_grad():
        assert torch.equal(again(tokens, present, gaps), trained.user_encoder(tokens, present, gaps))
    for name, weights in fit(factory).state_dict().items():
        assert torch.equal(weights, trained.state_dict()[name]), name


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("transformer", "num_heads", 3),
        ("transformer", "num_blocks", -1),
        ("hstu", "num_heads", 0),
        ("sasrec", "num_heads", 3),
        ("esasrec", "num_blocks", 49),
        ("bert4rec", "num_heads", 3),
        ("gru", "num_layers", 0),
        ("multi_interest", "interests", 17),
        ("session", "gap_minutes", 0.0),
        ("multi_interest", "attention_dim", 0),
    ],
)
def test_a_wrong_key_is_refused_before_the_data_are_read(name, key, value):
    wrong = partial(instantiate(OmegaConf.load(FILES / f"{name}.yaml")), **{key: value})
    state = torch.get_rng_state()
    with pytest.raises(ConfigError, match=f"retrieval.user_encoder.{key}"):
        config(wrong)
    assert torch.equal(state, torch.get_rng_state())
