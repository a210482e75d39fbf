"""Documents of configured objects that a bundle stores: a kind, which names the class, and its keyword arguments."""

import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

from recsys.class_paths import class_at
from recsys.errors import ConfigError
from recsys.expressions import suggestion

T = TypeVar("T")


def to_document(configured: object, kinds: Mapping[str, type]) -> dict[str, Any]:
    """Return {kind, keyword arguments}; attributes of the object have the names of the arguments."""
    own = type(configured)
    kind = next((name for name, one in kinds.items() if one is own), f"{own.__module__}:{own.__qualname__}")
    return {"kind": kind, **{key: getattr(configured, key) for key in _parameters(own)}}


def from_document(key: str, document: Any, kinds: Mapping[str, type[T]], of: Any) -> T:
    """Read a document of a subclass of `of`; ConfigError names `key` and what is absent, unknown or out of range."""
    kind = document.get("kind") if isinstance(document, Mapping) else document
    found = kinds.get(str(kind)) or _import(key, kind, kinds, of)
    parameters = _parameters(found)
    if unknown := [str(name) for name in document if name not in (*parameters, "kind")]:
        raise ConfigError(f"{key} has the unknown key {unknown[0]!r}; {suggestion(unknown[0], parameters)}")
    if absent := [name for name, one in parameters.items() if name not in document and one.default is one.empty]:
        raise ConfigError(f"{key} lacks the key {absent[0]!r}; give {', '.join(parameters)}")
    return found(**{name: document[name] for name in parameters if name in document})


def _parameters(kind: type) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(kind).parameters


def _import(key: str, kind: Any, kinds: Mapping[str, type[T]], of: Any) -> type[T]:
    """Return the class at an import path, module:Class."""
    if ":" not in str(kind):
        raise ConfigError(f"{key}.kind is {kind!r}; choose one of {', '.join(kinds)}, or give module:Class")
    try:
        return class_at(str(kind), of)
    except ImportError:
        raise ConfigError(
            f"{key}.kind is {kind!r}, which cannot be imported here; install the package that defines it"
        ) from None
    except TypeError:
        raise ConfigError(f"{key}.kind is {kind!r}, which is no {of.__name__}; give a subclass of it") from None
