"""Folders and files that no other account may read, list, lock or connect to."""

import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from recsys.errors import ServingError

FOLDER_MODE, FILE_MODE = 0o700, 0o600
OTHERS = stat.S_IRWXG | stat.S_IRWXO
MAX_SOCKET_PATH = 107
"""bytes of the path of a Unix socket (sun_path of Linux, less its end)"""


def make_private(folder: Path) -> Path:
    """Create the folder, or close an existing one to other accounts; ServingError where it is somebody else's."""
    folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise ServingError(f"{folder} belongs to another account; remove it, or take another folder")
    folder.chmod(FOLDER_MODE)
    return folder


def close_to_others(folder: Path) -> int:
    """Remove all rights of other accounts below the folder; return how many entries had some.

    ServingError for an entry that belongs to somebody else: who may write it may change what is served.
    """
    return sum(_close(path) for path in (folder, *_entries(folder)))


def _entries(folder: Path) -> Iterator[Path]:
    """All entries below a folder but links, whose own rights mean nothing."""
    for path in folder.rglob("*"):
        if not path.is_symlink():
            yield path


def _close(path: Path) -> bool:
    """Return whether there was something to close; a file that goes meanwhile has nothing."""
    try:
        found = path.lstat()
        if found.st_uid != os.getuid():
            raise ServingError(f"{path} belongs to another account; remove it, or give it to the account that serves")
        if found.st_mode & OTHERS:
            path.chmod(stat.S_IMODE(found.st_mode) & ~OTHERS)
        return bool(found.st_mode & OTHERS)
    except FileNotFoundError:
        return False


def socket_folder() -> Path:
    """Return the path of a new folder for Unix sockets, whose paths must be short; `make_private` creates it."""
    base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    return Path(base) / f"recsys-{secrets.token_hex(8)}"


def remove_socket_folder(folder: Path) -> None:
    """Remove a folder of `socket_folder` that a killed process left; one of another name or account stays."""
    if not re.fullmatch("recsys-[0-9a-f]{16}", folder.name) or folder.is_symlink() or not folder.is_dir():
        return
    if folder.stat().st_uid == os.getuid():
        shutil.rmtree(folder)


def check_socket_path(path: Path) -> None:
    """ServingError for a path that the kernel would refuse."""
    if (length := len(os.fsencode(path))) > MAX_SOCKET_PATH:
        raise ServingError(
            f"{path} has {length} bytes, a Unix socket may have {MAX_SOCKET_PATH}; choose a folder with a shorter path"
        )
