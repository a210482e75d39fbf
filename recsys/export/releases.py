"""Releases of a serve folder: each export is a folder of its own, and one link names the release that serves.

<serve>/releases/<fingerprint>/bundle/    the bundle, verified again by every stage that loads it
<serve>/releases/<fingerprint>/models/    the Triton models
<serve>/current                           link to the release that serves from the next start on
<serve>/rules, items, exposure, last_good     state, which all releases share

A release is complete when it has its name, and nothing is written into it afterwards. Exports of one serve folder wait for
each other; the link is renamed, so that a reader finds the old release or the new one.
"""

import filecmp
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path

from recsys.errors import ConfigError
from recsys.stores.atomic_files import locked, sync_folder

RELEASES, CURRENT = "releases", "current"
STATE = ("rules", "items", "exposure", "last_good")
"""folders beside the releases"""
DRAFT, DRAFT_LINK = ".draft", ".current.draft"
UNVERSIONED = ("bundle", "models", "bundle.old", "models.old")
"""entries of a folder that an earlier version exported; it is served until a release is published"""
CONTENT = {RELEASES, CURRENT, DRAFT_LINK, *STATE, *UNVERSIONED}


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
        if _files(release) == _files(draft) and _same(release, draft):
            return release
    raise AssertionError


def _publish(serve: Path, release: Path) -> None:
    link = serve / DRAFT_LINK
    link.unlink(missing_ok=True)
    link.symlink_to(Path(RELEASES) / release.name)
    link.replace(serve / CURRENT)
    sync_folder(serve)


def _files(folder: Path) -> list[str]:
    """Return the relative paths of all files, without what Python compiled."""
    found = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    return sorted(str(file) for file in found if "__pycache__" not in file.parts)


def _same(one: Path, other: Path) -> bool:
    _, different, unreadable = filecmp.cmpfiles(one, other, _files(other), shallow=False)
    return not different and not unreadable


def _sync(folder: Path) -> None:
    """Fsync all files and folders: a release survives a power cut as soon as it has its name."""
    for path in (folder, *folder.rglob("*")):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
