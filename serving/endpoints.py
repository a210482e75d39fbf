"""Addresses of the broker, the state store and Triton, with what they ask of their clients.

    {"broker": {"url": "nats://10.0.0.5:4222", "token": "…", "ca": "/etc/recsys/ca.pem"},
     "state": {"url": "rediss://10.0.0.6:6379", "user": "recsys", "password": "…"},
     "triton": {"url": "10.0.0.7:8001", "ca": "/etc/recsys/ca.pem"}}

They are read from a file, since every account reads the command line and the environment is inherited by every child.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from recsys.errors import ConfigError, QueryError
from recsys.schema import SPARSE, parse_object, schema_of
from recsys.stores.atomic_files import write_atomically
from serving.private_folder import FILE_MODE, OTHERS


def _secret(**default: Any) -> Any:
    return field(**default, repr=False, metadata=SPARSE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One server. ConfigError for a secret in the URL, which messages and command lines would show."""

    url: str
    user: str = _secret(default="")
    password: str = _secret(default="")
    token: str = _secret(default="")
    """in the place of user and password"""
    ca: str = field(default="", metadata=SPARSE)
    """PEM file of the authorities that sign its certificate, for TLS; without one, those of the system"""
    settings: Mapping[str, str] = _secret(default_factory=dict)
    """of the Kafka client, e.g. {"security.protocol": "SASL_SSL", "sasl.mechanism": "SCRAM-SHA-512"}"""

    def __post_init__(self) -> None:
        if "@" in (urlsplit(self.url).netloc if "://" in self.url else ""):
            shown = f"{self.url.partition('://')[0]}://…@{self.url.rpartition('@')[2]}"
            raise ConfigError(
                f"the URL {shown} holds a password; give user and password as keys of their own, in the file of --endpoints"
            )


NOBODY = Server(url="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """The other servers; `triton` is not needed by the consumer."""

    broker: Server
    """nats://, tls:// (NATS over TLS) or kafka://host:port"""
    state: Server
    """sqlite:///path, unix://path, redis:// or rediss://host:port"""
    triton: Server = field(default=NOBODY, metadata=SPARSE)
    """unix:path or host:port of its gRPC"""


def read_endpoints(path: Path) -> Endpoints:
    """Read the file; ConfigError for one that other accounts may read, or that does not say what is needed."""
    try:
        if path.stat().st_mode & OTHERS:
            raise ConfigError(f"{path} can be read by other accounts and may hold passwords; run `chmod 600 {path}`")
        endpoints: Endpoints = schema_of(Endpoints).parse("", parse_object(path.read_bytes()))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); give the file of the endpoints") from None
    except QueryError as error:
        raise ConfigError(f"{path}: {error}") from None
    return endpoints


def write_endpoints(path: Path, endpoints: Endpoints) -> None:
    """Replace the file, readable by our account alone."""
    write_atomically(path, json.dumps(schema_of(Endpoints).document(endpoints), indent=1).encode(), FILE_MODE)
