"""All that serves, on one machine: a broker, a state store, Triton, the consumer and the gateway, each under a guard."""

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from recsys.errors import ServingError
from serving.child import Child
from serving.events.broker import Broker
from serving.events.lock import hold
from serving.gateway.rungs import FULL, LIGHT
from serving.place import Place
from serving.processes import HOST, choose_ports
from serving.server import TritonServer
from serving.state.server import ValkeyServer
from serving.supervisor import Guard, Patience, Service

START_S = 180.0
DRAIN_S = 20.0
LISTENING = ("gateway", "triton_http", "triton_grpc", "triton_metrics", "broker", "state", "consumer")


class State(StrEnum):
    """Where users' states are kept: in a file, or in a valkey-server that is started too."""

    sqlite = "sqlite"
    redis = "redis"


class Users(StrEnum):
    """What event log, state and Triton call a user: the id that came, or its keyed hash."""

    raw = "raw"
    hashed = "hashed"


class Log:
    """Says a sentence on the console and in the log of the stack, as far as they take it: nobody fails for want of a word."""

    def __init__(self, path: Path, console: Console) -> None:
        self._path, self._console = path, console

    def __call__(self, sentence: str) -> None:
        with contextlib.suppress(OSError):
            self._console.print(f"[dim]{time.strftime('%H:%M:%S')}[/]  {escape(sentence)}", soft_wrap=True)
        with contextlib.suppress(OSError), self._path.open("a", encoding="utf-8") as log:
            log.write(f"supervisor: {sentence}\n")


@dataclass(frozen=True, kw_only=True)
class Stack:
    """What runs, first that which the others need."""

    stores: tuple[Service, ...]
    ours: tuple[Service, ...]
    addresses: Mapping[str, str]
    """who listens where"""

    @staticmethod
    def plan(place: Place, *, port: int, state: State, users: Users, more: Sequence[str]) -> "Stack":
        """Everything but the gateway listens on a free port of the loopback interface. more: options of the gateway.

        ServingError where nothing was exported or the port is taken.
        """
        place.check()
        ports = choose_ports({**dict.fromkeys(LISTENING, 0), "gateway": port})
        stores = {
            "broker": f"nats://{HOST}:{ports['broker']}",
            "state": f"redis://{HOST}:{ports['state']}" if state is State.redis else place.sqlite,
        }
        addresses = {
            "gateway": f"http://{HOST}:{ports['gateway']}",
            "triton": f"{HOST}:{ports['triton_grpc']}",
            "triton metrics": f"http://{HOST}:{ports['triton_metrics']}/metrics",
            "consumer": f"http://{HOST}:{ports['consumer']}/metrics",
            **stores,
        }
        ours = _ours(place, ports, stores, [f"--users={users}"], more)
        return Stack(stores=tuple(_stores(place, ports, state)), ours=tuple(ours), addresses=addresses)

    @property
    def services(self) -> tuple[Service, ...]:
        return (*self.stores, *self.ours)

    @contextmanager
    def running(
        self, place: Place, say: Callable[[str], None], *, fill: Callable[[Callable[[str], None]], None]
    ) -> Iterator[None]:
        """Start everything in order and look after it; at the end stop it, last first.

        fill: gives the state store what it lacks, when the stores run and nobody asks yet.

        ServingError when another stack has this place.
        """

        def tell(sentence: str) -> None:
            say(sentence)
            with contextlib.suppress(OSError):
                self._write(place.running)

        with contextlib.ExitStack() as started:
            started.callback(os.close, hold(place.live))
            started.callback(place.running.unlink, missing_ok=True)
            _start(self.stores, started, tell)
            fill(tell)
            _start(self.ours, started, tell)
            tell("everything runs")
            started.enter_context(_guarded([Guard(one, tell, patience=Patience()) for one in self.services]))
            yield

    def _write(self, file: Path) -> None:
        """Which process ids run and where they listen, for whoever is on call; whole at every moment."""
        document = {"addresses": dict(self.addresses), "pids": dict(self._pids())}
        draft = file.with_suffix(f".{threading.get_ident()}")
        draft.write_text(json.dumps(document, indent=1), encoding="utf-8")
        draft.replace(file)

    def _pids(self) -> Iterator[tuple[str, int]]:
        for service in self.services:
            with contextlib.suppress(ServingError):
                yield service.name, service.pid


def _start(services: Sequence[Service], started: contextlib.ExitStack, tell: Callable[[str], None]) -> None:
    for service in services:
        tell(f"{service.name} starts")
        started.callback(service.stop)
        service.start()


def _stores(place: Place, ports: Mapping[str, int], state: State) -> Iterator[Service]:
    yield Broker(place.broker, port=ports["broker"], log=place.log)
    if state is State.redis:
        yield ValkeyServer(place.valkey, port=ports["state"], log=place.log)


def _ours(
    place: Place, ports: Mapping[str, int], stores: Mapping[str, str], users: Sequence[str], more: Sequence[str]
) -> Iterator[Service]:
    yield TritonServer(
        place.models,
        http_port=ports["triton_http"],
        grpc_port=ports["triton_grpc"],
        metrics_port=ports["triton_metrics"],
        log=place.log,
        start_timeout_s=START_S,
        asked=(FULL, LIGHT),
    )
    shared = [str(place.serve), f"--live={place.live}", f"--broker={stores['broker']}", f"--state={stores['state']}"]
    shared += users
    yield _child(place, "consumer", ["consume", *shared], ports["consumer"], "/metrics")
    asked = ["gateway", *shared, f"--triton={HOST}:{ports['triton_grpc']}", *more]
    yield _child(place, "gateway", asked, ports["gateway"], "/healthz")


def _child(place: Place, name: str, arguments: Sequence[str], port: int, path: str) -> Child:
    return Child(
        name,
        [*arguments, f"--port={port}"],
        health=f"http://{HOST}:{port}{path}",
        log=place.log,
        start_timeout_s=START_S,
        exit_timeout_s=DRAIN_S,
    )


@contextmanager
def _guarded(guards: Sequence[Guard]) -> Iterator[None]:
    """A thread each; all have ended when this ends, so that nothing is started again while everything is stopped."""
    ended = threading.Event()
    threads = [threading.Thread(target=guard.run, args=(ended,), name=guard.service.name) for guard in guards]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()
