"""The bundle: one directory that holds all that training made and serving needs, verified file by file.

    manifest.json            schema version, fingerprints, sha256 of every file
    manifest.sig             Ed25519 signature of the manifest, where it was signed
    spec.json                the feature spec            vocabularies.json      what its ids stand for
    items.arrow              the catalogue as people and rules see it
    item_table.safetensors   the catalogue as the models see it
    item_vectors.safetensors, index.faiss, candidates.{json,safetensors}        what retrieval searches
    user_tower.onnx, item_tower.onnx, ranker.onnx (calibration inside), weights.safetensors      the models
    words.{json,safetensors} how item texts become vectors, where there are any; by a sentence encoder instead:
    sentences.{json,safetensors}, sentence_encoder.onnx, sentence_tokenizer.json
    popularity.safetensors   newest events of each item, which the policy may discount
    outcomes.safetensors     what the ranker said on its validation and what became of it: weights are chosen by it
    reference.{json,safetensors}  what requests and slates were like, which `recsys drift` compares with
    user_seed.arrow          the users of the training data: newest events, seen items, profiles
    policy.yaml, rules.yaml, config.yaml, metrics.json, lineage.json

There is no pickle in it, and nothing is read before its hash was compared. Where the environment names a public key
(recsys.signatures), nothing is read before the signature of the manifest was verified. Where it names an encryption key
(recsys.encryption), an export encrypts every file but manifest and signature; they are decrypted into memory as it is opened.
"""

import hashlib
import json
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import load_file, save_file

from recsys.encryption import ENCRYPTION_KEY, configured_encryption_key, encrypted, key_id_of
from recsys.errors import BundleError, DataError
from recsys.signatures import read_signature, sign, signature_fault
from recsys.stores.atomic_files import write_atomically
from recsys.stores.memory_folder import memory_folder

