"""`python train.py recipe=sequence` on a file of `user item item ...`: from the text to a server without a ranker."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsys.bundle import Bundle
from recsys.contracts import Event, Query
from recsys.errors import exit_on_error
from recsys.export.repository import write_repository
from recsys.pipeline import light, recommend
from recsys.stages import RANKER, Stages, load_stages
from serving.triton.client import Client
from serving.triton.server import TritonServer

pytestmark = pytest.mark.slow

USERS, ITEMS = 60, 40
SMALL = (
    "recipe=sequence",
    "retrieval.dim=16",
    "retrieval.user_encoder.num_blocks=1",
    "retrieval.user_encoder.num_heads=2",
    "retrieval.epochs=2",
    "retrieval.negatives=10",
    "retrieval.batch_size=128",
    "trainer.progress=false",
    "trainer.threads=1",
    "logger=csv",
)
PATIENCE_S = 240


@pytest.fixture(scope="module")
def walks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Users walk along a circle of items, every item has its neighbourhood as an attribute."""
    folder, rng = tmp_path_factory.mktemp("walks"), np.random.default_rng(0)
    steps = (rng.integers(ITEMS) + np.cumsum(rng.integers(1, 4, rng.integers(6, 12))) for _ in range(USERS))
    lines = [f"{user} {' '.join(str(step % ITEMS) for step in walk)}\n" for user, walk in enumerate(steps)]
    (folder / "walks.txt").write_text("".join(lines))
    known = {str(item): [item // 5, f"third {item % 3}"] for item in range(ITEMS)}
    (folder / "walks_item2attributes.json").write_text(json.dumps(known))
    return folder / "walks.txt"


def trained(root: Path, path: Path, run_dir: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "train.py", *SMALL, *options, f"data.path={path}", f"run_dir={run_dir}"],
        cwd=root,
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


@pytest.fixture(scope="module")
def finished(root: Path, walks: Path) -> Path:
    """The run directory."""
    folder = walks.parent / "run"
    done = trained(root, walks, folder, "~ranking")
    assert done.returncode == 0, done.stderr[-2_000:]
    assert "retrieval" in done.stdout
    assert f"next     python export.py bundle={folder / 'bundle'}" in done.stdout.replace("\n", "")
    return folder


@pytest.fixture(scope="module")
def bundle(finished: Path) -> Bundle:
    return Bundle.open(finished / "bundle")


@pytest.fixture(scope="module")
def stages(bundle: Bundle) -> Stages:
    return load_stages(bundle)


@pytest.fixture(scope="module")
def queries() -> list[Query]:
    """Of somebody new, of somebody who met only what nobody knows, and of walkers with more or less behind them."""
    histories = [[], ["no such item"], *([str(step % ITEMS) for step in range(num)] for num in range(1, 25, 4))]
    return [
        Query(
            user=f"walker {number}",
            now=100.0,
            k=10,
            history=tuple(Event(user="", item=item, timestamp=float(time)) for time, item in enumerate(items)),
            request_id=str(number),
        )
        for number, items in enumerate(histories)
    ]


def test_the_report_has_every_row_and_says_what_was_asked(finished: Path) -> None:
    report = json.loads((finished / "metrics.json").read_text())
    assert report["protocol"].startswith("walks, leave one out split, nothing fitted on validation or test")
    assert list(report["rows"]) == [
        *("popularity", "item_knn", "transitions", "linear_mix", "ease", "als"),
        *("towers", "retrieval"),
    ]
    assert report["ours"] == ["towers", "retrieval"]
    assert report["seeds"] == [0]
    assert report["users"] == USERS
    assert len(report["targets_sha256"]) == 64
    for row in report["rows"].values():
        assert 0 <= row["recall@10"] <= row["recall@100"] <= row["recall@500"] <= 1
        assert {"ndcg@10", "coverage@10", "ci95"} <= row.keys()
    assert (finished / "metrics.png").is_file()


def test_the_ranker_stands_beside_retrieval(root: Path, walks: Path, finished: Path, queries: list[Query]) -> None:
    folder = walks.parent / "ranked"
    done = trained(root, walks, folder, "ranking.epochs=1", "ranking.sampling.dense_candidates=10")
    assert done.returncode == 0, done.stderr[-2_000:]
    rows, before = (json.loads((one / "metrics.json").read_text())["rows"] for one in (folder, finished))
    assert list(rows)[-3:] == ["towers", "retrieval", "pipeline"]
    assert rows["retrieval"]["ndcg@10"] == before["retrieval"]["ndcg@10"]
    assert rows["pipeline"]["recall@500"] == 1
    stages = load_stages(Bundle.open(folder / "bundle"))
    for slate in recommend(queries, stages):
        probabilities = [place.probabilities["buy"] for place in slate.items]
        assert probabilities == sorted(probabilities, reverse=True)


def test_what_follows_on_a_circle_is_found(finished: Path) -> None:
    rows = json.loads((finished / "metrics.json").read_text())["rows"]
    assert rows["retrieval"]["recall@10"] > 2 * rows["popularity"]["recall@10"]
    assert rows["retrieval"]["recall@500"] == 1, "every item but those that were met is retrieved"


def test_the_bundle_holds_no_ranker_and_answers_without_one(
    bundle: Bundle, stages: Stages, queries: list[Query]
) -> None:
    assert not bundle.has(RANKER)
    assert not [name for name in bundle.arrays("weights.safetensors") if not name.startswith("towers.")]
    assert [stage.name for stage in stages] == ["retrieve", "rules"]
    assert light(stages) == stages
    slates = recommend(queries, stages)
    assert [len(slate.items) for slate in slates] == [10] * len(queries)
    assert "history:empty" in slates[0].degraded
    assert "history:unknown" in slates[1].degraded
    for query, slate in zip(queries, slates, strict=True):
        assert not {place.item for place in slate.items} & {event.item for event in query.history}
        assert not any(place.probabilities for place in slate.items)
        utilities = [place.utility for place in slate.items]
        assert np.isfinite(utilities).all()


def test_one_source_alone_fills_all_places(stages: Stages, queries: list[Query]) -> None:
    retrieve = stages[0]
    alone = retrieve.only("two_tower")
    found = alone({"QUERY": queries})
    assert alone.sources.names == ("two_tower",)
    assert found["source_scores"].shape[-1] == 1
    everything = retrieve({"QUERY": queries})
    for row in range(len(queries)):
        assert set(found["candidate_rows"][row]) == set(everything["candidate_rows"][row]), "all of a small catalogue"
    scores = np.where(found["candidate_rows"] < 0, 0, found["merged_scores"])
    np.testing.assert_array_equal(scores, np.nan_to_num(found["source_scores"][..., 0]))
    assert (np.diff(scores[0][found["candidate_rows"][0] >= 0]) <= 0).all()


@pytest.fixture(scope="module")
def client(bundle: Bundle, finished: Path) -> Iterator[Client]:
    names = write_repository(bundle, finished / "serve", "cpu")
    assert names == ["retrieve", "rules", "recommend", "recommend_light"]
    with TritonServer(finished / "serve" / "current" / "models") as server, Client(server.grpc_url) as client:
        yield client


@pytest.mark.parametrize("model", ["recommend", "recommend_light"])
def test_the_server_gives_the_slates_of_this_process(
    client: Client, stages: Stages, queries: list[Query], model: str
) -> None:
    assert client.recommend(queries, model=model) == recommend(queries, stages)


BROKEN = {
    "a user twice": ("1 2 3\n1 4 5\n", "line 2: the user '1' was on line 1 already; write one line for every user"),
    "a word alone": ("1 2 3\n2\n", "line 2: '2' stands alone; a line is `user item item ...`"),
    "nothing": ("\n", "the file is empty"),
    "too little": ("1 2 3\n2 3 4\n", "of the split is empty"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_bad_file_is_one_sentence_and_leaves_nothing(
    case: str, tmp_path: Path, composed: Any, run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    text, sentence = BROKEN[case]
    (tmp_path / "bad.txt").write_text(text)
    with pytest.raises(SystemExit) as ended, exit_on_error():
        run(composed(tmp_path / "run", *SMALL, f"data.path={tmp_path / 'bad.txt'}"))
    assert ended.value.code == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith("error: ")
    assert sentence in stderr
    assert stderr.count("\n") == 1
    assert not (tmp_path / "run" / "bundle").exists()


def test_a_file_that_is_not_there_is_said_by_train_py(root: Path, tmp_path: Path) -> None:
    done = trained(root, tmp_path / "none.txt", tmp_path / "run")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path / 'none.txt'}: cannot be read: No such file or directory")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run" / "bundle").exists()
