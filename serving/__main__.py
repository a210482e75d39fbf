"""`python -m serving`: what serves an exported bundle on this machine."""

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, cast

import typer
from rich.console import Console

from recsys.errors import exit_on_error
from serving.first import curl, first_key, first_user
from serving.gateway.keys import Scope, create_key
from serving.gateway.settings import Settings
from serving.place import Place
from serving.rebuilding import ask_for_rebuild
from serving.server import TritonServer
from serving.stack import Log, Stack, State, Users
from serving.supervisor import Guard, Patience
from serving.wiring import Neighbours, run_consumer, run_gateway, run_seed

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
console = Console()

Port = Annotated[int, typer.Option(help="0 takes a free one")]
Serve = Annotated[Path, typer.Argument(help="folder that export.py wrote")]
Live = Annotated[Path | None, typer.Option(help="folder for what is written while serving; else `live` beside it")]
BrokerUrl = Annotated[str, typer.Option(help="nats://host:port or kafka://host:port")]
StateUrl = Annotated[str, typer.Option(help="sqlite:///path or redis://host:port")]
Budget = Annotated[float, typer.Option(help="ms in which a slate is answered, from the whole cascade or from less")]
Liked = Annotated[list[str] | None, typer.Option(help="objective that a liked item reaches beside the target")]
UserNames = Annotated[Users, typer.Option(help="how users are called behind the door: as they come, or hashed")]


@app.callback()
def serving() -> None:
    """Serve an exported bundle on the loopback interface."""


@app.command()
def up(
    serve: Serve,
    live: Live = None,
    port: Annotated[int, typer.Option(help="of the gateway; 0 takes a free one")] = 8080,
    state: Annotated[State, typer.Option(help="where users' states are kept")] = State.sqlite,
    users: UserNames = Users.raw,
    budget: Budget = 100.0,
    liked: Liked = None,
) -> None:
    """Everything on this machine until Ctrl-C: broker, state store, Triton, consumer, gateway."""
    signals, place = Signals(), _place(serve, live)
    stack = Stack.plan(
        place,
        port=port,
        state=state,
        users=users,
        more=[f"--budget={budget}", *(f"--liked={objective}" for objective in liked or ())],
    )
    place.make_live()
    first_key(place)

    def seed_states(say: Callable[[str], None]) -> None:
        done = None if place.rebuild.exists() else _seeded(place, stack.addresses["state"], users, again=False)
        say(done or "the users of the training data are known already")

    with stack.running(place, Log(place.log, console), fill=seed_states):
        signals.listen()
        for name, address in stack.addresses.items():
            console.print(f"{name:<15}{address}")
        console.print(f"{'log':<15}{place.log}")
        console.print(curl(place, stack.addresses["gateway"], first_user(place)), style="bold", soft_wrap=True)
        signals.told.wait()
        console.print("stopping")


@app.command()
def gateway(
    serve: Serve,
    broker: BrokerUrl,
    state: StateUrl,
    triton: Annotated[str, typer.Option(help="host:port of Triton's gRPC")],
    live: Live = None,
    port: Port = 8080,
    users: UserNames = Users.raw,
    budget: Budget = 100.0,
    liked: Liked = None,
) -> None:
    """The HTTP door alone, before a Triton, a broker and a state store that run already."""
    neighbours = Neighbours(broker=broker, state=state, triton=triton)
    run_gateway(
        _place(serve, live),
        neighbours,
        port=port,
        store_raw=users is Users.raw,
        settings=Settings.within(budget, liked=tuple(liked or ())),
        ready=lambda url: console.print(f"gateway  {url}"),
    )


@app.command()
def consume(
    serve: Serve, broker: BrokerUrl, state: StateUrl, live: Live = None, port: Port = 0, users: UserNames = Users.raw
) -> None:
    """Fold the event log into users' states and into Parquet; its metrics stand at `port`."""
    neighbours = Neighbours(broker=broker, state=state)
    run_consumer(_place(serve, live), neighbours, port=port, store_raw=users is Users.raw)


