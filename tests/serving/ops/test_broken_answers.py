"""A neighbour that breaks off in the middle of an answer is one that does not answer."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.ops.managed_process import ManagedProcess

ANSWERS = {
    "cut short": b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"half": true',
    "no HTTP": b"GARBAGE\r\n\r\n",
}


@pytest.fixture(params=ANSWERS)
def broken(request: pytest.FixtureRequest) -> Iterator[int]:
    """The port of a server that gives everybody the same answer and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    with connection:
                        connection.recv(65_536)
                        connection.sendall(ANSWERS[request.param])

        thread = threading.Thread(target=answer)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
    thread.join(30)


def test_a_child_that_breaks_off_does_not_raise(broken: int, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{broken}/healthz"
    child = ManagedProcess("c", [], health=url, log=tmp_path / "log", start_timeout_s=1.0, exit_timeout_s=1.0)
    assert child.probe() is None or "does not answer" in child.probe()
