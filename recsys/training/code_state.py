"""Commit of the code that a run is made by."""

import subprocess
from pathlib import Path
from typing import Any


def code_state(folder: Path) -> dict[str, Any]:
    """Return the commit of a working tree and whether files differ from it; empty outside of one."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {}


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
