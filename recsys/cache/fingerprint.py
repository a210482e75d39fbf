"""Fingerprints of values: equal for equal inputs of a stage, in every process and run.

Pickled bytes would not do: they differ with the identity of equal strings, and know nothing of the code behind a class.
"""

import dataclasses
import datetime
import enum
import hashlib
import io
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property, partial
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import numpy as np
import polars as pl

from recsys.cache.code_digest import code_digest

DIGITS = 32
PLAIN = (bool, int, float, complex, str, bytes, datetime.date, datetime.timedelta, PurePath, np.generic, np.dtype)


class NoFingerprintError(TypeError):
    """A value whose content cannot be read: an open file, a lambda, an object of a C library."""


def fingerprint(value: Any) -> str:
    """Return hex digits for a value: plain ones, containers, arrays, tensors, frames, dataclasses, partials, objects.

    An object counts by its attributes and by the sources of its class, those that the class imports included.
    NoFingerprintError for anything else, and for a value that contains itself.
    """
    return _digest(value, ()).hex()[:DIGITS]


def _digest(value: Any, above: tuple[int, ...]) -> bytes:
    if value is None or isinstance(value, PLAIN):
        return _hashed(type(value).__name__, [repr(value).encode()])
    if id(value) in above:
        raise NoFingerprintError(f"a {type(value).__name__} contains itself")
    inner = partial(_digest, above=(*above, id(value)))
    for kinds, digest in DIGESTS:
        if isinstance(value, kinds):
            return digest(value, inner)
    if hasattr(value, "detach"):  # a tensor; this room imports no torch
        return inner(value.detach().cpu().numpy())
    return _object(value, inner)


def _hashed(tag: str, parts: Iterable[bytes | memoryview]) -> bytes:
    """Digest parts with their lengths, so that no two lists of parts are joined to the same bytes."""
    digest = hashlib.sha256(tag.encode() + b"\0")
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


Inner = Callable[[Any], bytes]


def _array(value: np.ndarray, inner: Inner) -> bytes:
    if value.dtype.hasobject:
        return _hashed("objects", [repr(value.shape).encode(), *map(inner, value.ravel().tolist())])
    header = repr((value.shape, value.dtype.str)).encode()
    return _hashed("array", [header, np.ascontiguousarray(value).reshape(-1).view(np.uint8).data])


def _frame(value: pl.DataFrame, _: Inner) -> bytes:
    buffer = io.BytesIO()
    value.rechunk().write_ipc(buffer, compression="uncompressed")
    return _hashed("frame", [buffer.getbuffer()])


def _mapping(value: Mapping[Any, Any], inner: Inner) -> bytes:
    """Digest in the order of the mapping: candidate sources are read in theirs."""
    return _hashed("mapping", (inner(part) for pair in value.items() for part in pair))


def _sequence(value: list[Any] | tuple[Any, ...], inner: Inner) -> bytes:
    return _hashed("sequence", map(inner, value))


def _set(value: set[Any] | frozenset[Any], inner: Inner) -> bytes:
    return _hashed("set", sorted(map(inner, value)))


def _partial(value: partial[Any], inner: Inner) -> bytes:
    return _hashed("partial", [inner(value.func), inner(value.args), inner(value.keywords)])


def _method(value: MethodType, inner: Inner) -> bytes:
    return _hashed("method", [inner(value.__func__), inner(value.__self__)])


def _definition(value: Any, _: Inner) -> bytes:
    """Digest a class or a function by its name and its sources."""
    if "<" in value.__qualname__ or getattr(value, "__closure__", None):
        raise NoFingerprintError(f"{value.__module__}.{value.__qualname__} has no name that it could be found by again")
    name, module = f"{value.__module__}.{value.__qualname__}", value.__module__ or "builtins"
    if (code := code_digest(module)) is None:
        raise NoFingerprintError(f"the source of {name} is in no file")
    return _hashed("definition", [name.encode(), code.encode()])


def _object(value: Any, inner: Inner) -> bytes:
    kind = type(value)
    state = _state(value)
    if state is None:
        raise NoFingerprintError(f"a {kind.__module__}.{kind.__qualname__} shows no attributes")
    return _hashed("object", [inner(kind), inner(state)])


def _state(value: Any) -> dict[str, Any] | None:
    """Return the attributes that make a value what it is; what it computed from them and kept is left out."""
    kind = type(value)
    if isinstance(value, enum.Enum):
        return {"name": value.name}
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if not hasattr(value, "__dict__") or kind.__module__.startswith("faiss"):
        return None
    own = sorted(vars(value).items())
    return {name: one for name, one in own if not isinstance(getattr(kind, name, None), cached_property)}


DIGESTS: tuple[tuple[Any, Callable[[Any, Inner], bytes]], ...] = (
    (np.ndarray, _array),
    (pl.DataFrame, _frame),
    (pl.Series, lambda value, inner: _frame(value.to_frame(), inner)),
    (Mapping, _mapping),
    ((list, tuple), _sequence),
    ((set, frozenset), _set),
    (partial, _partial),
    (MethodType, _method),
    ((type, FunctionType, BuiltinFunctionType), _definition),
)
