"""`python -m serving`: serve an exported bundle on this machine."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from recsys.data.ids import normalised_id
from recsys.errors import ConfigError, exit_on_error
from recsys.signatures import PUBLIC_KEY
from serving.bootstrap import bootstrap_key, example_user, next_command, unlimited_key_warning
from serving.demo import demo as run_demo
from serving.disk import DiskSizes
from serving.endpoints import Endpoints, Server, read_endpoints
from serving.events.log_factory import LogLimits
from serving.forgetting import forget as forget_users
from serving.gateway.http_server import Listening
from serving.gateway.jwt_settings import JwtSettings
from serving.gateway.key_file import create_key
from serving.gateway.personal_data import PersonalDataMode
from serving.gateway.settings import Settings
from serving.kernels import KernelPart, compile_kernels
from serving.key_commands import keys as keys_app
from serving.key_commands import split_scopes
from serving.layout import DeploymentLayout
from serving.mending import mend_keys, mend_states
from serving.processes import CLOSED_UMASK, HOST
from serving.rebuild import request_rebuild
from serving.running import end_leftovers
from serving.shutdown import stop_stack
from serving.stack import Stack, StackLog, StateBackend, UserIds
from serving.status import stack_status
from serving.supervisor import Guard, RestartPolicy
from serving.triton_server import TritonServer
from serving.wiring import StorageLimits, run_consumer, run_gateway, run_seed

DAY_S = 86_400.0
LOG_DAYS = LogLimits().max_age_s / DAY_S
LOG_BYTES, SPOOL_BYTES = LogLimits().max_bytes, DiskSizes().spool
LAME_DUCK_S = Settings().lame_duck_s

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(keys_app, name="keys")
console = Console()

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


@app.callback()
def serving(
    public_key: Annotated[
        Path | None, typer.Option(help="Ed25519 public key: bundles without a signature by it are refused")
    ] = None,
) -> None:
    """Serve an exported bundle on the loopback interface."""
    os.umask(CLOSED_UMASK)
    if public_key is not None:  # every process that this one starts inherits it, the stages of Triton too
        os.environ[PUBLIC_KEY] = str(public_key.resolve())


@app.command()
def up(
    serve: Serve,
    live: Live = None,
    port: Annotated[int, typer.Option(help="of the gateway; 0 takes a free one")] = 8080,
    host: Host = HOST,
    metrics_port: MetricsPort = 0,
    metrics_host: MetricsHost = HOST,
    trusted_proxy: TrustedProxy = None,
    state: Annotated[StateBackend, typer.Option(help="store of the user states")] = StateBackend.sqlite,
    users: UserNames = UserIds.raw,
    budget: Budget = 100.0,
    liked: Liked = None,
    lame_duck: LameDuck = LAME_DUCK_S,
    log_days: LogDays = LOG_DAYS,
    event_days: EventDays = None,
    state_days: StateDays = None,
    personal_data: PersonalData = PersonalDataMode.warn,
    jwt: JwtFile = None,
) -> None:
    """Run everything on this machine until Ctrl-C or `down`: broker, state store, Triton, consumer, gateway.

    Processes that a killed supervisor left behind are ended first.
    """
    signals, layout = Signals(), _layout(serve, live)
    listening = Listening(
        host=host,
        port=port,
        metrics_host=metrics_host,
        metrics_port=metrics_port,
        trusted_proxies=tuple(trusted_proxy or ()),
    )
    layout.check()
    if ended := end_leftovers(layout.live):
        console.print(f"{ended} processes of a stack without a supervisor were ended")
    if jwt is not None:
        JwtSettings.from_file(jwt)  # refused here, before anything starts
    stack = Stack.plan(
        layout,
        listening=listening,
        state=state,
        users=users,
        gateway_options=[
            f"--budget={budget}",
            f"--personal-data={personal_data}",
            f"--lame-duck={lame_duck}",
            *(f"--liked={objective}" for objective in liked or ()),
            *(() if jwt is None else (f"--jwt={jwt.resolve()}",)),
        ],
        log_options=[f"--log-days={log_days}", *_days("state-days", state_days)],
        consumer_options=_days("event-days", event_days),
    )
    _run_stack(stack, layout, signals, state=state, users=users)


@app.command()
def status(serve: Serve, live: Live = None) -> None:
    """Print what of a stack runs, what is at fault and the free space; exit code 0 when all is well, 1 for a fault, 3 when
    nothing runs.
    """
    found = stack_status(_layout(serve, live))
    table = Table.grid(padding=(0, 2))
    for name, text in found.lines:
        table.add_row(name, Text(text, overflow="fold"))
    console.print(table)
    raise typer.Exit(found.health)


@app.command()
def down(serve: Serve, live: Live = None) -> None:
    """Stop a stack, also one whose supervisor was killed; requests in flight are answered."""
    console.print(stop_stack(_layout(serve, live)), soft_wrap=True)


@app.command("compile")
def compile_(
    serve: Serve, part: Annotated[KernelPart | None, typer.Option(help="a part alone; else all of them")] = None
) -> None:
    """Compile the kernels of an export into the cache of this installation, for an image for example; `up` does it too."""
    for one in (part,) if part is not None else KernelPart:
        compile_kernels(_layout(serve, None), one)


@app.command()
def demo(run: Annotated[Path, typer.Option(help="directory of the run, made anew")] = Path("runs/demo")) -> None:
    """Train, export, serve and query on MovieLens 100K: about six minutes on two cores."""
    run_demo(run)


@app.command()
def gateway(
    serve: Serve,
    endpoints: EndpointsFile = None,
    broker: BrokerUrl = None,
    state: StateUrl = None,
    triton: Annotated[str | None, typer.Option(help="unix:path or host:port of Triton's gRPC")] = None,
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
        state_ttl_s=_seconds(state_days),
    )
    run_gateway(
        _layout(serve, live),
        _endpoints(endpoints, broker=broker, state=state, triton=triton),
        listening=Listening(
            host=host,
            port=port,
            metrics_host=metrics_host,
            metrics_port=metrics_port,
            trusted_proxies=tuple(trusted_proxy or ()),
        ),
        store_raw=users is UserIds.raw,
        settings=replace(
            Settings.within(budget, liked=tuple(liked or ())), lame_duck_s=lame_duck, personal_data=personal_data
        ),
        limits=limits,
        ready=lambda url, metrics: console.print(f"gateway  {url}\nmetrics  {metrics}"),
        jwt_file=jwt,
    )


@app.command()
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
    servers = _endpoints(endpoints, broker=broker, state=state)
    limits = StorageLimits(
        log=LogLimits(max_bytes=log_bytes, max_age_s=log_days * DAY_S),
        state_ttl_s=_seconds(state_days),
        event_days=event_days,
    )
    run_consumer(_layout(serve, live), servers, port=port, store_raw=users is UserIds.raw, limits=limits)


@app.command()
def seed(
    serve: Serve,
    live: Live = None,
    state: Annotated[
        str | None, typer.Option(help="sqlite:///path or redis://host:port; else the file of `live`")
    ] = None,
    users: UserNames = UserIds.raw,
) -> None:
    """Seed the state store with the histories, seen items and profiles of the training data; existing data stays.

    `up` does it by itself, once a bundle. Give the same --users and --live as to the gateway.
    """
    layout = _layout(serve, live)
    console.print(_seed_states(layout, Server(url=state or layout.sqlite), users, again=True), soft_wrap=True)
    console.print(f"next     python -m serving up {serve} --live={layout.live}", style="bold", soft_wrap=True)


@app.command()
def rebuild(serve: Serve, live: Live = None) -> None:
    """Rebuild the user states from the training data and the event log's Parquet: after the store was lost or damaged, or
    for a bundle with longer histories.

    The consumer does it as it starts. In a running stack the consumer is restarted at once; until it is done, users whose
    events are not replayed yet count as unknown.
    """
    layout = _layout(serve, live)
    address = request_rebuild(layout)
    if address is None:
        console.print(f"next     start what serves {layout.serve}: its consumer rebuilds the states first")
    else:
        console.print(f"the consumer restarts; the rebuild is done when {layout.rebuild} is gone", soft_wrap=True)
        console.print(f"next     curl -s {address} | grep recsys_consumer_waiting", style="bold", soft_wrap=True)


@app.command()
def forget(
    user: Annotated[str, typer.Argument(help="id of the user; - reads ids from the standard input, one a line")],
    serve: Serve,
    live: Live = None,
    endpoints: EndpointsFile = None,
    wait: Annotated[float, typer.Option(help="longest wait for running processes, in seconds")] = 600.0,
) -> None:
    """Forget users: states, event log, spool and Parquet lose them, replays, seeds and later trainings leave them out.

    While the stack runs, its own processes do it; otherwise the files are opened here, or the broker and state store of the
    file of endpoints. A user who comes back starts anew.
    """
    users = [line.strip() for line in sys.stdin if line.strip()] if user == "-" else [user]
    layout = _layout(serve, live)
    forget_users(
        layout,
        [normalised_id(one) for one in users],
        endpoints=None if endpoints is None else read_endpoints(endpoints),
        report=console.print,
        wait_s=wait,
    )
    console.print(
        f"forgotten: {len(users):,}; a bundle that was trained before is not altered, the next one is without",
        soft_wrap=True,
    )
    console.print("next     python train.py data=event_log ...", style="bold", soft_wrap=True)


@app.command(deprecated=True)
def key(
    name: Annotated[str, typer.Argument(help="name of the key's user")],
    keys: Annotated[Path, typer.Option(help="keys.json of a gateway")],
    scope: Annotated[list[str], typer.Option(help="recommend, events or admin; repeatable")],
    rate: Annotated[float, typer.Option(help="sustained requests a second")] = 100.0,
    burst: Annotated[int, typer.Option(help="burst of requests")] = 200,
) -> None:
    """Create an API key, as `keys create`: the earlier spelling, read for one release."""
    console.print(create_key(keys, name=name, scopes=split_scopes(scope), rate=rate, burst=burst), soft_wrap=True)


@app.command()
def triton(
    models: Annotated[Path, typer.Argument(help="model repository that export.py wrote")],
    sockets: Annotated[Path | None, typer.Option(help="folder for its Unix sockets; else a new one")] = None,
) -> None:
    """Run Triton alone until Ctrl-C; failing models are reloaded, an ended server is restarted."""
    signals = Signals()
    with TritonServer(models, sockets=sockets) as server:
        console.print(f"grpc     {server.grpc_url}", soft_wrap=True)
        console.print(f"log      {server.log}", soft_wrap=True)
        console.print("next     serving.client.Client(grpc).recommend([Query(...)]); Ctrl-C stops", style="bold")
        signals.listen()
        Guard(server, console.print, policy=RestartPolicy()).run(signals.stop_requested)


def _run_stack(
    stack: Stack, layout: DeploymentLayout, signals: "Signals", *, state: StateBackend, users: UserIds
) -> None:
    """Run the stack until it is told to stop; damaged files are mended before, and users of the training data seeded."""
    layout.make_live()
    log = StackLog(layout.log, console)
    mend_keys(layout, log)
    bootstrap_key(layout)

    def seed_states(report: Callable[[str], None]) -> None:
        if state is StateBackend.sqlite:
            mend_states(layout, report)
        done = None if layout.rebuild.exists() else _seed_states(layout, stack.endpoints.state, users, again=False)
        report(done or "the users of the training data are known already")

    with stack.running(layout, log, seed=seed_states):
        signals.listen()
        _print_addresses(stack, layout)
        signals.stop_requested.wait()
        console.print("stopping")


def _print_addresses(stack: Stack, layout: DeploymentLayout) -> None:
    """Print where everything listens, and the next command to type."""
    for name, address in stack.addresses.items():
        console.print(f"{name:<15}{address}")
    console.print(f"{'log':<15}{layout.log}")
    if warning := unlimited_key_warning(layout):
        console.print(f"{'warning':<15}{warning}", style="yellow", soft_wrap=True)
    console.print(next_command(layout, stack.addresses["gateway"], example_user(layout)), style="bold", soft_wrap=True)


def _endpoints(file: Path | None, **urls: str | None) -> Endpoints:
    """Endpoints of the file, or of URLs, which hold no secrets; ConfigError unless one of both is given."""
    given = {name: Server(url=url) for name, url in urls.items() if url is not None}
    if file is not None and not given:
        return read_endpoints(file)
    if file is not None or len(given) < len(urls):
        options = ", ".join(f"--{name}" for name in urls)
        raise ConfigError(f"the other servers are not known; give --endpoints, or {options}")
    return Endpoints(**given)


def _seed_states(layout: DeploymentLayout, state: Server, users: UserIds, *, again: bool) -> str | None:
    """Seed and return one line about the result, None if nothing was seeded."""
    done = run_seed(layout, state, store_raw=users is UserIds.raw, again=again)
    if done is None:
        return None
    return f"{done.users:,} users of the training data are known to {state.url}, {done.seconds:.1f} s"


def _days(option: str, days: float | None) -> list[str]:
    return [] if days is None else [f"--{option}={days}"]


def _seconds(days: float | None) -> float | None:
    return None if days is None else days * DAY_S


def _layout(serve: Path, live: Path | None) -> DeploymentLayout:
    return DeploymentLayout.of(serve, live)


class Signals:
    """Termination signals: KeyboardInterrupt during the start, so that nothing is left behind; later a stop request.

    Only the first one interrupts: a second one would interrupt the cleanup.
    """

    def __init__(self) -> None:
        self.stop_requested = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._interrupt)

    def _interrupt(self, *_: object) -> None:
        self.stop_requested.set()
        self.listen()
        raise KeyboardInterrupt

    def listen(self) -> None:
        """From now on a signal only sets `stop_requested`."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: self.stop_requested.set())


if __name__ == "__main__":
    with exit_on_error():
        app()
