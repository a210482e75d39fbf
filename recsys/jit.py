"""`compiled`: numba functions with a disk cache that is keyed by the sources of all of them.

Numba's own cache is keyed by the file of a function alone: it would keep machine code that inlined callees from other files
which have changed since.
"""

import contextlib
import hashlib
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from numba import config, njit

CACHE_PREFIX = "compiled-"
IMPORT_MARK = b"import compiled"


def cache_folder(package: Path) -> Path:
    """Cache folder of a package's compiled functions, named by a digest of all files that define or import them."""
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        text = file.read_bytes()
        if IMPORT_MARK in text:
            digest.update(file.relative_to(package).as_posix().encode() + b"\0" + text + b"\0")
    return package / "__pycache__" / f"{CACHE_PREFIX}{digest.hexdigest()[:16]}"


def remove_stale_caches(kept: Path, prefix: str = CACHE_PREFIX) -> None:
    """Remove caches of other versions of the package, where the process may write."""
    with contextlib.suppress(OSError):
        for folder in kept.parent.glob(f"{prefix}*"):
            if folder != kept:
                shutil.rmtree(folder, ignore_errors=True)


config.CACHE_DIR = str(_folder := cache_folder(Path(__file__).parent))  # type: ignore[attr-defined]
remove_stale_caches(_folder)

compiled: Callable[..., Any] = partial(njit, cache=True)
"""decorator factory `@compiled()`; where the folder is not writable numba falls back to its own"""