@app.command()
def seed(
    serve: Serve,
    live: Live = None,
    state: Annotated[
        str | None, typer.Option(help="sqlite:///path or redis://host:port; else the file of `live`")
    ] = None,
    users: UserNames = Users.raw,
) -> None:
    """Give the state store the histories, seen items and profiles of the training data; what it knows already stays.

    `up` does it by itself, once a bundle. Give the same --users and --live as to the gateway.
    """
    place = _place(serve, live)
    console.print(_seeded(place, state or place.sqlite, users, again=True), soft_wrap=True)
    console.print(f"next     python -m serving up {serve} --live={place.live}", style="bold", soft_wrap=True)


@app.command()
def rebuild(serve: Serve, live: Live = None) -> None:
    """Make users' states anew from the training data and the event log's Parquet: of a store that was lost or damaged, or
    for a bundle that remembers more.

    The consumer does it as it starts. Where a stack runs, its consumer is started again at once; until it is through, users
    of whom it has not read yet are met as strangers.
    """
    place = _place(serve, live)
    address = ask_for_rebuild(place)
    if address is None:
        console.print(f"next     start what serves {place.serve}: its consumer makes the states first")
    else:
        console.print(f"the consumer starts again; it is through when {place.rebuild} is gone", soft_wrap=True)
        console.print(f"next     curl -s {address} | grep recsys_consumer_waiting", style="bold", soft_wrap=True)


@app.command()
def key(
    name: Annotated[str, typer.Argument(help="who will use it")],
    keys: Annotated[Path, typer.Option(help="keys.json of a gateway; it reads it when it starts")],
    scope: Annotated[list[str], typer.Option(help="recommend, events or admin; may be given more than once")],
    rate: Annotated[float, typer.Option(help="requests a second in the long run")] = 100.0,
    burst: Annotated[int, typer.Option(help="requests at once after a rest")] = 200,
) -> None:
    """Make an API key; it is printed once and kept nowhere."""
    console.print(create_key(keys, name=name, scopes=cast(list[Scope], scope), rate=rate, burst=burst), soft_wrap=True)


@app.command()
def triton(
    models: Annotated[Path, typer.Argument(help="model repository that export.py wrote")],
    http: Port = 8000,
    grpc: Port = 8001,
    metrics: Port = 8002,
) -> None:
    """A Triton alone, until Ctrl-C; models that fail are healed, a server that is gone is started again."""
    stopped = Signals()
    with TritonServer(models, http_port=http, grpc_port=grpc, metrics_port=metrics) as server:
        addresses = {"grpc": server.grpc_url, "http": server.http_url, "metrics": server.metrics_url, "log": server.log}
        for name, address in addresses.items():
            console.print(f"{name:<9}{address}")
        console.print("ask      serving.client.Client(grpc).recommend([Query(...)]); Ctrl-C stops", style="bold")
        stopped.listen()
        Guard(server, console.print, patience=Patience()).run(stopped.told)


def _seeded(place: Place, state: str, users: Users, *, again: bool) -> str | None:
    """One line of what was done, None where nothing was."""
    done = run_seed(place, state, store_raw=users is Users.raw, again=again)
    if done is None:
        return None
    return f"{done.users:,} users of the training data are known to {state}, {done.seconds:.1f} s"


def _place(serve: Path, live: Path | None) -> Place:
    return Place(serve=serve.resolve(), live=(serve.parent / "live" if live is None else live).resolve())


class Signals:
    """Ctrl-C and its kin: an interruption while starting, so that nothing is left behind; later a request to end."""

    def __init__(self) -> None:
        self.told = threading.Event()
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler)

    def listen(self) -> None:
        """From now on a signal only sets `told`."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: self.told.set())


if __name__ == "__main__":
    with exit_on_error():
        app()
