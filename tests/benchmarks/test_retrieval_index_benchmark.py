"""The index benchmark on catalogues that take no time."""

import json

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from benchmarks.claims.retrieval import retrieval_device, retrieval_index
from benchmarks.lib import result_file, retrieval_vectors
from benchmarks.lib.result_file import Figure, write_result
from recsys.errors import DataError

K = 5


@pytest.fixture
def interactions(tmp_path):
    generator = np.random.default_rng(0)
    lines = [f"{user} " + " ".join(map(str, generator.choice(40, 6, replace=False))) for user in range(120)]
    (tmp_path / "sets.txt").write_text("\n".join(lines), encoding="utf-8")
    return retrieval_vectors.read_interactions(tmp_path / "sets.txt")


def test_it_measures_every_system_and_says_what_it_found(interactions, tmp_path, monkeypatch):
    monkeypatch.setattr(retrieval_index, "repeats", lambda *_: 2)
    made = [
        lambda: retrieval_vectors.clusters(400, 20, 8),
        lambda: retrieval_vectors.toys(interactions, 400, 20, 8),
        lambda: retrieval_vectors.isotropic(400, 20, 8),
    ]
    rows = retrieval_index.measure(made, K, (1, 4))
    exact = [one for one in rows if one["system"] == "exact.py"]
    assert [(one["vectors"], one["batch"]) for one in exact] == [
        (name, batch) for name in ("clusters", "toys", "isotropic") for batch in (1, 4)
    ]
    assert all(one["equals_oracle"] for one in exact)
    assert {one["system"] for one in rows} == {*retrieval_index.EXACT, "ann.py", "faiss IVF"}
    claimed = retrieval_index.figures(rows, 400)
    assert set(claimed) == {"exact_over_fastest_peer_1m", "ann_recall_1m", "ann_ms_1m"}
    assert retrieval_index.table(rows).row_count == len(rows)
    file = write_result("tiny", rows, claimed, 1.0, folder=tmp_path)
    document = json.loads(file.read_text(encoding="utf-8"))
    assert set(document) == {"machine", "commit", "command", "seconds", "rows", "figures"}
    assert set(document["figures"]["ann_ms_1m"]) == {"value", "unit", "goal", "better"}
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".draft"] == []


def test_figures_take_the_fastest_peer_and_the_worse_vectors():
    rows = [
        {"items": 9, "batch": 1, "vectors": vectors, "system": system, "ms_a_query": time, "recall": recall}
        for vectors, times, recall in (("clusters", (2, 8, 4, 6, 0.1), 0.999), ("toys", (2, 3, 4, 6, 0.3), 0.991))
        for system, time in zip((*retrieval_index.EXACT, "ann.py"), times, strict=True)
    ]
    values = {name: figure.value for name, figure in retrieval_index.figures(rows, 9).items()}
    assert values == {"exact_over_fastest_peer_1m": 1.5, "ann_recall_1m": 0.991, "ann_ms_1m": 0.3}


def test_every_exact_system_finds_the_same():
    data = retrieval_vectors.clusters(300, 4, 8)
    found = [set(search(data.queries)[1][0]) for search in retrieval_index.exact_systems(data.items, K).values()]
    assert all(one == found[0] for one in found)


def test_a_user_that_is_folded_in_is_the_user_of_the_factorisation():
    generator = np.random.default_rng(0)
    interactions = csr_matrix(generator.random((30, 12)) < 0.3, dtype=np.float64)
    items, queries = retrieval_vectors.factors(interactions, 11, 5, seed=0)
    held = np.random.default_rng(0).choice(30, 5, replace=False)
    right = items / np.sqrt((items**2).sum(0))
    np.testing.assert_allclose(queries @ items.T, interactions[held] @ (right @ right.T), atol=1e-8)


def test_resampled_vectors_are_said_to_be_so(interactions):
    few, many = (retrieval_vectors.toys(interactions, size, 10, 8) for size in (30, 90))
    assert "resampled" in many.origin
    assert "resampled" not in few.origin
    assert (few.items.shape, many.items.shape, few.queries.shape) == ((30, 8), (90, 8), (10, 8))


def test_a_missing_file_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("RECSYS_DATA", str(tmp_path))
    monkeypatch.setattr(retrieval_vectors, "ROOT", tmp_path)
    with pytest.raises(DataError, match="set RECSYS_DATA"):
        retrieval_vectors.toys_file()


def test_the_device_part_runs_and_is_named_when_it_cannot(monkeypatch):
    monkeypatch.setattr(retrieval_device, "REPEATS", 1)
    vectors = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)
    rows = retrieval_device.measure(vectors, vectors[:70], "cpu")
    assert [one["batch"] for one in rows] == [1, 8, 64, 70]
    assert all(one["equals_oracle"] for one in rows)
    assert all(figure.reached is None for figure in retrieval_device.device_figures([]).values())


@pytest.mark.parametrize(
    ("value", "better", "reached"), [(1.0, "higher", True), (0.9, "higher", False), (1.1, "lower", False)]
)
def test_a_figure_knows_whether_it_is_reached(value, better, reached):
    assert Figure(value=value, unit="", goal=1.0, better=better).reached is reached


def test_the_commit_is_that_of_the_repository():
    assert len(result_file.commit().rstrip("+")) == 40
