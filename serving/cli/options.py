"""Options that several commands of `python -m serving` share, and what they stand for."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from recsys.errors import ConfigError
from serving.disk import DiskSizes
from serving.endpoints import Endpoints, Server, read_endpoints
from serving.events.log_factory import LogLimits
from serving.gateway.http_server import Listening
from serving.gateway.personal_data import PersonalDataMode
from serving.gateway.settings import Settings
from serving.layout import DeploymentLayout
from serving.ops.stack import UserIds

DAY_S = 86_400.0
LOG_DAYS = LogLimits().max_age_s / DAY_S
LOG_BYTES, SPOOL_BYTES = LogLimits().max_bytes, DiskSizes().spool
LAME_DUCK_S = Settings().lame_duck_s


Port = Annotated[int, typer.Option(help="0 takes a free one")]
Host = Annotated[str, typer.Option(help="address of the gateway; 0.0.0.0 is all of this machine, in plain HTTP")]
MetricsPort = Annotated[int, typer.Option(help="of the gateway's metrics and detailed health; 0 takes a free one")]
MetricsHost = Annotated[str, typer.Option(help="address of the gateway's metrics, which need no API key")]
TrustedProxy = Annotated[
    list[str] | None, typer.Option(help="address or network whose X-Forwarded-For is believed; repeatable")
]
Serve = Annotated[Path, typer.Argument(help="folder that export.py wrote, or one of its releases")]
Live = Annotated[Path | None, typer.Option(help="folder for what is written while serving; else `live` beside it")]
BrokerUrl = Annotated[str | None, typer.Option(help="nats://, tls:// or kafka://host:port")]
Triton = Annotated[str | None, typer.Option(help="unix:path or host:port of Triton's gRPC")]
StateUrl = Annotated[str | None, typer.Option(help="sqlite:///path, unix://path, redis:// or rediss://host:port")]
EndpointsFile = Annotated[
    Path | None, typer.Option("--endpoints", help="JSON file of broker, state and triton with their passwords")
]
Budget = Annotated[
    float,
    typer.Option(help="ms a slate may take; a smaller cascade answers when the whole one is too slow"),
]
Liked = Annotated[list[str] | None, typer.Option(help="objective that a liked item reaches beside the target")]
LogBytes = Annotated[int, typer.Option(help="size of the log in NATS; `up` takes half of the disk's room at most")]
SpoolBytes = Annotated[int, typer.Option(help="size of the spool; `up` takes a quarter of the disk's room at most")]
LameDuck = Annotated[
    float, typer.Option(help="seconds from SIGTERM, when /readyz answers 503, until no connection is taken any more")
]
LogDays = Annotated[float, typer.Option(min=0.01, help="age at which records leave the log in NATS, read or not")]
EventDays = Annotated[
    float | None, typer.Option(min=1, help="age at which days of the Parquet log are removed; else all are kept")
]
StateDays = Annotated[
    float | None, typer.Option(min=0.01, help="time to live of a user's state after the last event; else all are kept")
]
PersonalData = Annotated[
    PersonalDataMode, typer.Option(help="e-mail, phone, card and bank numbers in free text: count, mask or refuse them")
]
JwtFile = Annotated[
    Path | None,
    typer.Option("--jwt", help="YAML: issuer, audience and keys of tokens that are accepted beside API keys"),
]
UserNames = Annotated[UserIds, typer.Option(help="user ids behind the gateway: as received, or hashed")]


def layout_of(serve: Path, live: Path | None) -> DeploymentLayout:
    return DeploymentLayout.of(serve, live)


def seconds(days: float | None) -> float | None:
    return None if days is None else days * DAY_S


def endpoints_of(file: Path | None, **urls: str | None) -> Endpoints:
    """Endpoints of the file, or of URLs, which hold no secrets; ConfigError unless one of both is given."""
    given = {name: Server(url=url) for name, url in urls.items() if url is not None}
    if file is not None and not given:
        return read_endpoints(file)
    if file is not None or len(given) < len(urls):
        options = ", ".join(f"--{name}" for name in urls)
        raise ConfigError(f"the other servers are not known; give --endpoints, or {options}")
    return Endpoints(**given)


def settings_of(budget: float, liked: list[str] | None, lame_duck: float, personal_data: PersonalDataMode) -> Settings:
    """Settings of the gateway; ConfigError for a number out of range."""
    settings = Settings.within(budget, liked=tuple(liked or ()))
    return replace(settings, lame_duck_s=lame_duck, personal_data=personal_data)


def listening_at(
    host: str, port: int, metrics_host: str, metrics_port: int, trusted_proxies: list[str] | None
) -> Listening:
    return Listening(
        host=host,
        port=port,
        metrics_host=metrics_host,
        metrics_port=metrics_port,
        trusted_proxies=tuple(trusted_proxies or ()),
    )
