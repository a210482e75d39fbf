"""task=retrieval: the towers alone are trained, judged and saved, here with two interests a user in an ensemble of two.

Shapes: B queries, N items, D dim.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsys import pipeline
from recsys.bundle import Bundle
from recsys.cli.experiment import leave_out
from recsys.contracts import PAD, Query
from recsys.data.dataset import DESCRIPTION_FILE
from recsys.data.sources.tables import Tables
from recsys.data.splits import whole
from recsys.errors import ConfigError
from recsys.features.encode import encode_queries
from recsys.replay.replay import Replay
from recsys.stages import RANKER, Retrieve, load_stages

INTERESTS, MEMBERS, DIM = 2, 2, 16
BASELINES = ("recent_popularity", "item_knn", "transitions", "linear_mix", "ease", "als")
TOWERS = (
    "task=retrieval",
    "retrieval/user_encoder=multi_interest",
    f"retrieval.user_encoder.interests={INTERESTS}",
    f"retrieval.members={MEMBERS}",
    *(f"~evaluation.baselines.{name}" for name in BASELINES),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, composed: Any, run: Any, tiny: tuple[str, ...]) -> Path:
    place = tmp_path_factory.mktemp("towers") / "run"
    config = composed(place, *tiny, *TOWERS)
    leave_out(config)
    run(config)
    return place


@pytest.fixture(scope="module")
def queries(folder: Path) -> list[Query]:
    dataset = Tables(description=str(folder / "data" / DESCRIPTION_FILE)).load()
    replay = Replay(dataset, whole(dataset))
    return [*replay.queries([500, 2_000, 3_999], k=5), Query(user="stranger", now=float(replay.timestamps.max()), k=5)]


def test_the_report_is_of_the_towers_and_their_index_on_both_periods(folder: Path) -> None:
    report = json.loads((folder / "metrics.json").read_text())
    assert report["ours"] == ["towers", "retrieval"]
    assert 0 < report["rows"]["towers"]["recall@100"] <= 1
    assert report["rows"]["towers"]["ndcg@10"] == report["rows"]["retrieval"]["ndcg@10"]
    assert set(report["validation"]["rows"]) >= {"towers", "retrieval"}
    assert "the index finds 100.0% of the nearest items of the towers" in " ".join(report["notes"])
    assert not report["objectives"]


def test_the_bundle_has_the_towers_alone_and_serves_them(folder: Path, queries: list[Query]) -> None:
    bundle = Bundle.open(folder / "bundle")
    assert not bundle.has(RANKER)
    assert [one["name"] for one in bundle.document("candidates.json")["sources"]] == ["two_tower"]
    config = bundle.document("config.yaml")
    assert config["task"] == "retrieval"
    assert config["ranking"] is None
    assert [name for name, source in config["candidates"]["sources"].items() if source] == ["two_tower"]
    for slate in pipeline.recommend(queries, load_stages(bundle)):
        assert len(slate.items) == 5


def test_served_candidates_have_the_largest_cosine_with_any_combination_of_interests(
    folder: Path, queries: list[Query]
) -> None:
    bundle = Bundle.open(folder / "bundle")
    retrieve = load_stages(bundle)[0]
    assert isinstance(retrieve, Retrieve)
    items = bundle.arrays("item_vectors.safetensors")["vectors"]
    assert items.shape[1] == MEMBERS * DIM
    request, _ = encode_queries(retrieve.spec, retrieve.items, queries)
    users = retrieve.user_tower(request.tensors())
    assert users.shape == (len(queries), INTERESTS**MEMBERS * MEMBERS * DIM)
    interests = users.reshape(len(queries), -1, MEMBERS * DIM)
    differ = interests.std(axis=1).max(axis=1) > 1e-4
    assert differ.tolist() == [True, True, True, False], "a stranger has no events to weigh"
    cosines = (interests @ items.T).max(axis=1)
    answer = retrieve({"QUERY": queries})
    excluded = retrieve._excluded(queries)
    for row, query in enumerate(queries):
        found = answer["candidate_rows"][row]
        found = found[found != PAD]
        np.testing.assert_allclose(answer["merged_scores"][row][: len(found)], cosines[row, found], atol=1e-5)
        others = np.setdiff1d(np.arange(len(items)), np.concatenate([found, excluded[row]]))
        assert len(set(found)) == len(found), query.user
        if len(others):
            assert cosines[row, others].max() <= cosines[row, found].min() + 1e-6


def test_towers_without_their_source_are_refused(
    composed: Any, run: Any, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    config = composed(tmp_path / "run", *tiny, "task=retrieval", "candidates.sources.two_tower=null")
    with pytest.raises(
        Exception, match=r"candidates\.sources has no source; give at least one, e\.g\. two_tower"
    ) as refused:
        run(config)
    assert isinstance(refused.value.__cause__ or refused.value, ConfigError)
