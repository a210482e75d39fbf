"""`compiled`: functions that numba compiles once and keeps on the disk, under what all of them say together.

Numba alone keeps a function until its own file changes, and then goes on with machine code of callees in other files that
changed since.
"""

import contextlib
import hashlib
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from numba import config, njit

PREFIX = "compiled-"
MARK = b"import compiled"


def cache_folder(package: Path) -> Path:
    """Where the compiled functions of a package are kept: another folder as soon as a file that has some changes."""
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        text = file.read_bytes()
        if MARK in text:
            digest.update(file.relative_to(package).as_posix().encode() + b"\0" + text + b"\0")
    return package / "__pycache__" / f"{PREFIX}{digest.hexdigest()[:16]}"


def forget_older(kept: Path) -> None:
    """Remove what other versions of the package left; who may not write leaves it there."""
    with contextlib.suppress(OSError):
        for folder in kept.parent.glob(f"{PREFIX}*"):
            if folder != kept:
                shutil.rmtree(folder, ignore_errors=True)


config.CACHE_DIR = str(_folder := cache_folder(Path(__file__).parent))  # type: ignore[attr-defined]
forget_older(_folder)

compiled: Callable[..., Any] = partial(njit, cache=True)
"""`@compiled()`; where the folder cannot be written numba keeps them where it can"""
