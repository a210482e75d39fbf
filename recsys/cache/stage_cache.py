"""Cache of training stages on disk, shared by runs and by the parallel jobs of a sweep."""

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from recsys.cache.fingerprint import NoFingerprintError, fingerprint
from recsys.errors import check_ranges
from recsys.stores.atomic_files import append, atomic_file, locked, write_atomically

ENTRY, RESULT = "entry.json", "result"
"""files of an entry: its description, written last, and the result of the stage"""
STAGES_FILE = "stages.jsonl"
"""file of a run folder: a line for each stage that was computed or found"""
DOCUMENT = "document"
"""key of the JSON document in the header of a file of arrays"""
GIB = 2**30

Result = tuple[dict[str, Any], Mapping[str, np.ndarray]]
"""JSON document and arrays"""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One kept result."""

    folder: Path
    stage: str
    num_bytes: int
    seconds: float
    """that computing it took"""
    used: float
    """unix seconds of the last use"""

    @property
    def key(self) -> str:
        return self.folder.name


class StageCache:
    """Results of stages by the fingerprint of their inputs; an entry is complete, or it is computed again.

    A job that needs what another one computes waits for it. A crashed job leaves no entry and no lock.
    """

    def __init__(self, *, folder: str | None, max_gib: float) -> None:
        """
        folder: None, or an empty name, keeps nothing
        max_gib: size of all results; the ones that were not used for longest are removed beyond it
        """
        check_ranges("cache", max_gib=(max_gib, 1e-6, 1e6))
        self.folder = Path(folder) if folder else None
        self.max_gib = max_gib
        self.run: Path | None = None

    def of_run(self, run: Path) -> "StageCache":
        """Return a copy that writes down in a run folder which stages were computed and which were found."""
        cache = copy(self)
        cache.run = run
        return cache

    def arrays(self, stage: str, compute: Callable[[], Result], **inputs: Any) -> Result:
        """Return what `compute` returns, read back where it was computed from the same inputs before."""
        entry = self._entry(stage, inputs)
        if entry is None:
            return self._timed(stage, compute)
        with locked(entry, timeout_s=math.inf):
            if self._found(entry):
                return _read(entry / RESULT)
            started = time.perf_counter()
            result = _ordered(compute())
            with atomic_file(entry / RESULT) as draft:
                _write(draft, result)
            self._complete(entry, started)
        self._prune(entry)
        return result

    @contextmanager
    def file(self, stage: str, path: Path, **inputs: Any) -> Iterator[None]:
        """Put the file that a stage writes at `path` there before it runs, if it was written from the same inputs before.

        Else keep the one that lies there afterwards.
        """
        entry = None if path.is_file() else self._entry(stage, inputs)
        if entry is None:
            yield
            return
        with locked(entry, timeout_s=math.inf):
            if self._found(entry):
                _link(entry / RESULT, path)
                yield
                return
            started = time.perf_counter()
            yield
            if path.is_file():
                _link(path, entry / RESULT)
                self._complete(entry, started)
        self._prune(entry)

    def entries(self) -> list[Entry]:
        """Return all complete entries, the one that was not used for longest first."""
        files = self.folder.glob(f"*/*/{ENTRY}") if self.folder else ()
        found = [entry for file in files if (entry := _described(file))]
        return sorted(found, key=lambda one: one.used)

    def _entry(self, stage: str, inputs: Mapping[str, Any]) -> Path | None:
        """Return the folder of a result; None where nothing is kept, or the inputs have no fingerprint."""
        if self.folder is None:
            return None
        try:
            return self.folder / stage / fingerprint(inputs)
        except NoFingerprintError as reason:
            self._note(stage, note=f"not kept: {reason}")
            return None

    def _timed(self, stage: str, compute: Callable[[], Result]) -> Result:
        started = time.perf_counter()
        result = _ordered(compute())
        self._note(stage, seconds=time.perf_counter() - started)
        return result

    def _found(self, entry: Path) -> bool:
        """Return whether an entry holds what its description says; a damaged one is emptied."""
        with suppress(OSError, ValueError, KeyError):
            described = json.loads((entry / ENTRY).read_text(encoding="utf-8"))
            if described["sha256"] == _sha256(entry / RESULT):
                os.utime(entry / ENTRY)
                self._note(entry.parent.name, key=entry.name, found=True, seconds=described["seconds"])
                return True
        for name in (ENTRY, RESULT):
            (entry / name).unlink(missing_ok=True)
        return False

    def _complete(self, entry: Path, started: float) -> None:
        result, seconds = entry / RESULT, time.perf_counter() - started
        described = {"sha256": _sha256(result), "bytes": result.stat().st_size, "seconds": seconds}
        write_atomically(entry / ENTRY, json.dumps(described).encode())
        self._note(entry.parent.name, key=entry.name, found=False, seconds=seconds)

    def _note(self, stage: str, **line: Any) -> None:
        if self.run is not None:
            append(self.run / STAGES_FILE, f"{json.dumps({'stage': stage, **line})}\n".encode())

    def _prune(self, kept: Path) -> None:
        """Remove the entries that were not used for longest, as long as all together are too large."""
        entries = self.entries()
        spare = sum(one.num_bytes for one in entries) - self.max_gib * GIB
        for one in entries:
            if spare <= 0:
                return
            if one.folder != kept:
                remove(one)
                spare -= one.num_bytes


NO_CACHE = StageCache(folder=None, max_gib=1.0)


def remove(entry: Entry) -> None:
    """Remove an entry; a job that reads from it at this moment keeps what it has opened."""
    shutil.rmtree(entry.folder, ignore_errors=True)


def _described(file: Path) -> Entry | None:
    """Return an entry by its description; None where it vanished or is damaged."""
    with suppress(OSError, ValueError, KeyError):
        described = json.loads(file.read_text(encoding="utf-8"))
        return Entry(
            folder=file.parent,
            stage=file.parent.parent.name,
            num_bytes=described["bytes"],
            seconds=described["seconds"],
            used=file.stat().st_mtime,
        )
    return None


def _read(file: Path) -> Result:
    with safe_open(file, "numpy") as opened:
        document = json.loads(opened.metadata()[DOCUMENT])
    return _ordered((document, load_file(file)))


def _ordered(result: Result) -> Result:
    """Return the arrays in the order of their names, as computed and as read: a fingerprint of them depends on it."""
    document, arrays = result
    return document, dict(sorted(arrays.items()))


def _write(file: Path, result: Result) -> None:
    document, arrays = result
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    save_file(contiguous, file, metadata={DOCUMENT: json.dumps(document)})


def _link(file: Path, path: Path) -> None:
    """Link a file to a new path, or copy it to another file system. Both are only ever replaced, never written into."""
    with atomic_file(path) as draft:
        try:
            os.link(file, draft)
        except OSError:
            shutil.copyfile(file, draft)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
