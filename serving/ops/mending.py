"""Damaged files of a deployment: moved aside, said, and made anew from what is left, when a process starts."""

import time
from collections.abc import Callable
from pathlib import Path

from recsys.errors import ConfigError
from serving.gateway.api_keys import read_keys
from serving.layout import DeploymentLayout
from serving.state.sqlite import sqlite_damage

COMPANIONS = ("-wal", "-shm")
"""files that SQLite keeps beside a database"""
MOVED_ASIDE = ".damaged-"

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


def mend_keys(layout: DeploymentLayout, report: Report) -> None:
    """Move a damaged keys.json aside, and the first key that goes with it, which is made again; all others are lost."""
    if not layout.keys.exists():
        return
    try:
        read_keys(layout.keys)
    except ConfigError:
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
