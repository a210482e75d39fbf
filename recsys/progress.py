"""Progress of long work, reported by a callback, so that no stage knows of a screen."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Part = TypeVar("Part")
Progress = Callable[[int, int, str], None]
"""steps done, steps in all, name of the work; as many done as there are ends it"""


def silent(done: int, total: int, what: str) -> None:
    """Show nothing."""


def tracked(parts: Iterable[Part], total: int, progress: Progress, what: str) -> Iterator[Part]:
    """Yield `total` parts and report each once the caller is through with it."""
    progress(0, total, what)
    for done, part in enumerate(parts, 1):
        yield part
        progress(done, total, what)
