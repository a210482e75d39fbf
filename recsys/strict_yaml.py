"""YAML in which every key stands once: the language lets the last one win, and what the first one said is lost."""

from collections.abc import Hashable
from typing import Any

import yaml

MERGE = "tag:yaml.org,2002:merge"


def load(text: str) -> Any:
    """The document; yaml.YAMLError, with a mark, for a key that stands in a mapping a second time."""
    return yaml.load(text, _Loader)  # nosec B506: a SafeLoader


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key, _ in node.value:
            name = None if key.tag == MERGE else self.construct_object(key, deep=True)
            if name is None or not isinstance(name, Hashable):
                continue
            if name in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {name!r} stands there a second time", problem_mark=key.start_mark
                )
            seen.add(name)
        return super().construct_mapping(node, deep)
