"""Files that are there whole or not at all."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A draft beside `path` to write to; on success it takes its place, else nothing is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{time.time_ns()}")
    try:
        yield draft
        draft.rename(path)
    finally:
        draft.unlink(missing_ok=True)
