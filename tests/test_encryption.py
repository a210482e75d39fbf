"""The format of encrypted files and rows: nothing but what was encrypted, under its own name and by its own key, is read."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from recsys import encryption
from recsys.cli.main import app
from recsys.encryption import (
    CHUNK_BYTES,
    ENCRYPTION_KEY,
    HEADER_BYTES,
    TAG_BYTES,
    EncryptionKey,
    configured_encryption_key,
    encrypted,
    key_id,
    readable,
    write_encryption_key,
)
from recsys.errors import ConfigError, DataError

pytest.importorskip("cryptography")

KEY = EncryptionKey(secret=bytes(range(32)), file=Path("one.key"))
OTHER = EncryptionKey(secret=bytes(32), file=Path("other.key"))
FILE = Path("live/x")
SMALL = 64
"""bytes of a chunk in property tests"""

contents = st.binary(max_size=5 * SMALL)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encryption, "CHUNK_BYTES", SMALL)


def refused(data: bytes, name: str = "a", key: EncryptionKey = KEY) -> bool:
    try:
        key.decrypt(data, name, FILE)
    except DataError as error:
        return str(error).startswith(f"{FILE} ")
    return False


@given(contents, st.text(max_size=20))
def test_what_was_encrypted_comes_back(content: bytes, name: str) -> None:
    data = KEY.encrypt(content, name)
    assert KEY.decrypt(data, name, FILE) == content
    chunks = max(1, -(-len(content) // SMALL))
    assert len(data) == HEADER_BYTES + len(content) + chunks * TAG_BYTES
    assert KEY.encrypt(content, name) == data != KEY.encrypt(content + b"x", name)
    assert len(content) < 8 or content not in data[HEADER_BYTES:]  # a content may be the first word of the header


@pytest.mark.parametrize("size", [0, 1, SMALL - 1, SMALL, SMALL + 1, 2 * SMALL, 3 * SMALL])
def test_at_the_border_of_a_chunk(size: int) -> None:
    assert KEY.decrypt(KEY.encrypt(bytes(size), "a"), "a", FILE) == bytes(size)


@given(contents, st.data())
def test_no_bit_can_be_flipped(content: bytes, data: st.DataObject) -> None:
    found = bytearray(KEY.encrypt(content, "a"))
    found[data.draw(st.integers(0, len(found) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert refused(bytes(found))


@given(contents, st.data())
def test_no_end_can_be_cut_off(content: bytes, data: st.DataObject) -> None:
    found = KEY.encrypt(content, "a")
    assert refused(found[: data.draw(st.integers(0, len(found) - 1))])
    assert refused(found + b"\0" * data.draw(st.integers(1, 2 * SMALL)))


@given(st.binary(min_size=3 * SMALL, max_size=3 * SMALL), st.permutations(range(3)))
def test_chunks_keep_their_order(content: bytes, order: list[int]) -> None:
    found = KEY.encrypt(content, "a")
    step = SMALL + TAG_BYTES
    chunks = [found[HEADER_BYTES + one * step : HEADER_BYTES + (one + 1) * step] for one in order]
    moved = found[:HEADER_BYTES] + b"".join(chunks)
    assert refused(moved) == (order != sorted(order))


@given(contents, contents)
def test_chunks_of_another_file_do_not_fit(one: bytes, two: bytes) -> None:
    first, second = KEY.encrypt(one, "a"), KEY.encrypt(two, "a")
    assert refused(first[:HEADER_BYTES] + second[HEADER_BYTES:]) == (one != two)


@given(contents, st.text(max_size=9), st.text(max_size=9))
def test_a_file_has_one_name(content: bytes, name: str, other: str) -> None:
    assert refused(KEY.encrypt(content, name), other) == (name != other)


def test_the_file_of_another_key_and_a_plain_one_are_named() -> None:
    data = KEY.encrypt(b"x", "a")
    with pytest.raises(DataError, match=f"is encrypted by the key {KEY.id}, other.key holds {OTHER.id}"):
        OTHER.decrypt(data, "a", FILE)
    with pytest.raises(DataError, match="live/x is not encrypted"):
        KEY.decrypt(b"PAR1", "a", FILE)
    assert key_id(data) == KEY.id != OTHER.id
    assert key_id(b"PAR1") is key_id(b"") is None


@given(st.binary(max_size=200), st.binary(max_size=20), st.binary(max_size=20))
def test_rows_are_found_again_and_moved_nowhere(data: bytes, name: bytes, other: bytes) -> None:
    rows = KEY.rows("states")
    found = rows.encrypt(data, name)
    assert rows.encrypt(data, name) == found
    assert rows.decrypt(found, name) == data
    assert rows.decrypt(found, other) == (data if name == other else None)
    for stranger in (KEY.rows("spool"), OTHER.rows("states")):
        assert stranger.decrypt(found, name) is None
    assert rows.decrypt(found[:-1], name) is None
    assert rows.decrypt(data, name) is None


def test_large_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encryption, "CHUNK_BYTES", CHUNK_BYTES)
    content = os.urandom(2 * CHUNK_BYTES + 5)
    assert KEY.decrypt(KEY.encrypt(content, "a"), "a", FILE) == content


def test_the_key_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "data"
    file.write_bytes(b"plain")
    assert encrypted(b"plain", "a") == b"plain"
    assert readable(file, "a") == file
    key = write_encryption_key(tmp_path / "live.key")
    monkeypatch.setenv(ENCRYPTION_KEY, str(tmp_path / "live.key"))
    assert configured_encryption_key() == key
    with pytest.raises(DataError, match="is not encrypted"):
        readable(file, "a")
    file.write_bytes(encrypted(b"plain", "a"))
    found = readable(file, "a")
    assert not isinstance(found, Path)
    assert found.read() == b"plain"
    monkeypatch.delenv(ENCRYPTION_KEY)
    with pytest.raises(DataError, match=f"is encrypted by the key {key.id}; name its file"):
        readable(file, "a")


def no_file(_: Path) -> None:
    pass


def open_to_others(file: Path) -> None:
    write_encryption_key(file)
    file.chmod(0o640)


def too_short(file: Path) -> None:
    file.touch(0o600)
    file.write_text("00" * 31)


def no_key(file: Path) -> None:
    file.touch(0o600)
    file.write_bytes(b"\xff\xfe")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (no_file, "cannot be read"),
        (open_to_others, "can be read by others than its owner; run `chmod 600"),
        (too_short, "holds no encryption key; make one by"),
        (no_key, "holds no encryption key; make one by"),
    ],
)
def test_an_unusable_key_is_one_sentence(tmp_path: Path, make: Callable[[Path], None], sentence: str) -> None:
    make(tmp_path / "k")
    with pytest.raises(ConfigError, match=sentence):
        EncryptionKey.read(tmp_path / "k")


def test_the_command_makes_a_key_and_never_overwrites_one(tmp_path: Path) -> None:
    file = tmp_path / "live.key"
    assert CliRunner().invoke(app, ["encryption-key", str(file)]).exit_code == 0
    key = EncryptionKey.read(file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert key.secret.hex() not in repr(key)
    with pytest.raises(ConfigError, match="cannot be made"):
        write_encryption_key(file)
    assert EncryptionKey.read(file) == key
