"""Commands that run one process of a deployment in the foreground."""

from rich.console import Console

from serving.cli.options import (
    DAY_S,
    LAME_DUCK_S,
    LOG_BYTES,
    LOG_DAYS,
    SPOOL_BYTES,
    BrokerUrl,
    Budget,
    EndpointsFile,
    EventDays,
    Host,
    JwtFile,
    LameDuck,
    Liked,
    Live,
    LogBytes,
    LogDays,
    MetricsHost,
    MetricsPort,
    PersonalData,
    Port,
    Serve,
    SpoolBytes,
    StateDays,
    StateUrl,
    Triton,
    TrustedProxy,
    UserNames,
    endpoints_of,
    layout_of,
    listening_at,
    seconds,
    settings_of,
)
from serving.events.log_factory import LogLimits
from serving.gateway.personal_data import PersonalDataMode
from serving.ops.stack import UserIds
from serving.processes import HOST
from serving.wiring.consumer import run_consumer
from serving.wiring.gateway import run_gateway
from serving.wiring.storage import StorageLimits

console = Console()


def gateway(
    serve: Serve,
    endpoints: EndpointsFile = None,
    broker: BrokerUrl = None,
    state: StateUrl = None,
    triton: Triton = None,
    live: Live = None,
    port: Port = 8080,
    host: Host = HOST,
    metrics_port: MetricsPort = 0,
    metrics_host: MetricsHost = HOST,
    trusted_proxy: TrustedProxy = None,
    users: UserNames = UserIds.raw,
    budget: Budget = 100.0,
    liked: Liked = None,
    lame_duck: LameDuck = LAME_DUCK_S,
    log_bytes: LogBytes = LOG_BYTES,
    log_days: LogDays = LOG_DAYS,
    state_days: StateDays = None,
    spool_bytes: SpoolBytes = SPOOL_BYTES,
    personal_data: PersonalData = PersonalDataMode.warn,
    jwt: JwtFile = None,
) -> None:
    """Run the HTTP gateway alone, in front of a running Triton, broker and state store."""
    limits = StorageLimits(
        log=LogLimits(max_bytes=log_bytes, max_age_s=log_days * DAY_S),
        spool_bytes=spool_bytes,
        state_ttl_s=seconds(state_days),
    )
    run_gateway(
        layout_of(serve, live),
        endpoints_of(endpoints, broker=broker, state=state, triton=triton),
        listening=listening_at(host, port, metrics_host, metrics_port, trusted_proxy),
        store_raw=users is UserIds.raw,
        settings=settings_of(budget, liked, lame_duck, personal_data),
        limits=limits,
        ready=lambda url, metrics: console.print(f"gateway  {url}\nmetrics  {metrics}"),
        jwt_file=jwt,
    )


def consume(
    serve: Serve,
    endpoints: EndpointsFile = None,
    broker: BrokerUrl = None,
    state: StateUrl = None,
    live: Live = None,
    port: Port = 0,
    users: UserNames = UserIds.raw,
    log_bytes: LogBytes = LOG_BYTES,
    log_days: LogDays = LOG_DAYS,
    event_days: EventDays = None,
    state_days: StateDays = None,
) -> None:
    """Consume the event log into user states and Parquet; metrics are served at `port`."""
    servers = endpoints_of(endpoints, broker=broker, state=state)
    limits = StorageLimits(
        log=LogLimits(max_bytes=log_bytes, max_age_s=log_days * DAY_S),
        state_ttl_s=seconds(state_days),
        event_days=event_days,
    )
    run_consumer(layout_of(serve, live), servers, port=port, store_raw=users is UserIds.raw, limits=limits)
