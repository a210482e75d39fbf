"""Damaged files of a deployment: moved aside, said, and made anew from what is left, when a process starts."""

import time
from collections.abc import Callable
from pathlib import Path

from recsys.stores.atomic_files import write_atomically
from serving.gateway.api_keys import DamagedKeys, read_keys
from serving.layout import DeploymentLayout
from serving.private_folder import FILE_MODE
from serving.state.sqlite import sqlite_damage

COMPANIONS = ("-wal", "-shm")
"""files that SQLite keeps beside a database"""
MOVED_ASIDE = ".damaged-"
REDIS, APPEND_ONLY = "redis", "appendonlydir"
"""a store, and the folder that Valkey keeps its data in"""

Report = Callable[[str], None]


def mend_states(layout: DeploymentLayout, report: Report) -> None:
    """Move a damaged states.db aside; request its rebuild where there are events, also for one that is missing.

    ServingError when the file cannot be checked.
    """
    missing = not layout.states.exists()
    if (damage := sqlite_damage(layout.states)) is not None:
        aside = _move_aside(layout.states)
        report(f"{layout.states} is damaged ({damage}) and was moved to {aside.name}")
    if (missing or damage is not None) and layout.has_events and not layout.rebuild.exists():
        layout.rebuild.touch()
        report(f"the states are rebuilt from {layout.events}; until then users count as those of the training data")


def follow_backend(layout: DeploymentLayout, backend: str, report: Report) -> None:
    """Request a rebuild where another store kept the states until now, or where the files of Valkey are gone.

    The log remembers up to where states were written, not by whom: this store would lack all events since.
    """
    kept = layout.state_backend.read_text(encoding="ascii").strip() if layout.state_backend.exists() else backend
    lost = backend == REDIS and not (layout.valkey / APPEND_ONLY).is_dir()
    if (kept != backend or lost) and layout.has_events and not layout.rebuild.exists():
        layout.rebuild.touch()
        reason = f"were kept by {kept}" if kept != backend else f"are missing in {layout.valkey}"
        report(f"the states {reason}; they are rebuilt from {layout.events}")
    write_atomically(layout.state_backend, backend.encode(), FILE_MODE)


def mend_keys(layout: DeploymentLayout, report: Report) -> None:
    """Move a damaged keys.json aside, and the first key that goes with it, which is made again; all others are lost.

    ConfigError for one that cannot be read, or that a later version wrote: its keys stay.
    """
    if not layout.keys.exists():
        return
    try:
        read_keys(layout.keys)
    except DamagedKeys:
        aside = _move_aside(layout.keys)
        layout.first_key.unlink(missing_ok=True)
        report(
            f"{layout.keys} is damaged and was moved to {aside.name}; there is a new first key, make the others again with "
            "`python -m serving keys create`"
        )


def _move_aside(path: Path) -> Path:
    """Rename to a name that is not taken, with the files beside it."""
    stamp = time.strftime("%Y%m%dT%H%M%S")
    names = (
        path.with_name(f"{path.name}{MOVED_ASIDE}{stamp}{suffix}") for suffix in ("", *(f"-{n}" for n in range(1, 100)))
    )
    aside = next(name for name in names if not name.exists())
    for companion in COMPANIONS:
        if (beside := path.with_name(path.name + companion)).exists():
            beside.replace(aside.with_name(aside.name + companion))
    path.replace(aside)
    return aside


def remove_moved_aside(layout: DeploymentLayout) -> None:
    """Remove the damaged state files that were moved aside, which hold forgotten users."""
    for path in layout.live.glob(f"{layout.states.name}{MOVED_ASIDE}*"):
        path.unlink(missing_ok=True)
