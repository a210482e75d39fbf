"""Kinds of rules, one file a kind. An installed package adds its own by entry points of the group `recsys.rule_kinds`."""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import entry_points
from inspect import isabstract

from recsys.errors import ConfigError
from recsys.policy.rules.rule import Rule

ENTRY_POINTS = "recsys.rule_kinds"


@cache
def rule_kinds() -> Mapping[str, type[Rule]]:
    """Return key of the document -> class; ConfigError for an installed kind that is none, or whose key is taken.

    A rule document names a kind by its key and never by an import path: who may write rules may not choose what is imported.
    """
    kinds = {kind.kind: kind for kind in _own()}
    for entry in entry_points(group=ENTRY_POINTS):
        kind = entry.load()
        if not (isinstance(kind, type) and issubclass(kind, Rule) and not isabstract(kind)):
            raise ConfigError(
                f"the entry point {entry.value!r} of {ENTRY_POINTS} is no kind of rules; give a Rule class"
            )
        if kinds.setdefault(kind.kind, kind) is not kind:
            raise ConfigError(
                f"the entry point {entry.value!r} of {ENTRY_POINTS} has the kind {kind.kind!r}; rename it"
            )
    return kinds


def _own() -> Iterator[type[Rule]]:
    for file in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{file.name}")
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Rule) and value.__module__ == module.__name__:
                yield value
