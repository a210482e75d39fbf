"""Bundles that are signed by Ed25519: where a public key is configured, nothing else is opened, nor by Triton's stages."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from typer.testing import CliRunner

from recsys.bundle import SIGNATURE, Bundle, sign_bundle, write_bundle
from recsys.cli.main import app
from recsys.errors import BundleError, ConfigError, ServingError
from recsys.export.release_manifest import check_release
from recsys.export.releases import served_release
from recsys.signatures import PUBLIC_KEY, is_signed, sign, write_keys
from serving.__main__ import app as serving_app
from serving.triton.server import TritonServer

pytest.importorskip("cryptography")


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """Private and public key."""
    private = tmp_path / "release.key"
    return private, write_keys(private)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    with write_bundle(tmp_path / "bundle", "spec") as draft:
        draft.write_document("metrics.json", {"ndcg": 1})
    return tmp_path / "bundle"


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch, keys: tuple[Path, Path]) -> Callable[[], None]:
    """From its call on only signed bundles are opened."""
    return lambda: monkeypatch.setenv(PUBLIC_KEY, str(keys[1]))


def test_a_signed_bundle_opens_and_an_unsigned_one_does_not(bundle: Path, keys: Any, strict: Any) -> None:
    before = Bundle.open(bundle)
    strict()
    with pytest.raises(BundleError, match="is not signed; sign it by `python -m recsys sign`"):
        Bundle.open(bundle)
    sign_bundle(bundle, keys[0])
    assert Bundle.open(bundle).fingerprint == before.fingerprint


def test_without_a_public_key_a_signature_is_no_stranger(bundle: Path, keys: Any) -> None:
    sign_bundle(bundle, keys[0])
    assert Bundle.open(bundle)


def consistent_forgery(bundle: Path) -> None:
    """Another file, and a manifest that fits it."""
    found = json.loads((bundle / "metrics.json").read_text())
    signature = (bundle / SIGNATURE).read_bytes()
    with write_bundle(bundle, "spec") as draft:
        draft.write_document("metrics.json", {**found, "ndcg": 2})
    (bundle / SIGNATURE).write_bytes(signature)


def other_key(bundle: Path) -> None:
    private = bundle.with_name("other.key")
    write_keys(private)
    sign_bundle(bundle, private)


def no_signature(bundle: Path) -> None:
    (bundle / SIGNATURE).write_bytes(b"\xff not base64")


@pytest.mark.parametrize("forge", [consistent_forgery, other_key, no_signature])
def test_a_forgery_is_refused(bundle: Path, keys: Any, strict: Any, forge: Callable[[Path], None]) -> None:
    sign_bundle(bundle, keys[0])
    forge(bundle)
    strict()
    with pytest.raises(BundleError, match=r"the signature of the bundle .* is not by the key"):
        Bundle.open(bundle)


def test_a_changed_file_is_refused_although_the_signature_holds(bundle: Path, keys: Any, strict: Any) -> None:
    sign_bundle(bundle, keys[0])
    (bundle / "metrics.json").write_text("{}")
    strict()
    with pytest.raises(BundleError, match="was altered"):
        Bundle.open(bundle)


def test_a_damaged_bundle_is_not_signed(bundle: Path, keys: Any) -> None:
    (bundle / "metrics.json").write_text("{}")
    with pytest.raises(BundleError, match="was altered"):
        sign_bundle(bundle, keys[0])
    assert not (bundle / SIGNATURE).exists()


def test_keys_are_checked(bundle: Path, keys: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    private, public = keys
    assert private.stat().st_mode & 0o077 == 0
    with pytest.raises(ConfigError, match="cannot be made"):
        write_keys(private)
    with pytest.raises(ConfigError, match="holds no Ed25519 public key"):
        is_signed(b"", b"", private)
    public.chmod(0o600)
    with pytest.raises(ConfigError, match="holds no Ed25519 private key"):
        sign(b"", public)
    private.chmod(0o644)
    with pytest.raises(ConfigError, match="can be read by others"):
        sign(b"", private)
    monkeypatch.setenv(PUBLIC_KEY, str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="cannot be read"):
        Bundle.open(bundle)


def test_keys_of_openssl_work(tmp_path: Path) -> None:
    if (openssl := shutil.which("openssl")) is None:
        pytest.skip("openssl is not installed")
    private, public = tmp_path / "k", tmp_path / "k.pub"
    subprocess.run([openssl, "genpkey", "-algorithm", "ed25519", "-out", str(private)], check=True)
    subprocess.run([openssl, "pkey", "-in", str(private), "-pubout", "-out", str(public)], check=True)
    private.chmod(0o600)
    assert is_signed(b"data", sign(b"data", private), public)
    assert not is_signed(b"date", sign(b"data", private), public)


def test_the_commands_sign_and_export_signs_what_it_copies(
    bundle: Path, tmp_path: Path, strict: Any, keys: Any
) -> None:
    done = CliRunner().invoke(app, ["signing-key", str(tmp_path / "new.key")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "new.key.pub").is_file()
    done = CliRunner().invoke(app, ["sign", str(bundle), "--key", str(keys[0])])
    assert done.exit_code == 0, done.output
    strict()
    assert Bundle.open(bundle)
    with initialize_config_dir(str(Path(__file__).parents[1] / "conf"), version_base="1.3"):
        assert compose("export", overrides=["bundle=b", "sign_key=k"]).sign_key == "k"


@pytest.mark.slow
def test_an_exported_bundle_is_signed_and_serving_refuses_another_one(
    trained: Any, tmp_path: Path, keys: Any, strict: Any
) -> None:
    private, public = keys
    run = shutil.copytree(trained.bundle.path, tmp_path / "run" / "bundle")
    export = [sys.executable, "export.py", f"bundle={run}", f"repository={tmp_path / 'serve'}"]
    root = Path(__file__).parents[1]
    done = subprocess.run([*export, f"sign_key={private}"], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    strict()
    release = served_release(tmp_path / "serve")
    served = release / "bundle"
    assert Bundle.open(served)
    check_release(release)
    (served / SIGNATURE).unlink()
    up = ["--public-key", str(public), "up", str(tmp_path / "serve"), f"--live={tmp_path / 'live'}"]
    done = subprocess.run([sys.executable, "-m", "serving", *up], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "is not signed" in (done.stdout + done.stderr).replace("\n", " ")
    with pytest.raises(ServingError, match="is not signed"), TritonServer(release / "models"):
        pass


def test_the_option_reaches_child_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: Any) -> None:
    monkeypatch.setenv(PUBLIC_KEY, "before")
    done = CliRunner().invoke(serving_app, ["--public-key", str(keys[1]), "rebuild", str(tmp_path / "none")])
    assert done.exit_code != 0
    assert os.environ[PUBLIC_KEY] == str(keys[1])
