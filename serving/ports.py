"""Ports on the loopback interface for the servers that are started here."""

import contextlib
import random
import socket

from recsys.errors import ConfigError, ServingError

HOST = "127.0.0.1"
PORTS = range(20_000, 32_768)
"""below Linux's ephemeral ports, so that no outgoing connection takes one before the server has bound it"""


def check_port(name: str, port: int) -> None:
    """ConfigError for what is neither a port nor 0."""
    if not 0 <= port < 65_536:
        raise ConfigError(f"{name} is {port!r}; give a port from 1 to 65535, or 0 for a free one")


def free_ports(wanted: dict[str, int]) -> dict[str, int]:
    """Check the ports that were asked for (ServingError for one that is taken) and choose those that are 0."""
    held: dict[str, socket.socket] = {}
    try:
        for name, port in wanted.items():
            held[name] = _hold(name, port) if port else _hold_any(name)
        return {name: holder.getsockname()[1] for name, holder in held.items()}
    finally:
        for holder in held.values():
            holder.close()


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
