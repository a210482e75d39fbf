"""Commands of a whole stack on one machine."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from recsys.encryption import EncryptionKey
from serving.cli.options import (
    LAME_DUCK_S,
    LOG_DAYS,
    Budget,
    EventDays,
    Host,
    JwtFile,
    LameDuck,
    Liked,
    Live,
    LogDays,
    MetricsHost,
    MetricsPort,
    PersonalData,
    Serve,
    StateDays,
    TrustedProxy,
    UserNames,
    layout_of,
    listening_at,
    settings_of,
)
from serving.cli.signals import Signals
from serving.cli.users import seed_states
from serving.gateway.jwt_settings import JwtSettings
from serving.gateway.personal_data import PersonalDataMode
from serving.layout import DeploymentLayout
from serving.ops.bootstrap import (
    bootstrap_key,
    example_user,
    next_command,
    old_export_warning,
    unlimited_key_warning,
)
from serving.ops.demo import demo as run_demo
from serving.ops.kernels import KernelPart, compile_kernels
from serving.ops.mending import follow_backend, mend_keys, mend_states
from serving.ops.reencryption import reencrypt as change_key
from serving.ops.running import end_leftovers
from serving.ops.shutdown import stop_stack
from serving.ops.stack import Stack, StackLog, StateBackend, UserIds
from serving.ops.status import stack_status
from serving.ops.supervisor import Guard, RestartPolicy
from serving.processes import HOST
from serving.triton.server import TritonServer

console = Console()


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
    drift_minutes: Annotated[
        float, typer.Option(min=0, help="minutes between two counts of drift; 0 counts none")
    ] = 10.0,
) -> None:
    """Run everything on this machine until Ctrl-C or `down`: broker, state store, Triton, consumer, gateway.

    Processes that a killed supervisor left behind are ended first.
    """
    signals, layout = Signals(), layout_of(serve, live)
    listening = listening_at(host, port, metrics_host, metrics_port, trusted_proxy)
    layout.check()
    settings_of(budget, liked, lame_duck, personal_data)  # refused here, before anything ends or starts, as are tokens
    if jwt is not None:
        JwtSettings.from_file(jwt)
    if layout.live.is_dir():
        layout.check_encryption()
    layout.make_live()
    if ended := end_leftovers(layout):
        console.print(f"{ended} processes of a stack without a supervisor were ended")
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
        drift_period_s=60 * drift_minutes or None,
    )
    _run_stack(stack, layout, signals, state=state, users=users)


def status(serve: Serve, live: Live = None) -> None:
    """Print what of a stack runs, what is at fault and the free space; exit code 0 when all is well, 1 for a fault, 3 when
    nothing runs.
    """
    found = stack_status(layout_of(serve, live))
    table = Table.grid(padding=(0, 2))
    for name, text in found.lines:
        table.add_row(name, Text(text, overflow="fold"))
    console.print(table)
    raise typer.Exit(found.health)


def down(serve: Serve, live: Live = None) -> None:
    """Stop a stack, also one whose supervisor was killed; requests in flight are answered."""
    console.print(stop_stack(layout_of(serve, live)), soft_wrap=True)


def reencrypt(
    serve: Serve,
    live: Live = None,
    old_key: Annotated[Path | None, typer.Option(help="file of the key that the data has; else it has none")] = None,
) -> None:
    """Encrypt the data of a stopped stack by the key of --encryption-key, for the first time or after another key.

    User states are made anew by the next start.
    """
    layout = layout_of(serve, live)
    change_key(layout, None if old_key is None else EncryptionKey.read(old_key), console.print)
    console.print(f"next     python -m serving --encryption-key ... up {serve}", style="bold", soft_wrap=True)


def compile_(
    serve: Serve, part: Annotated[KernelPart | None, typer.Option(help="a part alone; else all of them")] = None
) -> None:
    """Compile the kernels of an export into the cache of this installation, for an image for example; `up` does it too."""
    for one in (part,) if part is not None else KernelPart:
        compile_kernels(layout_of(serve, None), one)


def demo(run: Annotated[Path, typer.Option(help="directory of the run, made anew")] = Path("runs/demo")) -> None:
    """Train, export, serve and query on MovieLens 100K: about six minutes on two cores."""
    run_demo(run)


def triton(
    models: Annotated[Path, typer.Argument(help="model repository that export.py wrote")],
    sockets: Annotated[Path | None, typer.Option(help="folder for its Unix sockets; else a new one")] = None,
) -> None:
    """Run Triton alone until Ctrl-C; failing models are reloaded, an ended server is restarted."""
    signals = Signals()
    with TritonServer(models, sockets=sockets) as server:
        console.print(f"grpc     {server.grpc_url}", soft_wrap=True)
        console.print(f"log      {server.log}", soft_wrap=True)
        console.print("next     serving.triton.client.Client(grpc).recommend([Query(...)]); Ctrl-C stops", style="bold")
        signals.listen()
        Guard(server, console.print, policy=RestartPolicy()).run(signals.stop_requested)


def _run_stack(
    stack: Stack, layout: DeploymentLayout, signals: Signals, *, state: StateBackend, users: UserIds
) -> None:
    """Run the stack until it is told to stop; damaged files are mended before, and users of the training data seeded."""
    layout.make_live()
    log = StackLog(layout.log, console)
    mend_keys(layout, log)
    bootstrap_key(layout)
    follow_backend(layout, state, log)

    def seed_users(report: Callable[[str], None]) -> None:
        if state is StateBackend.sqlite:
            mend_states(layout, report)
        done = None if layout.rebuild.exists() else seed_states(layout, stack.endpoints.state, users, again=False)
        report(done or "the users of the training data are known already")

    with stack.running(layout, log, seed=seed_users):
        signals.listen()
        _print_addresses(stack, layout)
        signals.stop_requested.wait()
        console.print("stopping")


def _print_addresses(stack: Stack, layout: DeploymentLayout) -> None:
    """Print where everything listens, and the next command to type."""
    for name, address in stack.addresses.items():
        console.print(f"{name:<15}{address}")
    console.print(f"{'log':<15}{layout.log}")
    for warning in filter(None, (unlimited_key_warning(layout), old_export_warning(layout))):
        console.print(f"{'warning':<15}{warning}", style="yellow", soft_wrap=True)
    console.print(next_command(layout, stack.addresses["gateway"], example_user(layout)), style="bold", soft_wrap=True)


def _days(option: str, days: float | None) -> list[str]:
    return [] if days is None else [f"--{option}={days}"]
