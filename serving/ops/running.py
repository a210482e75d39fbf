"""Processes of a stack: the record of a running one, and those that outlived their supervisor.

Every child of a supervisor carries the identity of its live folder in its environment. The folder has one supervisor, which
holds its lock; a process of the folder without a supervisor is a leftover. So a reused process id is never taken for one.
"""

import contextlib
import json
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recsys.errors import ConfigError, ServingError
from recsys.stores.atomic_files import write_atomically
from serving.endpoints import read_endpoints
from serving.events.folder_lock import lock_folder
from serving.layout import DeploymentLayout
from serving.private_folder import remove_socket_folder
from serving.processes import alive, until

MARK = "RECSYS_LIVE"
"""environment variable of every process of a stack: device and inode of the live folder"""
GATEWAY = "gateway"
GATEWAY_METRICS = "gateway metrics"
END_S, KILL_S = 30.0, 10.0
"""until a gateway has finished its requests, and until the others have ended"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceReport:
    """One service, as its guard last saw it."""

    pid: int
    fault: str | None
    restarts: int


class RunningFile:
    """running.json of a stack: addresses, process ids and faults, for operators. Replaced atomically, by any thread."""

    def __init__(self, path: Path, addresses: Mapping[str, str]) -> None:
        self._path, self._addresses, self._lock = path, dict(addresses), threading.Lock()

    def write(self, services: Mapping[str, ServiceReport]) -> None:
        document = {
            "addresses": self._addresses,
            "supervisor": os.getpid(),
            "pids": {name: service.pid for name, service in services.items()},
            "services": {name: asdict(service) for name, service in services.items()},
        }
        with self._lock, contextlib.suppress(OSError):  # a full disk ends no guard
            write_atomically(self._path, json.dumps(document, indent=1).encode(), 0o600)


def read_running(path: Path) -> dict[str, Any] | None:
    """Return the content of running.json, None without one or for a damaged one."""
    try:
        document = json.loads(path.read_bytes())
        return document if document["addresses"] and document["supervisor"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def supervised(live: Path) -> bool:
    """Whether a supervisor holds the folder."""
    if not live.is_dir():
        return False
    try:
        os.close(lock_folder(live))
    except ServingError:
        return True
    return False


def mark_children(live: Path) -> None:
    """Give the identity of the live folder to all processes that this one starts."""
    os.environ[MARK] = _identity(live)


def leftovers(live: Path) -> dict[int, str]:
    """Process id -> command line of every living process of the folder's stack."""
    if not live.is_dir():
        return {}
    mark = f"{MARK}={_identity(live)}".encode()
    found = {pid: _read(pid, "cmdline") for pid in _pids() if mark in _read(pid, "environ").split(b"\0") and alive(pid)}
    return {pid: words.replace(b"\0", b" ").decode(errors="replace") for pid, words in found.items()}


def end_leftovers(layout: DeploymentLayout) -> int:
    """End the processes that a killed supervisor left, the gateway first, and remove its sockets; return their number.

    ServingError while a supervisor runs, or when one of them does not end.
    """
    if not layout.live.is_dir():
        return 0
    descriptor = lock_folder(layout.live)
    try:
        ended = _end_all(layout.live)
        _remove_remains(layout)
    finally:
        os.close(descriptor)
    return ended


def _remove_remains(layout: DeploymentLayout) -> None:
    """Remove what a supervisor removes at its end: its sockets, and addresses and process ids that mean nothing any more."""
    with contextlib.suppress(ConfigError):  # none were written, or they are damaged
        remove_socket_folder(Path(read_endpoints(layout.endpoints).triton.url.removeprefix("unix:")).parent)
    for file in (layout.endpoints, layout.running):
        file.unlink(missing_ok=True)


def _end_all(live: Path) -> int:
    found = leftovers(live)
    _end(live, [pid for pid, words in found.items() if f" serving {GATEWAY} " in words], END_S)
    _end(live, list(found), KILL_S)
    _signal(live, list(leftovers(live)), signal.SIGKILL)
    if not until(lambda: not leftovers(live), KILL_S):
        raise ServingError(
            f"processes of an earlier stack at {live} do not end: {', '.join(map(str, leftovers(live)))}"
        )
    return len(found)


def _end(live: Path, pids: Sequence[int], timeout_s: float) -> None:
    _signal(live, pids, signal.SIGTERM)
    _signal(live, pids, signal.SIGCONT)
    until(lambda: not set(pids) & set(leftovers(live)), timeout_s)


def _signal(live: Path, pids: Sequence[int], number: int) -> None:
    """Send by a descriptor of the process, so that an id that was reused meanwhile is spared."""
    for pid in pids:
        with contextlib.suppress(OSError):
            descriptor = os.pidfd_open(pid)
            try:
                if pid in leftovers(live):
                    signal.pidfd_send_signal(descriptor, number)
            finally:
                os.close(descriptor)


def _identity(live: Path) -> str:
    found = live.stat()
    return f"{found.st_dev}:{found.st_ino}"


def _pids() -> Iterator[int]:
    return (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # ended, or of another account
        return b""
