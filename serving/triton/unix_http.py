"""GET over a Unix socket, for Triton's Prometheus page."""

import http.client
import socket
from pathlib import Path

from recsys.errors import ServingError


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path, self._timeout_s = path, timeout_s

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self._timeout_s)
        self.sock.connect(str(self._path))


def get(path: Path, target: str, *, timeout_s: float) -> bytes:
    """Return the body of the answer; ServingError without one of status 200."""
    connection = _UnixConnection(path, timeout_s)
    try:
        connection.request("GET", target)
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise ServingError(f"{path} does not answer: {error}") from None
    finally:
        connection.close()
    if response.status != 200:
        raise ServingError(f"{path} answers {response.status} to {target}")
    return body
