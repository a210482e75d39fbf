"""The signed manifest of a release: no other file of its Triton models runs where a public key is configured."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from recsys.bundle import MANIFEST, SIGNATURE
from recsys.errors import BundleError, ServingError
from recsys.export.release_manifest import check_models, check_release, sign_release, write_manifest
from recsys.signatures import PUBLIC_KEY, sign, write_keys
from serving.layout import DeploymentLayout
from serving.triton.server import TritonServer

pytest.importorskip("cryptography")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    write_keys(private := tmp_path / "release.key")
    return private


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch, key: Path) -> Callable[[], None]:
    """From its call on only signed releases serve."""
    return lambda: monkeypatch.setenv(PUBLIC_KEY, f"{key}.pub")


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A release with one model, not signed."""
    version = tmp_path / "serve" / "models" / "rank" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text("x = 1\n")
    (version.parent / "config.pbtxt").write_text('name: "rank"\n')
    (bundle := tmp_path / "serve" / "bundle").mkdir()
    (bundle / MANIFEST).write_text(json.dumps({"fingerprint": "f00d"}))
    write_manifest(tmp_path / "serve", "f00d")
    return tmp_path / "serve"


def test_a_signed_release_serves_and_an_unsigned_one_does_not(
    release: Path, key: Path, strict: Callable[[], None], tmp_path: Path
) -> None:
    layout = DeploymentLayout.of(release, tmp_path / "live")
    layout.check()
    strict()
    with pytest.raises(BundleError, match="is not signed; export the bundle again with sign_key"):
        layout.check()
    sign_release(release, key)
    layout.check()
    check_models(release / "models")


def changed_script(release: Path) -> None:
    (release / "models/rank/1/model.py").write_text("x = 2\n")


def changed_configuration(release: Path) -> None:
    with (release / "models/rank/config.pbtxt").open("a") as stream:
        stream.write("max_batch_size: 1\n")


def another_model(release: Path) -> None:
    shutil.copytree(release / "models/rank", release / "models/rank2")


def missing_file(release: Path) -> None:
    (release / "models/rank/config.pbtxt").unlink()


def another_bundle(release: Path) -> None:
    (release / "bundle" / MANIFEST).write_text(json.dumps({"fingerprint": "beef"}))


def consistent_manifest(release: Path) -> None:
    changed_script(release)
    write_manifest(release, "f00d")


def another_key(release: Path) -> None:
    write_keys(other := release.parent / "other.key")
    (release / SIGNATURE).write_bytes(sign((release / MANIFEST).read_bytes(), other))


def manifest_of_a_bundle(release: Path) -> None:
    """Signed by the right key, but about something else."""
    (release / MANIFEST).write_text(json.dumps({"schema": 1, "fingerprint": "f00d", "files": {}}))
    (release / SIGNATURE).write_bytes(sign((release / MANIFEST).read_bytes(), release.parent / "release.key"))


@pytest.mark.parametrize(
    "change",
    [
        changed_script,
        changed_configuration,
        another_model,
        missing_file,
        another_bundle,
        consistent_manifest,
        another_key,
        manifest_of_a_bundle,
    ],
)
def test_triton_does_not_start_with_a_changed_release(
    release: Path, key: Path, strict: Callable[[], None], change: Callable[[Path], None]
) -> None:
    sign_release(release, key)
    change(release)
    strict()
    with pytest.raises(BundleError):
        check_release(release)
    with pytest.raises(ServingError, match="export the bundle again"), TritonServer(release / "models"):
        pass


def test_compiled_bytecode_cannot_stand_in_for_a_script(release: Path, key: Path, strict: Callable[[], None]) -> None:
    sign_release(release, key)
    strict()
    bytecode = release / "models/rank/1/__pycache__"
    bytecode.mkdir()
    (bytecode / "model.cpython-311.pyc").write_bytes(b"anything")
    check_models(release / "models")
    assert not bytecode.exists()


def test_what_was_changed_is_not_signed(release: Path, key: Path) -> None:
    changed_script(release)
    with pytest.raises(BundleError, match=r"model\.py was altered, added or removed"):
        sign_release(release, key)
    assert not (release / SIGNATURE).exists()
