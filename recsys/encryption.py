"""Encryption at rest by a key file: AES-256-GCM for files and AES-SIV for rows, by keys that HKDF derives from it.

A file is

    magic     8 bytes    RECSENC1
    key id    8 bytes    of the key that it was encrypted by
    salt      32 bytes   HMAC of name and content; with the key it gives a key for this file alone
    chunks    1 MiB of content and 16 bytes of tag each; the last one may be shorter, and there is at least one

Each chunk has the nonce (its number in 11 bytes, then 1 for the last one and 0 before) and header and name of the file as
associated data. So changed bytes, chunks that are missing, doubled or moved, and a file in the place of another one are
refused. age encrypts payloads in the same way, with another cipher. Since the salt follows from name and content, the same
content under the same name gives the same file, and no key and nonce meet two contents.

A row is AES-SIV (RFC 5297) with its name as associated data: equal content under an equal name gives equal bytes, so that
rows can be found and compared.
"""

import functools
import hashlib
import hmac
import importlib.util
import io
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from recsys.errors import ConfigError, DataError
from recsys.stores.atomic_files import create

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

ENCRYPTION_KEY = "RECSYS_ENCRYPTION_KEY"
"""environment variable: file of the key by which live data is encrypted, in this process and its children"""
MAGIC = b"RECSENC1"
KEY_BYTES, ID_BYTES, SALT_BYTES, TAG_BYTES = 32, 8, 32, 16
HEADER_BYTES = len(MAGIC) + ID_BYTES + SALT_BYTES
CHUNK_BYTES = 1 << 20
OTHERS = 0o077


class RowCipher:
    """Cipher of rows for one purpose."""

    def __init__(self, secret: bytes) -> None:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESSIV

        self._cipher, self._failures = AESSIV(secret), (InvalidTag, ValueError)

    def encrypt(self, data: bytes, name: bytes) -> bytes:
        """Return the same bytes for the same data and name."""
        return self._cipher.encrypt(data, [name])

    def decrypt(self, data: bytes, name: bytes) -> bytes | None:
        """Return what was encrypted under this name, None for anything else."""
        try:
            return self._cipher.decrypt(data, [name])
        except self._failures:
            return None


@dataclass(frozen=True, slots=True, kw_only=True)
class EncryptionKey:
    """Key of a file that `write_encryption_key` made."""

    secret: bytes = field(repr=False)
    file: Path
    """named in messages"""

    @staticmethod
    def read(file: Path) -> "EncryptionKey":
        """Read a key; ConfigError for a file that holds none or that others can read."""
        _require_library()
        try:
            mode, text = file.stat().st_mode, file.read_bytes()
        except OSError as error:
            raise ConfigError(
                f"{file} cannot be read ({error.strerror}); name the file of the encryption key"
            ) from None
        if mode & OTHERS:
            raise ConfigError(f"{file} can be read by others than its owner; run `chmod 600 {file}`")
        try:
            secret = bytes.fromhex(text.decode("ascii").strip())
        except ValueError:
            secret = b""
        if len(secret) != KEY_BYTES:
            raise ConfigError(f"{file} holds no encryption key; make one by `python -m recsys encryption-key FILE`")
        return EncryptionKey(secret=secret, file=file)

    @property
    def id(self) -> str:
        """16 hex digits that name the key and tell nothing about it."""
        return self.derived("id", ID_BYTES).hex()

    def derived(self, purpose: str, num_bytes: int = KEY_BYTES, salt: bytes | None = None) -> bytes:
        """Return a key for one purpose."""
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        return HKDF(SHA256(), num_bytes, salt, f"recsys {purpose}".encode()).derive(self.secret)

    def rows(self, purpose: str) -> RowCipher:
        """Return the cipher of rows for one purpose."""
        return RowCipher(self.derived(f"rows of {purpose}", 2 * KEY_BYTES))

    def encrypt(self, data: bytes, name: str) -> bytes:
        """Return the encrypted file. name: under which alone it can be decrypted."""
        header = MAGIC + bytes.fromhex(self.id) + self._salt(data, name)
        cipher, associated = self._file_cipher(header), _associated(header, name)
        starts = range(0, max(len(data), 1), CHUNK_BYTES)
        view = memoryview(data)
        chunks = (
            cipher.encrypt(
                _nonce(number, start + CHUNK_BYTES >= len(data)), view[start : start + CHUNK_BYTES], associated
            )
            for number, start in enumerate(starts)
        )
        return b"".join([header, *chunks])

    def decrypt(self, data: bytes, name: str, file: Path) -> bytes:
        """Return the content of an encrypted file; DataError, which names the file, for anything else."""
        from cryptography.exceptions import InvalidTag

        self._check_header(data, file)
        header = data[:HEADER_BYTES]
        cipher, associated = self._file_cipher(header), _associated(header, name)
        try:
            return b"".join(cipher.decrypt(nonce, chunk, associated) for nonce, chunk in _chunks(data))
        except (InvalidTag, ValueError):
            raise DataError(f"{file} was altered, or encrypted as another file; restore it from a copy") from None

    def _salt(self, data: bytes, name: str) -> bytes:
        content = hmac.digest(self.derived("salt"), data, hashlib.sha256)
        return hmac.digest(self.derived("salt"), content + name.encode(), hashlib.sha256)

    def _check_header(self, data: bytes, file: Path) -> None:
        if (found := key_id(data)) is None:
            raise DataError(f"{file} is not encrypted, as everything beside it has to be; remove it, or encrypt it")
        if found != self.id:
            raise DataError(f"{file} is encrypted by the key {found}, {self.file} holds {self.id}; name the other key")

    def _file_cipher(self, header: bytes) -> "AESGCM":
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        return AESGCM(self.derived("file", salt=header[-SALT_BYTES:]))


