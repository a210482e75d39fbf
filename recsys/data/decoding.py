"""Decoding of text files: compression and encoding, as given or detected."""

import bz2
import codecs
import gzip
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow

from recsys.data.description import did_you_mean
from recsys.errors import DataError

COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
ENCODINGS = ("utf-8", "utf-16", "utf-16-le", "utf-16-be", "latin-1", "cp1252")
BOMS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""UTF-32 before UTF-16, whose little-endian mark begins it"""
SAMPLE_BYTES = 4096


def decompressed(path: Path) -> bytes:
    """Return the content of a file, decompressed where its first bytes are those of gzip, zstd, bzip2 or xz.

    DataError for a damaged file and for an archive of several files.
    """
    data = path.read_bytes()
    if data.startswith(b"PK\x03\x04"):
        raise DataError(f"{path}: is a zip archive or a spreadsheet; unpack it, or export the sheet as CSV")
    for magic, unpack in _UNPACK.items():
        if data.startswith(magic):
            try:
                return unpack(data)
            except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
                raise DataError(f"{path}: cannot be unpacked: {error}; fetch the file anew") from None
    return data


def _zstd(data: bytes) -> bytes:
    stream = pyarrow.CompressedInputStream(pyarrow.py_buffer(data), "zstd")
    return bytes(stream.read())


_UNPACK: dict[bytes, Callable[[bytes], bytes]] = {
    b"\x1f\x8b": gzip.decompress,
    b"\x28\xb5\x2f\xfd": _zstd,
    b"BZh": bz2.decompress,
    b"\xfd7zXZ\x00": lzma.decompress,
}


def decoded(path: Path, data: bytes, given: str | None) -> tuple[str, str, tuple[str, ...]]:
    """Return the text, its encoding and notes on guesses; DataError names the line that is not in the encoding."""
    if given is not None:
        return _strict(path, data, _known(path, given)), given, ()
    encoding = next((name for mark, name in BOMS.items() if data.startswith(mark)), None) or _utf_16(data)
    if encoding is not None:
        return _strict(path, data, encoding), encoding, ()
    try:
        return data.decode("utf-8"), "utf-8", ()
    except UnicodeDecodeError as error:
        return _one_byte(path, data, error)


def _known(path: Path, name: str) -> str:
    """Return the codec that drops a byte order mark."""
    try:
        known = codecs.lookup(name).name
    except LookupError:
        raise DataError(
            f"{path}: encoding is {name!r}{did_you_mean(name, ENCODINGS)}; write one of {', '.join(ENCODINGS)}"
        ) from None
    return "utf-8-sig" if known == "utf-8" else known


def _strict(path: Path, data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data[: error.start].decode(encoding, errors="ignore").count("\n") + 1
        raise DataError(
            f"{path}, line {line}: bytes that are not {encoding} ({error.reason}); name the right `encoding` or mend it"
        ) from None


def _utf_16(data: bytes) -> str | None:
    """Detect UTF-16 without a mark: every second byte of plain text is zero."""
    sample = data[:SAMPLE_BYTES]
    if len(data) % 2 or not sample:
        return None
    for encoding, zeros, others in (("utf-16-le", sample[1::2], sample[::2]), ("utf-16-be", sample[::2], sample[1::2])):
        if zeros.count(0) > 0.5 * len(zeros) and not others.count(0):
            return encoding
    return None


def _one_byte(path: Path, data: bytes, error: UnicodeDecodeError) -> tuple[str, str, tuple[str, ...]]:
    """Decode an 8-bit encoding. Where most non-ASCII letters are valid UTF-8, the text is damaged UTF-8 and refused."""
    line = data.count(b"\n", 0, error.start) + 1
    lenient = data.decode("utf-8", errors="replace")
    damaged = lenient.count("\ufffd")
    if sum(not one.isascii() for one in lenient) - damaged > damaged:
        raise DataError(
            f"{path}, line {line}: bytes that are not UTF-8 in a file that is; mend the line or fetch it anew"
        )
    for encoding in ("cp1252", "latin-1"):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        return text, encoding, (f"{path}: read as {encoding}, line {line} is not UTF-8; `encoding` names another one",)
    raise AssertionError("latin-1 knows every byte")
