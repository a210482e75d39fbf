"""Ed25519 signatures of files, by keys in PEM as `openssl genpkey -algorithm ed25519` writes them."""

import base64
import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING

from recsys.errors import ConfigError
from recsys.stores.atomic_files import create

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PUBLIC_KEY = "RECSYS_PUBLIC_KEY"
"""environment variable: file of the public key without whose signature no bundle, no release and no published rules are used,
in this process and its children"""


def write_keys(private: Path) -> Path:
    """Write a new private key, readable by its owner only, and its public key beside it; return the file of the public key.

    ConfigError where one of them exists.
    """
    _require_library()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key, public = Ed25519PrivateKey.generate(), private.with_name(private.name + ".pub")
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    open_text = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    for file, data, mode in ((private, secret, 0o600), (public, open_text, 0o644)):
        try:
            create(file, data, mode)
        except OSError as error:
            raise ConfigError(f"{file} cannot be made ({error.strerror}); name a new file") from None
    return public


def sign(data: bytes, key: Path) -> bytes:
    """Return the signature as a line of base64. ConfigError for a file that is no private key or that others can read."""
    _require_library()
    if _mode(key) & 0o077:
        raise ConfigError(f"{key} can be read by others than its owner; run `chmod 600 {key}`")
    return base64.b64encode(_private_key(key).sign(data)) + b"\n"


def is_signed(data: bytes, signature: bytes, key: Path) -> bool:
    """Whether `sign` made this signature with the private key of a public one. ConfigError for a file that is no such key."""
    _require_library()
    from cryptography.exceptions import InvalidSignature

    public = _public_key(key)
    try:
        public.verify(base64.b64decode(signature, validate=False), data)
    except (InvalidSignature, ValueError):
        return False
    return True


def signature_fault(data: bytes, signature: bytes | None, subject: str) -> str | None:
    """Return the first half of a sentence for data without a signature by the configured public key; None where there is no
    such key. ConfigError for a file that is no key.
    """
    if (key := configured_key()) is None or is_signed(data, signature or b"", key):
        return None
    return f"{subject} is not signed" if signature is None else f"the signature of {subject} is not by the key {key}"


def read_signature(file: Path) -> bytes | None:
    """Return the content of a file that `sign` made, None without one."""
    return file.read_bytes() if file.is_file() else None


def configured_key() -> Path | None:
    """File that the environment names; None without one."""
    return Path(name) if (name := os.environ.get(PUBLIC_KEY)) else None


def _private_key(file: Path) -> "Ed25519PrivateKey":
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(file.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{file} holds no Ed25519 private key; make one by `python -m recsys signing-key FILE`")
    return key


def _public_key(file: Path) -> "Ed25519PublicKey":
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    _mode(file)
    try:
        key = load_pem_public_key(file.read_bytes())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(
            f"{file} holds no Ed25519 public key; name the file with .pub that `recsys signing-key` wrote"
        )
    return key


def _require_library() -> None:
    if importlib.util.find_spec("cryptography") is None:
        raise ConfigError("signatures need the package cryptography; run `pip install cryptography`")


def _mode(file: Path) -> int:
    try:
        return file.stat().st_mode
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror}); name the file of a key") from None