def write_encryption_key(file: Path) -> EncryptionKey:
    """Write a new key, readable by its owner alone, and return it; ConfigError where the file cannot be made."""
    _require_library()
    secret = secrets.token_bytes(KEY_BYTES)
    try:
        create(file, secret.hex().encode() + b"\n", 0o600)
    except OSError as error:
        raise ConfigError(f"{file} cannot be made ({error.strerror}); name a new file") from None
    return EncryptionKey(secret=secret, file=file)


def configured_encryption_key() -> EncryptionKey | None:
    """Return the key of the file that the environment names, None without one; ConfigError for an unusable file."""
    return _read_once(name) if (name := os.environ.get(ENCRYPTION_KEY)) else None


def encrypted(data: bytes, name: str) -> bytes:
    """Return the content for a file: encrypted where a key is configured, else as it is."""
    key = configured_encryption_key()
    return data if key is None else key.encrypt(data, name)


def readable(file: Path, name: str) -> Path | io.BytesIO:
    """Return what to read for a file that `encrypted` made: its content, or the file itself where no key is configured.

    OSError; DataError for a file that was altered, or that is encrypted otherwise than configured.
    """
    if (key := configured_encryption_key()) is not None:
        return io.BytesIO(key.decrypt(file.read_bytes(), name, file))
    check_plain(file)
    return file


def check_plain(file: Path) -> None:
    """DataError for a file that is encrypted."""
    if (found := key_id_of(file)) is not None:
        raise DataError(
            f"{file} is encrypted by the key {found}; name its file by {ENCRYPTION_KEY} or --encryption-key"
        )


def key_id(data: bytes) -> str | None:
    """Return the id of the key that a file was encrypted by, None for a file that is not encrypted."""
    if not data.startswith(MAGIC) or len(data) < HEADER_BYTES:
        return None
    return data[len(MAGIC) : len(MAGIC) + ID_BYTES].hex()


def key_id_of(file: Path) -> str | None:
    """Return `key_id` of a file."""
    with file.open("rb") as stream:
        return key_id(stream.read(HEADER_BYTES))


@functools.cache
def _read_once(file: str) -> EncryptionKey:
    """Read a key once in a process, which so outlives its file."""
    return EncryptionKey.read(Path(file))


def _associated(header: bytes, name: str) -> bytes:
    return header + name.encode()


def _nonce(number: int, is_last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([is_last])


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Nonce and chunk; a file without a chunk gives an empty one, which no tag fits."""
    size = CHUNK_BYTES + TAG_BYTES
    view = memoryview(data)[HEADER_BYTES:]
    for number, start in enumerate(range(0, max(len(view), 1), size)):
        yield _nonce(number, start + size >= len(view)), view[start : start + size]


def _require_library() -> None:
    if importlib.util.find_spec("cryptography") is None:
        raise ConfigError("encryption needs the package cryptography; run `pip install cryptography`")