SCHEMA = 1
MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A folder laid out as above. `Bundle.open` verifies; a bundle being written is a draft without a manifest."""

    path: Path
    """in memory where the bundle is encrypted"""
    fingerprint: str
    """first 16 hex digits of the sha256 over spec_fingerprint and the hashes of all files, "draft" while being written"""
    spec_fingerprint: str
    source: Path
    """as it lies on the disk, with manifest and signature"""

    @staticmethod
    def open(path: Path | str) -> "Bundle":
        """Verify every file against the manifest; BundleError says which file differs and why."""
        path = Path(path)
        data = _manifest_bytes(path)
        _check_signature(path, data)
        return _verified(path, data)

    def file(self, name: str) -> Path:
        file = self.path / name
        if not file.is_file():
            raise BundleError(f"{file} is missing; the bundle is incomplete, train it again")
        return file

    def has(self, name: str) -> bool:
        return (self.path / name).is_file()

    def sha256(self, name: str) -> str:
        """Of a file, in hex."""
        return _sha256(self.file(name))

    def document(self, name: str) -> Any:
        """A JSON or YAML file."""
        text = self.file(name).read_text(encoding="utf-8")
        return json.loads(text) if name.endswith(".json") else yaml.safe_load(text)

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """A safetensors file."""
        return load_file(self.file(name))

    def write_document(self, name: str, document: Any) -> None:
        text = json.dumps(document, indent=1) if name.endswith(".json") else yaml.safe_dump(document, sort_keys=False)
        (self.path / name).write_text(text, encoding="utf-8")

    def write_arrays(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        save_file({key: np.ascontiguousarray(array) for key, array in arrays.items()}, self.path / name)


@contextmanager
def write_bundle(path: Path | str, spec_fingerprint: str) -> Iterator[Bundle]:
    """Fill a draft beside `path`; on success it gets its manifest and takes the place of what was there."""
    path = Path(path)
    draft = path.with_name(path.name + ".draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield Bundle(path=draft, fingerprint="draft", spec_fingerprint=spec_fingerprint, source=draft)
        _write_manifest(draft, spec_fingerprint)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    replace_folder(draft, path)


def replace_folder(new: Path, path: Path) -> None:
    """Rename `new` to `path`, whatever was there before."""
    old = path.with_name(path.name + ".old")
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
    new.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def _write_manifest(folder: Path, spec_fingerprint: str) -> None:
    names = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    names = [name for name in names if name not in (MANIFEST, SIGNATURE)]
    files = {name: _sha256(folder / name) for name in names}
    manifest = {
        "schema": SCHEMA,
        "fingerprint": _fingerprint(files, spec_fingerprint),
        "spec_fingerprint": spec_fingerprint,
        "files": files,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def _verified(source: Path, data: bytes) -> Bundle:
    """Bundle of the manifest `data`, every file compared with it."""
    manifest = _parsed(source / MANIFEST, data)
    files = manifest["files"]
    present = {str(file.relative_to(source)) for file in source.rglob("*") if file.is_file()} - {MANIFEST, SIGNATURE}
    if missing := sorted(set(files) - present):
        raise BundleError(f"{source / missing[0]} is missing; restore the bundle or train it again")
    if extra := sorted(present - set(files)):
        raise BundleError(f"{source / extra[0]} is not in the manifest; remove it or train the bundle again")
    path = _decrypted(source, files, hashlib.sha256(data).hexdigest()[:32])
    for name, expected in files.items():
        _verify(path / name, expected)
    spec_fingerprint = manifest["spec_fingerprint"]
    return Bundle(path=path, fingerprint=manifest["fingerprint"], spec_fingerprint=spec_fingerprint, source=source)


def _manifest_bytes(path: Path) -> bytes:
    file = path / MANIFEST
    if not file.is_file():
        raise BundleError(f"{path} is no bundle: it has no {MANIFEST}; give the folder that train.py printed")
    return file.read_bytes()


def _parsed(file: Path, data: bytes) -> dict[str, Any]:
    try:
        manifest = json.loads(data)
        schema, files, fingerprint = manifest["schema"], manifest["files"], manifest["fingerprint"]
        expected = _fingerprint(files, manifest["spec_fingerprint"])
    except (ValueError, KeyError, TypeError):
        raise BundleError(f"{file} cannot be read as a manifest; train the bundle again") from None
    if schema != SCHEMA:
        raise BundleError(f"{file} has schema version {schema}, this code reads {SCHEMA}; train the bundle again")
    if fingerprint != expected:
        raise BundleError(f"{file} was altered: its fingerprint does not fit its file list; restore or retrain it")
    return manifest


def sign_bundle(path: Path, key: Path) -> Path:
    """Verify the files of a bundle and sign its manifest; return the file of the signature. ConfigError for an unusable key."""
    manifest = _manifest_bytes(path)
    _verified(path, manifest)
    write_atomically(path / SIGNATURE, sign(manifest, key))
    return path / SIGNATURE


def copy_bundle(bundle: Bundle, path: Path) -> None:
    """Copy a bundle, encrypted where a key is configured."""
    if configured_encryption_key() is None:
        shutil.copytree(bundle.source, path)
        return
    for file in (file for file in bundle.source.rglob("*") if file.is_file()):
        name = str(file.relative_to(bundle.source))
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        is_open = name in (MANIFEST, SIGNATURE)
        data = file.read_bytes() if is_open else encrypted(bundle.file(name).read_bytes(), _encrypted_name(name))
        (path / name).write_bytes(data)


def _decrypted(source: Path, names: Collection[str], address: str) -> Path:
    """Return the folder with the plain files of a bundle: its own, or one in memory; BundleError for one without its key.

    address: hash that names the folder in memory.
    """
    ids = {key_id_of(source / name) for name in names} - {None}
    if not ids:
        return source
    if (key := configured_encryption_key()) is None:
        name_it = f"name its file by {ENCRYPTION_KEY} or --encryption-key"
        raise BundleError(f"{source} is encrypted by the key {ids.pop()}; {name_it}")

    def fill(folder: Path) -> None:
        for name in names:
            data = key.decrypt((source / name).read_bytes(), _encrypted_name(name), source / name)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)

    try:
        return memory_folder(f"{address}-{key.id}", sum((source / name).stat().st_size for name in names), fill)
    except DataError as error:
        raise BundleError(str(error)) from None


def _encrypted_name(name: str) -> str:
    return f"bundle/{name}"


def _check_signature(path: Path, manifest: bytes) -> None:
    if fault := signature_fault(manifest, read_signature(path / SIGNATURE), f"the bundle {path}"):
        raise BundleError(f"{fault}; sign it by `python -m recsys sign`, or serve without a public key")


def _verify(file: Path, expected: str) -> None:
    if (found := _sha256(file)) != expected:
        raise BundleError(
            f"{file} was altered: sha256 {found[:12]}…, the manifest says {expected[:12]}…; restore or retrain the bundle"
        )


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _fingerprint(files: Mapping[str, str], spec_fingerprint: str) -> str:
    return hashlib.sha256(json.dumps([spec_fingerprint, files], sort_keys=True).encode()).hexdigest()[:16]
