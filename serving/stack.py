"""All that serves, on one machine: a broker, a state store, Triton, the consumer and the gateway, each under a guard."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from serving.child import Child
from serving.events.broker import Broker
from serving.gateway.rungs import FULL, LIGHT
from serving.place import Place
from serving.processes import HOST, choose_ports
from serving.server import TritonServer
from serving.state.server import ValkeyServer
from serving.supervisor import Guard, Patience, Service

State = Literal["sqlite", "redis"]
Users = Literal["raw", "hashed"]
START_S = 180.0
DRAIN_S = 20.0
PORTS = ("gateway", "triton_http", "triton_grpc", "triton_metrics", "broker", "state", "consumer")


@dataclass(frozen=True, kw_only=True)
class Stack:
    """What runs, first that which the others need."""

    services: tuple[Service, ...]
    addresses: Mapping[str, str]
    """who listens where"""

    @staticmethod
    def plan(place: Place, *, port: int, state: State, users: Users) -> "Stack":
        """Everything but the gateway listens on a free port of the loopback interface.

        ServingError where nothing was exported or the port is taken.
        """
        place.check()
        ports = choose_ports({**dict.fromkeys(PORTS, 0), "gateway": port})
        urls = {
            "broker": f"nats://{HOST}:{ports['broker']}",
            "state": f"redis://{HOST}:{ports['state']}" if state == "redis" else f"sqlite:///{place.states}",
        }
        addresses = {
            "gateway": f"http://{HOST}:{ports['gateway']}",
            "triton": f"{HOST}:{ports['triton_grpc']}",
            "triton metrics": f"http://{HOST}:{ports['triton_metrics']}/metrics",
            "consumer": f"http://{HOST}:{ports['consumer']}/metrics",
            **urls,
        }
        return Stack(services=tuple(_services(place, ports, urls, state, users)), addresses=addresses)

    @contextmanager
    def running(self, say: Callable[[str], None]) -> Iterator[tuple[Guard, ...]]:
        """Start everything in order and look after it; at the end stop it, last first."""
        with contextlib.ExitStack() as started:
            for service in self.services:
                say(f"{service.name} starts")
                started.callback(service.stop)
                service.start()
            guards = tuple(Guard(service, say, patience=Patience()) for service in self.services)
            started.enter_context(_guarded(guards))
            yield guards


def _services(
    place: Place, ports: Mapping[str, int], urls: Mapping[str, str], state: State, users: Users
) -> Iterator[Service]:
    yield Broker(place.broker, port=ports["broker"], log=place.log)
    if state == "redis":
        yield ValkeyServer(place.valkey, port=ports["state"], log=place.log)
    yield TritonServer(
        place.models,
        http_port=ports["triton_http"],
        grpc_port=ports["triton_grpc"],
        metrics_port=ports["triton_metrics"],
        log=place.log,
        start_timeout_s=START_S,
        asked=(FULL, LIGHT),
    )
    place_of = [str(place.serve), f"--live={place.live}"]
    shared = [*place_of, f"--broker={urls['broker']}", f"--state={urls['state']}"]
    yield _child("consumer", place, ["consume", *shared], ports["consumer"], "/metrics")
    asked = [f"--triton={HOST}:{ports['triton_grpc']}", f"--port={ports['gateway']}", f"--users={users}"]
    yield _child("gateway", place, ["gateway", *shared, *asked], ports["gateway"], "/healthz")


def _child(name: str, place: Place, arguments: Sequence[str], port: int, path: str) -> Child:
    if name == "consumer":
        arguments = [*arguments, f"--port={port}"]
    return Child(
        name,
        arguments,
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


def write_running(place: Place, stack: Stack) -> None:
    """Who runs under which process id and where they listen, for whoever is on call."""
    document = {"addresses": dict(stack.addresses), "pids": {one.name: one.pid for one in stack.services}}
    place.running.write_text(json.dumps(document, indent=1), encoding="utf-8")
