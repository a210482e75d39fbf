"""What is exported, and what an export may replace."""

from pathlib import Path
from typing import Any

import pytest

from recsys.bundle import Bundle
from recsys.errors import ConfigError
from recsys.export.repository import write_repository
from recsys.policy.rules.store import RuleStore


def test_an_export_replaces_an_older_one_and_nothing_else(trained: Any, tmp_path: Path) -> None:
    path = tmp_path / "serve"
    for _ in range(2):
        names = write_repository(trained.bundle, path, "cpu")
        assert names == ["retrieve", "rank", "rules", "explain", "recommend", "recommend_light", "recommend_explained"]
        assert Bundle.open(path / "bundle").fingerprint == trained.bundle.fingerprint
    (path / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match="holds other things than an exported bundle"):
        write_repository(trained.bundle, path, "cpu")
    assert (path / "thesis.txt").read_text() == "precious"


def test_an_export_leaves_published_rules_where_they_are(trained: Any, tmp_path: Path) -> None:
    path = tmp_path / "serve"
    write_repository(trained.bundle, path, "cpu")
    store = RuleStore(path / "rules")
    store.publish("rules: []", who="ann", why="x")
    stamp = store.stamp()
    (path / "models.old").mkdir()
    write_repository(trained.bundle, path, "cpu")
    assert sorted(one.name for one in path.iterdir()) == ["bundle", "models", "rules"]
    assert store.stamp() == stamp
    assert len(store.verify()) == 1


def test_the_gpu_profile_hands_the_graph_of_the_ranker_to_onnxruntime(trained: Any, tmp_path: Path) -> None:
    write_repository(trained.bundle, tmp_path / "serve", "gpu")
    rank = tmp_path / "serve" / "models" / "rank"
    assert (rank / "1" / "model.onnx").read_bytes() == trained.bundle.file("ranker.onnx").read_bytes()
    assert 'backend: "onnxruntime"' in (rank / "config.pbtxt").read_text()
    assert not (rank / "1" / "model.py").exists()


def test_an_unknown_profile_is_refused(trained: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="profile is 'tpu'"):
        write_repository(trained.bundle, tmp_path / "serve", "tpu")  # type: ignore[arg-type]
