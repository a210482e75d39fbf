"""Encrypted bundles: nothing to read on the disk, decrypted into a folder in memory that goes with its last process."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsys.bundle import MANIFEST, SIGNATURE, Bundle, copy_bundle, sign_bundle, write_bundle
from recsys.errors import BundleError, ConfigError
from recsys.export.releases import served_release
from recsys.export.repository import write_repository
from recsys.pipeline import recommend
from recsys.recommender import Recommender
from recsys.signatures import PUBLIC_KEY, write_keys
from recsys.stages import load_stages
from recsys.stores import memory_folder
from recsys.stores.memory_folder import MEMORY, _held, _release
from serving.triton.client import Client
from serving.triton.server import TritonServer

pytest.importorskip("cryptography")

NAME = "susan.distinctive.7391"
OPENS = """
import sys
from recsys.bundle import Bundle

print(Bundle.open(sys.argv[1]).path, flush=True)
sys.stdin.read()
"""
ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _released() -> Iterator[None]:
    """Remove what this process holds in memory."""
    yield
    _release()


@pytest.fixture
def plain(tmp_path: Path) -> Bundle:
    with write_bundle(tmp_path / "plain", "spec") as draft:
        draft.write_document("metrics.json", {"user": NAME})
        draft.write_document("rules.yaml", {"rules": []})
        draft.write_arrays("vectors.safetensors", {"items": np.arange(6.0).reshape(2, 3)})
        (draft.path / "sub").mkdir()
        (draft.path / "sub" / "empty").touch()
    return Bundle.open(tmp_path / "plain")


@pytest.fixture
def bundle(plain: Bundle, use_key: Any, tmp_path: Path) -> Path:
    """An encrypted copy."""
    use_key("live.key")
    copy_bundle(plain, tmp_path / "bundle")
    return tmp_path / "bundle"


def with_bytes(folder: Path, text: str) -> list[str]:
    return [one.name for one in folder.rglob("*") if one.is_file() and text.encode() in one.read_bytes()]


def test_an_encrypted_bundle_is_the_same_bundle(plain: Bundle, bundle: Path) -> None:
    assert with_bytes(plain.path, NAME) == ["metrics.json"]
    assert with_bytes(bundle, NAME) == []
    opened = Bundle.open(bundle)
    assert opened.fingerprint == plain.fingerprint
    assert opened.document("metrics.json") == {"user": NAME}
    np.testing.assert_array_equal(opened.arrays("vectors.safetensors")["items"], np.arange(6.0).reshape(2, 3))
    assert opened.path.is_relative_to(MEMORY)
    assert opened.path.stat().st_mode & 0o777 == opened.path.parent.stat().st_mode & 0o777 == 0o700


def test_the_same_copy_has_the_same_bytes(plain: Bundle, bundle: Path, tmp_path: Path) -> None:
    copy_bundle(Bundle.open(bundle), tmp_path / "again")
    names = [str(file.relative_to(bundle)) for file in bundle.rglob("*") if file.is_file()]
    assert len(names) == len(list((plain.path).rglob("*"))) - 1
    assert all((bundle / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in names)


def test_without_a_key_a_copy_is_plain(plain: Bundle, tmp_path: Path) -> None:
    copy_bundle(plain, tmp_path / "copy")
    assert Bundle.open(tmp_path / "copy").path == tmp_path / "copy"


def changed(bundle: Path) -> None:
    data = bytearray((bundle / "metrics.json").read_bytes())
    data[-1] ^= 1
    (bundle / "metrics.json").write_bytes(data)


def swapped(bundle: Path) -> None:
    shutil.copy(bundle / "rules.yaml", bundle / "metrics.json")


def plain_one(bundle: Path) -> None:
    (bundle / "metrics.json").write_text(json.dumps({"user": NAME}))


def missing(bundle: Path) -> None:
    (bundle / "metrics.json").unlink()


@pytest.mark.parametrize("change", [changed, swapped, plain_one, missing])
def test_a_changed_file_is_refused_by_its_name(bundle: Path, change: Callable[[Path], None]) -> None:
    change(bundle)
    with pytest.raises(BundleError, match=f"^{bundle / 'metrics.json'} "):
        Bundle.open(bundle)


def test_the_key_of_the_bundle_is_needed(bundle: Path, use_key: Any) -> None:
    use_key("other.key")
    with pytest.raises(BundleError, match=r"is encrypted by the key \w+, .*other\.key holds \w+; name the other key"):
        Bundle.open(bundle)
    use_key(None)
    with pytest.raises(BundleError, match=r"is encrypted by the key \w+; name its file by RECSYS_ENCRYPTION_KEY"):
        Bundle.open(bundle)


def test_an_encrypted_bundle_can_be_signed(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PUBLIC_KEY, str(write_keys(tmp_path / "release.key")))
    with pytest.raises(BundleError, match="is not signed"):
        Bundle.open(bundle)
    sign_bundle(bundle, tmp_path / "release.key")
    assert (bundle / SIGNATURE).is_file()
    assert Bundle.open(bundle).has("metrics.json")


def opened_elsewhere(bundle: Path) -> tuple["subprocess.Popen[str]", Path]:
    """A process that has the bundle open, and the folder it reads."""
    process = subprocess.Popen(
        [sys.executable, "-c", OPENS, str(bundle)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_processes_share_one_folder_which_the_last_one_removes(bundle: Path) -> None:
    (first, folder), (second, same) = opened_elsewhere(bundle), opened_elsewhere(bundle)
    assert folder == same
    assert (folder / "metrics.json").is_file()
    first.communicate()
    assert (folder / "metrics.json").is_file()
    second.communicate()
    assert not folder.exists()


def test_what_a_killed_process_left_goes_with_the_next_one(bundle: Path, plain: Bundle, tmp_path: Path) -> None:
    process, folder = opened_elsewhere(bundle)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert folder.exists()
    with write_bundle(tmp_path / "next", "spec") as draft:
        draft.write_document("metrics.json", {})
    copy_bundle(Bundle.open(tmp_path / "next"), tmp_path / "encrypted")
    assert Bundle.open(tmp_path / "encrypted").path.is_relative_to(MEMORY)
    assert not folder.exists()


def test_memory_that_is_missing_small_or_open_is_one_sentence(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="needs 1,000,000,000,000,000 bytes of"):
        memory_folder.memory_folder("x", 10**15, lambda _: None)
    monkeypatch.setattr(memory_folder, "MEMORY", tmp_path)
    with pytest.raises(ConfigError, match="is no memory"):
        Bundle.open(bundle)
    monkeypatch.setattr(memory_folder, "_mounts", lambda: [f"tmpfs {tmp_path} tmpfs rw 0 0"])
    (tmp_path / f"recsys-{os.getuid()}").mkdir(mode=0o755)
    with pytest.raises(ConfigError, match="is not closed to other accounts"):
        Bundle.open(bundle)


def test_a_folder_that_could_not_be_filled_is_not_there() -> None:
    def fill(folder: Path) -> None:
        (folder / "secret").touch()
        raise ConfigError("no")

    with pytest.raises(ConfigError, match="no"):
        memory_folder.memory_folder("unfilled", 1, fill)
    assert not list((MEMORY / f"recsys-{os.getuid()}").rglob("secret"))
    assert not _held


@pytest.mark.slow
def test_an_encrypted_release_serves_what_the_plain_bundle_does(trained: Any, tmp_path: Path, use_key: Any) -> None:
    query = trained.replay.latest(str(trained.dataset.users["user"][0]), float(trained.replay.timestamps.max()), 10)
    (expected,) = recommend([query], trained.stages)
    use_key("live.key")
    write_repository(trained.bundle, tmp_path / "serve", "cpu")
    release = served_release(tmp_path / "serve")
    files = [file for file in (release / "bundle").rglob("*") if file.name not in (MANIFEST, SIGNATURE)]
    assert {file.read_bytes()[:8] for file in files} == {b"RECSENC1"}
    write_repository(Bundle.open(release / "bundle"), tmp_path / "serve", "cpu")
    assert served_release(tmp_path / "serve") == release
    opened = Bundle.open(release / "bundle")
    assert recommend([query], load_stages(opened))[0].items == expected.items
    assert Recommender.load(release / "bundle")
    with TritonServer(release / "models") as server, Client(server.grpc_url) as client:
        assert [one.item for one in client.recommend([query])[0].items] == [one.item for one in expected.items]
    with pytest.raises(ConfigError, match="profile gpu has Triton read the ranker"):
        write_repository(trained.bundle, tmp_path / "gpu", "gpu")
