"""Releases: what is exported, what is published, and what stays as it was."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from recsys.bundle import MANIFEST, Bundle, write_bundle
from recsys.errors import ConfigError
from recsys.export import repository
from recsys.export.ranker_graph import write_ranker_graph
from recsys.export.releases import RELEASES, served_release, state_folder
from recsys.export.repository import write_repository
from recsys.policy.rules.store import RuleStore
from recsys.stages import NO_RELEASE, RANKED_RELEASE, RELEASE, release_number, release_tensor

KILLED = """
import os, signal, sys
from pathlib import Path
from recsys.bundle import Bundle
from recsys.export import releases, repository

def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)

for module in (releases, repository):
    if hasattr(module, sys.argv[3]):
        setattr(module, sys.argv[3], killed)
repository.write_repository(Bundle.open(sys.argv[1]), Path(sys.argv[2]), "cpu")
"""


def renewed(bundle: Bundle, path: Path, **metrics: Any) -> Bundle:
    """The same bundle with other figures, so of another fingerprint."""
    with write_bundle(path, bundle.spec_fingerprint) as draft:
        shutil.copytree(bundle.path, draft.path, dirs_exist_ok=True)
        (draft.path / "manifest.json").unlink()
        draft.write_document("metrics.json", {**bundle.document("metrics.json"), **metrics})
    return Bundle.open(path)


def content(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Inode and bytes of all files."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): (file.stat().st_ino, file.read_bytes()) for file in files}


def releases(serve: Path) -> list[str]:
    return sorted(one.name for one in (serve / RELEASES).iterdir() if one.is_dir())


def test_each_export_is_a_release_of_its_own_and_the_link_names_the_last(trained: Any, tmp_path: Path) -> None:
    serve, other = tmp_path / "serve", renewed(trained.bundle, tmp_path / "bundle", later=1)
    names = write_repository(trained.bundle, serve, "cpu")
    assert names == ["retrieve", "rank", "rules", "explain", "recommend", "recommend_light", "recommend_explained"]
    first = served_release(serve)
    assert (first.name, state_folder(first)) == (trained.bundle.fingerprint, serve)
    before = content(first)
    write_repository(other, serve, "cpu")
    assert served_release(serve).name == other.fingerprint
    assert Bundle.open(serve / "current" / "bundle").fingerprint == other.fingerprint
    assert content(first) == before
    assert releases(serve) == sorted([trained.bundle.fingerprint, other.fingerprint])


def test_the_same_export_again_touches_nothing_and_another_profile_is_another_release(
    trained: Any, tmp_path: Path
) -> None:
    serve = tmp_path / "serve"
    write_repository(trained.bundle, serve, "cpu")
    compiled = served_release(serve) / "models" / "rank" / "1" / "__pycache__"
    compiled.mkdir()
    (compiled / "model.pyc").write_bytes(b"of a running stage")
    before = content(serve / RELEASES)
    write_repository(trained.bundle, serve, "cpu")
    assert content(serve / RELEASES) == before
    write_repository(trained.bundle, serve, "gpu")
    assert served_release(serve).name == f"{trained.bundle.fingerprint}.2"
    write_repository(trained.bundle, serve, "cpu")
    assert served_release(serve).name == trained.bundle.fingerprint
    assert {name: found for name, found in content(serve / RELEASES).items() if name in before} == before


def test_a_damaged_release_is_left_alone_and_exported_beside(trained: Any, tmp_path: Path) -> None:
    serve = tmp_path / "serve"
    write_repository(trained.bundle, serve, "cpu")
    (served_release(serve) / "bundle" / "metrics.json").write_text("{}")
    write_repository(trained.bundle, serve, "cpu")
    assert served_release(serve).name == f"{trained.bundle.fingerprint}.2"
    assert Bundle.open(served_release(serve) / "bundle").fingerprint == trained.bundle.fingerprint


def test_an_export_leaves_state_where_it_is_and_refuses_a_folder_of_others(trained: Any, tmp_path: Path) -> None:
    serve = tmp_path / "serve"
    store = RuleStore(serve / "rules")
    store.publish("rules: []", who="ann", why="x")
    stamp = store.stamp()
    write_repository(trained.bundle, serve, "cpu")
    assert sorted(one.name for one in serve.iterdir()) == ["current", "releases", "rules"]
    assert (store.stamp(), len(store.verify())) == (stamp, 1)
    (serve / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match="holds other things than an exported bundle"):
        write_repository(trained.bundle, serve, "cpu")
    assert (serve / "thesis.txt").read_text() == "precious"


def test_a_folder_of_an_earlier_version_is_served_until_an_export_is_published(trained: Any, tmp_path: Path) -> None:
    serve = shutil.copytree(served_release(trained.folder / "serve"), tmp_path / "serve")
    (serve / MANIFEST).unlink()
    assert (served_release(serve), state_folder(served_release(serve))) == (serve, serve)
    before = content(serve)
    write_repository(trained.bundle, serve, "cpu")
    assert served_release(serve) == serve / RELEASES / trained.bundle.fingerprint
    assert {name: found for name, found in content(serve).items() if name in before} == before


@pytest.mark.parametrize("step", ["_write_model", "_sync", "_publish"])
def test_an_export_that_is_killed_publishes_nothing_and_the_next_one_is_whole(
    trained: Any, tmp_path: Path, step: str
) -> None:
    serve, other = tmp_path / "serve", renewed(trained.bundle, tmp_path / "bundle", later=2)
    write_repository(trained.bundle, serve, "cpu")
    before = content(served_release(serve))
    command = [sys.executable, "-c", KILLED, str(other.path), str(serve), step]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert served_release(serve).name == trained.bundle.fingerprint
    assert content(served_release(serve)) == before
    for name in releases(serve):
        if not name.startswith("."):  # what has a name is whole
            Bundle.open(serve / RELEASES / name / "bundle")
    write_repository(other, serve, "cpu")
    assert served_release(serve).name == other.fingerprint
    assert [name for name in releases(serve) if name.startswith(".")] == []


def test_an_export_that_fails_leaves_no_draft(trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(repository, "_write_stage", fails)
    with pytest.raises(OSError, match="No space"):
        write_repository(trained.bundle, tmp_path / "serve", "cpu")
    assert releases(tmp_path / "serve") == []
    assert not (tmp_path / "serve" / "current").is_symlink()


def exported(bundle: Path, serve: Path) -> None:
    write_repository(Bundle.open(bundle), serve, "cpu")


def test_two_exports_at_once_both_end_whole(trained: Any, tmp_path: Path) -> None:
    serve, other = tmp_path / "serve", renewed(trained.bundle, tmp_path / "bundle", later=3)
    spawned = multiprocessing.get_context("spawn")
    bundles = [trained.bundle, other, other]
    exports = [spawned.Process(target=exported, args=(one.path, serve)) for one in bundles]
    for export in exports:
        export.start()
    for export in exports:
        export.join()
    assert [export.exitcode for export in exports] == [0, 0, 0]
    assert releases(serve) == sorted([trained.bundle.fingerprint, other.fingerprint])
    assert {Bundle.open(serve / RELEASES / name / "bundle").fingerprint for name in releases(serve)} == {
        one.fingerprint for one in bundles
    }
    assert os.readlink(serve / "current").removeprefix("releases/") in releases(serve)


def test_the_graph_of_the_gpu_profile_gives_the_same_and_passes_on_its_own_release_only(
    trained: Any, tmp_path: Path
) -> None:
    write_repository(trained.bundle, tmp_path / "serve", "gpu")
    rank = tmp_path / "serve" / "current" / "models" / "rank"
    assert 'backend: "onnxruntime"' in (rank / "config.pbtxt").read_text()
    assert not (rank / "1" / "model.py").exists()
    session = onnxruntime.InferenceSession(rank / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    retrieve, ranker, _ = trained.stages
    found = retrieve({"QUERY": trained.replay.queries(range(3), k=5)})
    feed = {one.name: found[one.name] for one in session.get_inputs()}
    names = [one.name for one in session.get_outputs()]
    answer = dict(zip(names, session.run(names, feed), strict=True))
    np.testing.assert_array_equal(answer["probabilities"], ranker(found)["probabilities"])
    own = release_number(trained.bundle.fingerprint)
    assert answer[RANKED_RELEASE.name].tolist() == [[own]] * 3
    mixed = np.array([[own], [own + 1], [own]])
    assert session.run([RANKED_RELEASE.name], {**feed, RELEASE.name: mixed})[0].tolist() == [[own], [NO_RELEASE], [own]]


def test_the_graph_reads_any_batch(trained: Any, tmp_path: Path) -> None:
    write_ranker_graph(trained.bundle.file("ranker.onnx"), tmp_path / "model.onnx", trained.bundle.fingerprint)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    feed = {RELEASE.name: release_tensor(trained.bundle.fingerprint, 7)}
    found = trained.stages[0]({"QUERY": trained.replay.queries(range(7), k=5)})
    feed |= {one.name: found[one.name] for one in session.get_inputs() if one.name != RELEASE.name}
    assert session.run([RANKED_RELEASE.name], feed)[0].shape == (7, 1)


def test_nothing_is_exported_into_a_release(trained: Any, tmp_path: Path) -> None:
    serve = tmp_path / "serve"
    write_repository(trained.bundle, serve, "cpu")
    before = content(serve)
    for path in (serve / "current", served_release(serve)):
        with pytest.raises(ConfigError, match=f"is a release, which nothing writes into; give {serve}"):
            write_repository(trained.bundle, path, "cpu")
    assert content(serve) == before


def test_an_unknown_profile_is_refused(trained: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="profile is 'tpu'"):
        write_repository(trained.bundle, tmp_path / "serve", "tpu")  # type: ignore[arg-type]
