"""Manifest of a release: the bundle it is for, and sha256 of all files of its Triton models, which run code.

<release>/manifest.json, manifest.sig     the manifest, and its Ed25519 signature where the release was signed

Where the environment names a public key (recsys.signatures) neither a stack nor Triton starts with other models.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from recsys.bundle import MANIFEST, SIGNATURE
from recsys.errors import BundleError
from recsys.export.releases import BYTECODE, files_of
from recsys.signatures import configured_key, read_signature, sign, signature_fault
from recsys.stores.atomic_files import write_atomically

SCHEMA = 1
MODELS = "models"
REMEDY = "export the bundle again with sign_key=..., or serve without a public key"


def write_manifest(release: Path, fingerprint: str) -> None:
    """Write the manifest of a release that holds a bundle of this fingerprint and all its models."""
    manifest = {"schema": SCHEMA, "bundle": fingerprint, "files": _hashes(release)}
    write_atomically(release / MANIFEST, json.dumps(manifest, indent=1).encode())


def sign_release(release: Path, key: Path) -> Path:
    """Compare the models of a release with its manifest and sign it; return the file of the signature."""
    data = _manifest_bytes(release)
    _compare(release, data)
    write_atomically(release / SIGNATURE, sign(data, key))
    return release / SIGNATURE


def check_release(release: Path) -> None:
    """BundleError where a public key is configured and the models are not those of a manifest that is signed by it."""
    if configured_key() is None:
        return
    data = _manifest_bytes(release)
    if fault := signature_fault(data, read_signature(release / SIGNATURE), f"the release {release}"):
        raise BundleError(f"{fault}; {REMEDY}")
    _compare(release, data)


def check_models(repository: Path) -> None:
    """`check_release` for the folder of its models, before they run; compiled bytecode, which no manifest lists, is removed.

    Python takes such bytecode in the place of the script beside it. OSError where it cannot be removed.
    """
    if configured_key() is None:
        return
    for folder in repository.rglob(BYTECODE):
        shutil.rmtree(folder)
    check_release(repository.parent)


def _manifest_bytes(release: Path) -> bytes:
    try:
        return (release / MANIFEST).read_bytes()
    except OSError:
        raise BundleError(f"the release {release} has no {MANIFEST}; {REMEDY}") from None


def _compare(release: Path, data: bytes) -> None:
    try:
        manifest = json.loads(data)
        schema, fingerprint, files = manifest["schema"], manifest["bundle"], dict(manifest["files"])
    except (ValueError, KeyError, TypeError):
        raise BundleError(f"{release / MANIFEST} is no manifest of a release; {REMEDY}") from None
    if schema != SCHEMA:
        raise BundleError(f"{release / MANIFEST} has schema version {schema}, this code reads {SCHEMA}; {REMEDY}")
    if (found := _fingerprint(release)) != fingerprint:
        raise BundleError(f"{release} holds the bundle {found}, its models are for {fingerprint}; {REMEDY}")
    if different := sorted(name for name, _ in files.items() ^ _hashes(release).items()):
        raise BundleError(f"{release / different[0]} was altered, added or removed; {REMEDY}")


def _fingerprint(release: Path) -> str:
    """Fingerprint that the bundle says it has; whoever opens the bundle verifies it."""
    file = release / "bundle" / MANIFEST
    try:
        return str(json.loads(file.read_bytes())["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        raise BundleError(f"{file} cannot be read as a manifest; {REMEDY}") from None


def _hashes(release: Path) -> Mapping[str, str]:
    """sha256 by path relative to the release."""
    files = (release / MODELS / name for name in files_of(release / MODELS))
    return {str(file.relative_to(release)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
