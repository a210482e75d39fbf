"""Releases of a serve folder: each export is a folder of its own, and one link names the release that serves.

<serve>/releases/<fingerprint>/bundle/    the bundle, verified again by every stage that loads it
<serve>/releases/<fingerprint>/models/    the Triton models
<serve>/releases/<fingerprint>/manifest.json, manifest.sig    see recsys.export.release_manifest
<serve>/current                           link to the release that serves from the next start on
<serve>/rules, items, exposure, last_good     state, which all releases share

A release is complete when it has its name, and nothing is written into it afterwards. Exports of one serve folder wait for
each other; the link is renamed, so that a reader finds the old release or the new one. A process that serves a release holds
a shared lock of its folder, so that nobody removes it.
"""

import fcntl
import filecmp
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

from recsys.errors import ConfigError
from recsys.stores.atomic_files import locked, sync_folder

RELEASES, CURRENT = "releases", "current"
STATE = ("rules", "items", "exposure", "last_good")
"""folders beside the releases"""
DRAFT, DRAFT_LINK, REMOVED = ".draft", ".current.draft", ".removed"
HOLD_S, HOLD_POLL_S = 1.0, 0.01
"""a process that looks whether a release is served locks it for a moment"""
UNVERSIONED = ("bundle", "models", "bundle.old", "models.old")
"""entries of a folder that an earlier version exported; it is served until a release is published"""
BYTECODE = "__pycache__"
CONTENT = {RELEASES, CURRENT, DRAFT_LINK, *STATE, *UNVERSIONED}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A complete release of a serve folder."""

    path: Path
    exported: float
    """unix seconds"""
    num_bytes: int
    current: bool
    """whether the next start serves it"""
    served: bool
    """whether a process of this machine serves it now"""


def served_release(serve: Path) -> Path:
    """Return the folder of the release that `current` names, without links; the serve folder itself for an older export."""
    link = serve / CURRENT
    return link.resolve() if link.is_symlink() else serve


def state_folder(release: Path) -> Path:
    """Return the folder with the state of a release: its serve folder."""
    return release.parent.parent if release.parent.name == RELEASES else release


def check_serve_folder(serve: Path) -> None:
    """ConfigError for a folder that holds other things than releases and their state, or that is a release itself."""
    if serve.resolve().parent.name == RELEASES:
        raise ConfigError(f"{serve} is a release, which nothing writes into; give {state_folder(serve.resolve())}")
    if serve.exists() and not (serve.is_dir() and {one.name for one in serve.iterdir()} <= CONTENT):
        raise ConfigError(f"{serve} holds other things than an exported bundle; give a new or an empty folder")


@contextmanager
def release_draft(serve: Path, fingerprint: str) -> Iterator[Path]:
    """Yield an empty folder for a release; at the end it is named and published, after an error it is removed."""
    with locked(serve / RELEASES):
        draft = serve / RELEASES / DRAFT
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        try:
            yield draft
            _publish(serve, _named(draft, fingerprint))
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def _named(draft: Path, fingerprint: str) -> Path:
    """Rename a draft to <fingerprint>, or to <fingerprint>.2 where the same bundle was exported otherwise before.

    An equal release is kept instead: it may be serving.
    """
    names = chain([fingerprint], (f"{fingerprint}.{number}" for number in count(2)))
    for release in (draft.with_name(name) for name in names):
        if not release.exists():
            _sync(draft)
            draft.rename(release)
            sync_folder(release.parent)
            return release
        if files_of(release) == files_of(draft) and _same(release, draft):
            return release
    raise AssertionError


def _publish(serve: Path, release: Path) -> None:
    link = serve / DRAFT_LINK
    link.unlink(missing_ok=True)
    link.symlink_to(Path(RELEASES) / release.name)
    link.replace(serve / CURRENT)
    sync_folder(serve)


def files_of(folder: Path) -> list[str]:
    """Return the relative paths of all files, without what Python compiled."""
    found = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    return sorted(str(file) for file in found if BYTECODE not in file.parts)


def _same(one: Path, other: Path) -> bool:
    _, different, unreadable = filecmp.cmpfiles(one, other, files_of(other), shallow=False)
    return not different and not unreadable


def _sync(folder: Path) -> None:
    """Fsync all files and folders: a release survives a power cut as soon as it has its name."""
    for path in (folder, *folder.rglob("*")):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def hold_release(release: Path) -> None:
    """Keep `prune_releases` from removing this release as long as this process lives.

    A folder whose file system knows no locks, or which another account keeps locked, is served all the same.
    """
    deadline = time.monotonic() + HOLD_S
    try:
        descriptor = os.open(release, os.O_RDONLY)  # never closed
        while True:
            try:
                return fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(HOLD_POLL_S)
    except OSError as error:
        logger.warning("%s cannot be marked as served (%s): remove no releases while it is", release, error.strerror)


def list_releases(serve: Path) -> list[Release]:
    """Return the complete releases of a serve folder, newest first; ConfigError for a folder without any."""
    current, folder = served_release(serve), serve / RELEASES
    found = [path for path in folder.glob("*") if path.is_dir() and not path.name.startswith(".")]
    if not found:
        raise ConfigError(
            f"{serve} holds no releases; export a bundle into it, or name the folder that export.py wrote"
        )
    listed = (_release(path, current=path.resolve() == current) for path in found)
    return sorted(listed, key=lambda one: (one.exported, one.path.name), reverse=True)


def prune_releases(serve: Path, keep: int) -> list[Release]:
    """Remove all releases but the newest `keep`, the current one and those that are served; return the removed ones.

    An export is waited for: OSError when it takes longer than a lock is waited for.
    """
    with locked(serve / RELEASES):
        shutil.rmtree(serve / RELEASES / REMOVED, ignore_errors=True)  # of a removal that did not end
        older = [one for one in list_releases(serve)[keep:] if not one.current]
        return [one for one in older if _remove(one.path)]


def _release(path: Path, *, current: bool) -> Release:
    files = (file for file in path.rglob("*") if file.is_file())
    num_bytes = sum(file.stat().st_size for file in files)
    with _free(path) as free:
        return Release(path=path, exported=path.stat().st_mtime, num_bytes=num_bytes, current=current, served=not free)


def _remove(release: Path) -> bool:
    """Remove a release that nobody serves: it loses its name first, so that nobody finds half of one."""
    with _free(release) as free:
        if free:
            release.rename(removed := release.with_name(REMOVED))
            sync_folder(release.parent)
            shutil.rmtree(removed)
    return free


@contextmanager
def _free(release: Path) -> Iterator[bool]:
    """Lock a release against those who begin to serve it; False where somebody does, or where that cannot be told."""
    descriptor = os.open(release, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = True
    except OSError:
        free = False
    try:
        yield free
    finally:
        os.close(descriptor)
