"""Child processes of the stack: free ports, start, complete termination of a process group."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from recsys.errors import ConfigError, ServingError
from serving.private_folder import FILE_MODE

ROOT = Path(__file__).resolve().parents[1]
"""the folder that holds `recsys` and `serving`"""
HOST = "127.0.0.1"
PORTS = range(20_000, 32_768)
"""below Linux's ephemeral ports, so that no outgoing connection takes one before the server has bound it"""
EXIT_TIMEOUT_S = 5
POLL_S = 0.05
CLOSED_UMASK = 0o077
"""of child processes: their files, sockets and shared memory are for our account alone"""
SILENCE_S = 1.0
"""timeout of a probe"""


class ServerProcess(ABC):
    """Base of servers that run as one child process, as a context manager.

    A subclass starts the process into `_process` and implements `answers`. exit_timeout_s bounds the time to finish
    requests in flight, in seconds.
    """

    def __init__(self, name: str, *, exit_timeout_s: float = EXIT_TIMEOUT_S + 5) -> None:
        self.name = name
        self._exit_timeout_s = exit_timeout_s
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id; ServingError without a process."""
        if self._process is None:
            raise ServingError(f"this {self.name} is not running; enter it with `with` or call start()")
        return self._process.pid

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @abstractmethod
    def start(self) -> None:
        """Start the server and wait until it answers."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether the server answers now."""

    def stop(self) -> None:
        """Stop the server, a halted one too; stopping twice is allowed."""
        process, self._process = self._process, None
        if process is not None:
            end(process, self._exit_timeout_s)

    def running(self) -> bool:
        """Whether the process is alive."""
        return self._process is not None and self._process.poll() is None

    def probe(self) -> str | None:
        """None if the server answers, else one sentence."""
        return None if self.answers() else f"does not answer within {SILENCE_S:g} s"

    def repair(self) -> bool:
        """No repair short of a restart: return False."""
        return False

    def restartable(self) -> bool:
        """Whether a restart may help now."""
        return True


def check_ports(ports: Mapping[str, int]) -> None:
    """ConfigError for the first port out of range; 0 means any free port."""
    for name, port in ports.items():
        if not 0 <= port < 65_536:
            raise ConfigError(f"{name} is {port!r}; give a port from 1 to 65535, or 0 for a free one")


def choose_ports(ports: Mapping[str, int], hosts: Mapping[str, str] | None = None) -> dict[str, int]:
    """Check that the given ports are free and choose one for each 0. ServingError for a port in use.

    hosts: addresses of those that do not listen on the loopback interface
    """
    bound: dict[str, socket.socket] = {}
    try:
        for name, port in ports.items():
            host = (hosts or {}).get(name, HOST)
            bound[name] = _bind(name, port, host) if port else _bind_any(name, host)
        return {name: bound_socket.getsockname()[1] for name, bound_socket in bound.items()}
    finally:
        for bound_socket in bound.values():
            bound_socket.close()


def spawn(
    command: list[str],
    *,
    log: Path,
    cwd: Path,
    environment: Mapping[str, str] | None = None,
    inherited_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a process in its own session, so that Ctrl-C does not reach it; output is appended to `log`.

    inherited_fds: file descriptors that the process keeps open, a lock for example.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab", opener=_for_our_account) as output:
        return subprocess.Popen(
            command,
            cwd=cwd,
            env=None if environment is None else dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=CLOSED_UMASK,
            pass_fds=tuple(inherited_fds),
        )


def _for_our_account(path: str, flags: int) -> int:
    return os.open(path, flags, FILE_MODE)


def end(process: subprocess.Popen[bytes], timeout_s: float = EXIT_TIMEOUT_S + 5) -> None:
    """Terminate the process, a halted one too, then kill the rest of its group."""
    process.terminate()
    process.send_signal(signal.SIGCONT)
    if not until(lambda: process.poll() is not None, timeout_s):
        process.kill()
        process.wait()
    for pid in group(process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    until(lambda: not group(process.pid), 5)


def until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Wait for the condition; False on timeout."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def last_lines(log: Path, since: int = 0, *, keep: Callable[[str], bool] = bool) -> str:
    """Last five lines of a log behind byte `since` that `keep` accepts, or of all lines if it accepts none."""
    with log.open("rb") as stream:
        stream.seek(since if since <= log.stat().st_size else 0)  # the log may have been rotated
        lines = stream.read().decode(errors="replace").splitlines()
    return "\n".join(["its log says", *([line for line in lines if keep(line)] or lines)[-5:]])


def group(leader: int) -> list[int]:
    """Living processes of a process group, zombies excluded."""
    pids = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())
    return [pid for pid in pids if _group_if_alive(pid) == leader]


def alive(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    return _group_if_alive(pid) is not None


def command_line(pid: int) -> list[str]:
    """Arguments of a process; empty for one that ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return []


def _bind(name: str, port: int, host: str) -> socket.socket:
    bound_socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound_socket.bind((host, port))
        bound_socket.listen()
    except OSError as error:
        bound_socket.close()
        raise ServingError(
            f"{name} {port} is not free at {host} ({error.strerror}); choose another one, or 0 for any"
        ) from None
    return bound_socket


def _bind_any(name: str, host: str) -> socket.socket:
    for port in random.SystemRandom().sample(PORTS, 100):
        with contextlib.suppress(ServingError):
            return _bind(name, port, host)
    raise ServingError(
        f"no free port was found for {name} at {host}; give one that is free, and an address of this machine"
    )


def _group_if_alive(pid: int) -> int | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[2]) if fields[0] not in "ZX" else None
