"""Processes that serve beside us: free ports, an end that leaves nothing behind, and what is left of a process group."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from recsys.errors import ConfigError, ServingError

ROOT = Path(__file__).resolve().parents[1]
"""the folder that holds `recsys` and `serving`"""
HOST = "127.0.0.1"
PORTS = range(20_000, 32_768)
"""below Linux's ephemeral ports, so that no outgoing connection takes one before the server has bound it"""
EXIT_TIMEOUT_S = 5
POLL_S = 0.05
SILENCE_S = 1.0
"""after which a server counts as silent"""


class Server(ABC):
    """A server that runs beside us as one process, as a context manager; what all of them do alike.

    A subclass starts it into `_process` and says whether it answers. exit_timeout_s: it may take so long to finish what
    it has begun.
    """

    def __init__(self, name: str, *, exit_timeout_s: float = EXIT_TIMEOUT_S + 5) -> None:
        self.name = name
        self._exit_timeout_s = exit_timeout_s
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the process; ServingError where there is none."""
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
        """Whether it does at this moment."""

    def stop(self) -> None:
        """Stop the server, a halted one too; stopping twice is allowed."""
        process, self._process = self._process, None
        if process is not None:
            end(process, self._exit_timeout_s)

    def running(self) -> bool:
        """Whether its process is there."""
        return self._process is not None and self._process.poll() is None

    def probe(self) -> str | None:
        """None if it answers, else one sentence."""
        return None if self.answers() else f"does not answer within {SILENCE_S:g} s"

    def mend(self) -> bool:
        """There is nothing smaller than a restart."""
        return False


def check_ports(wanted: Mapping[str, int]) -> None:
    """ConfigError for the first port that there cannot be; 0 stands for any free one."""
    for name, port in wanted.items():
        if not 0 <= port < 65_536:
            raise ConfigError(f"{name} is {port!r}; give a port from 1 to 65535, or 0 for a free one")


def choose_ports(wanted: Mapping[str, int]) -> dict[str, int]:
    """Check that the ports that were asked for are free and choose the others. ServingError for a taken one."""
    held: dict[str, socket.socket] = {}
    try:
        for name, port in wanted.items():
            held[name] = _hold(name, port) if port else _hold_any(name)
        return {name: holder.getsockname()[1] for name, holder in held.items()}
    finally:
        for holder in held.values():
            holder.close()


def spawn(
    command: list[str],
    *,
    log: Path,
    cwd: Path,
    environment: Mapping[str, str] | None = None,
    hand_on: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process in a group of its own, so that our Ctrl-C does not reach it; it writes to the end of `log`.

    hand_on: an open file descriptor that it keeps for as long as it lives, a lock for example.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            cwd=cwd,
            env=None if environment is None else dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=() if hand_on is None else (hand_on,),
        )


def end(process: subprocess.Popen[bytes], timeout_s: float = EXIT_TIMEOUT_S + 5) -> None:
    """Ask the process to go, a halted one too, then make sure that nothing of its group is left."""
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
    """Wait for the condition; False when the time is up."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def last_lines(log: Path, since: int = 0, *, tells: Callable[[str], bool] = bool) -> str:
    """The last few lines behind byte `since` of a log that tell something, or of all where none does."""
    with log.open("rb") as stream:
        stream.seek(since)
        lines = stream.read().decode(errors="replace").splitlines()
    return "\n".join(["its log says", *([line for line in lines if tells(line)] or lines)[-5:]])


def group(leader: int) -> list[int]:
    """Processes of a process group that are alive; a zombie is not."""
    pids = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())
    return [pid for pid in pids if _group_if_alive(pid) == leader]


def command_line(pid: int) -> list[str]:
    """The words that a process was started with; none for one that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return []


def _hold(name: str, port: int) -> socket.socket:
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        holder.bind((HOST, port))
        holder.listen()
    except OSError as error:
        holder.close()
        raise ServingError(f"{name} {port} is not free ({error.strerror}); choose another one, or 0 for any") from None
    return holder


def _hold_any(name: str) -> socket.socket:
    for port in random.SystemRandom().sample(PORTS, 100):
        with contextlib.suppress(ServingError):
            return _hold(name, port)
    raise ServingError(f"no free port was found for {name}; give one that is free")


def _group_if_alive(pid: int) -> int | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[2]) if fields[0] not in "ZX" else None
