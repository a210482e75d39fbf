"""Thompson sampling from training to the slate: the ranker says how unsure it is, chance draws by that, here and on Triton."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsys.bundle import Bundle
from recsys.contracts import Query, Slate
from recsys.data.dataset import DESCRIPTION_FILE
from recsys.data.sources.tables import Tables
from recsys.data.splits import whole
from recsys.export.repository import write_repository
from recsys.pipeline import light, recommend, through
from recsys.policy.compose import Policy
from recsys.policy.slate.slate_batch import NO_UNCERTAINTY
from recsys.replay.replay import Replay
from recsys.stages import Stages, load_rank, load_retrieve, load_rules, load_stages
from serving.triton.client import Client
from serving.triton.server import TritonServer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, composed: Any, run: Any, tiny: Any) -> Path:
    folder = tmp_path_factory.mktemp("thompson")
    _, bundle = run(composed(folder, *tiny, "policy/exploration=thompson", "policy.exploration.rate=3.0"))
    write_repository(bundle, folder / "serve", "cpu")
    return folder


@pytest.fixture(scope="module")
def stages(folder: Path) -> Stages:
    return load_stages(Bundle.open(folder / "bundle"))


@pytest.fixture(scope="module")
def queries(folder: Path) -> list[Query]:
    dataset = Tables(description=str(folder / "data" / DESCRIPTION_FILE)).load()
    rows = np.random.default_rng(0).choice(dataset.num_events, 60, replace=False)
    return Replay(dataset, whole(dataset)).queries(rows, k=8)


def told(slate: Slate) -> list[tuple[str, bool]]:
    return [(item.item, item.explored) for item in slate.items]


def chances(slates: list[Slate]) -> np.ndarray:
    return np.array([[item.propensity for item in slate.items] for slate in slates])


def test_every_candidate_has_a_deviation_for_every_objective(stages: Stages, queries: list[Query]) -> None:
    tensors = through({"QUERY": queries}, stages[:-1])
    assert tensors["deviations"].shape == tensors["probabilities"].shape
    offered = tensors["candidate_rows"] >= 0
    assert (tensors["deviations"][offered] > 0).all()
    assert np.isfinite(tensors["deviations"]).all()


def test_slates_are_explored_and_can_be_replayed(stages: Stages, queries: list[Query]) -> None:
    slates = recommend(queries, stages)
    found = chances(slates)
    assert ((found > 0) & (found <= 1)).all()
    assert 0 < np.mean([explored for slate in slates for _, explored in told(slate)]) < 1
    assert not [slate for slate in slates if NO_UNCERTAINTY in slate.degraded]
    assert recommend(queries, stages) == slates


def test_the_server_draws_the_same(folder: Path, stages: Stages, queries: list[Query]) -> None:
    with TritonServer(folder / "serve" / "current" / "models") as server, Client(server.grpc_url) as client:
        served, short = client.recommend(queries), client.recommend(queries[:5], model="recommend_light")
    expected = recommend(queries, stages)
    assert [told(slate) for slate in served] == [told(slate) for slate in expected]
    np.testing.assert_allclose(chances(served), chances(expected), atol=1e-5, rtol=0)
    assert all({"rank", NO_UNCERTAINTY} <= set(slate.degraded) for slate in short)
    assert (chances(short) == 1).all()
    assert short == recommend(queries[:5], light(stages))


def test_a_bundle_of_another_policy_pays_for_no_deviations_and_says_so_when_asked(folder: Path, trained: Any) -> None:
    bundle, thompson = trained.bundle, Bundle.open(folder / "bundle")
    assert [tensor.name for tensor in load_rank(thompson).outputs[:-1]] == ["probabilities", "deviations"]
    assert [tensor.name for tensor in load_rank(bundle).outputs[:-1]] == ["probabilities"]
    rules = load_rules(bundle, policy=Policy.from_document(thompson.document("policy.yaml")))
    slates = recommend(trained.replay.queries([5, 6], k=5), (load_retrieve(bundle), load_rank(bundle), rules))
    assert all(NO_UNCERTAINTY in slate.degraded for slate in slates)
    assert (chances(slates) == 1).all()
