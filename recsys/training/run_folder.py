"""Folder of a run: one training at a time, and a count of the times that its TEST period was read."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from recsys.errors import ConfigError
from recsys.stores.atomic_files import append, locked

SWEEP_FILE = "multirun.yaml"
"""file of the folder of a sweep, which Hydra writes; the folders of its jobs lie beside it"""
TEST_READS = "test_reads.jsonl"
"""file of a run folder: a line for each time that figures of TEST were computed in it"""


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the folder of a run or a sweep; ConfigError where another training holds it."""
    with ExitStack() as held:
        try:
            held.enter_context(locked(folder, timeout_s=0.0))
        except TimeoutError:
            raise ConfigError(
                f"another training is running in {folder}; choose another run_dir (or hydra.sweep.dir), or wait for its end"
            ) from None
        yield


def record_test_read(folder: Path) -> None:
    """Count one reading of TEST, before it happens."""
    line = json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())})
    append(folder / TEST_READS, f"{line}\n".encode())


def count_test_reads(folder: Path) -> dict[str, int]:
    """Return how often TEST was read in this run folder, and for a job of a sweep in the folders of all its jobs."""
    counts = {"run": _reads(folder)}
    if (folder.parent / SWEEP_FILE).is_file():
        counts["sweep"] = sum(_reads(job) for job in folder.parent.iterdir())
    return counts


def _reads(folder: Path) -> int:
    file = folder / TEST_READS
    return file.read_text(encoding="ascii").count("\n") if file.is_file() else 0
