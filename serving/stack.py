"""All serving processes on one machine: broker, state store, Triton, consumer and gateway, each under a guard."""

import contextlib
import json
import os
import shutil
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
from serving.endpoints import Endpoints, Server, write_endpoints
from serving.events.folder_lock import lock_folder
from serving.events.nats_server import NatsServer
from serving.gateway.fallback_tiers import FULL, LIGHT
from serving.layout import DeploymentLayout
from serving.managed_process import ManagedProcess
from serving.private_folder import socket_folder
from serving.processes import HOST, choose_ports
from serving.state.valkey_server import ValkeyServer, valkey_address
from serving.supervisor import Guard, RestartPolicy, Service
from serving.triton_server import TritonServer
from serving.triton_wheel import grpc_address

START_S = 180.0
DRAIN_S = 20.0
LISTENING = ("gateway", "broker", "consumer")


class StateBackend(StrEnum):
    """Store of the user states: an SQLite file, or a valkey-server that the stack starts."""

    sqlite = "sqlite"
    redis = "redis"


class UserIds(StrEnum):
    """User ids in event log, state and Triton: as received, or keyed hashes."""

    raw = "raw"
    hashed = "hashed"


class StackLog:
    """Writes a sentence to the console and the stack log; an unwritable one is ignored, so that no guard fails on logging."""

    def __init__(self, path: Path, console: Console) -> None:
        self._path, self._console = path, console

    def __call__(self, sentence: str) -> None:
        with contextlib.suppress(OSError):
            self._console.print(f"[dim]{time.strftime('%H:%M:%S')}[/]  {escape(sentence)}", soft_wrap=True)
        with contextlib.suppress(OSError), self._path.open("a", encoding="utf-8") as log:
            log.write(f"supervisor: {sentence}\n")


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Services in start order, dependencies first."""

    stores: tuple[Service, ...]
    processes: tuple[Service, ...]
    addresses: Mapping[str, str]
    """name -> address"""
    endpoints: Endpoints
    """with their secrets"""
    sockets: Path
    """folder of the Unix sockets of Triton and Valkey, made with the first of them"""

    @staticmethod
    def plan(
        layout: DeploymentLayout, *, port: int, state: StateBackend, users: UserIds, gateway_options: Sequence[str]
    ) -> "Stack":
        """Everything but the gateway listens on a free port of the loopback interface.

        ServingError without an exported bundle or for a port in use.
        """
        layout.check()
        ports = choose_ports({**dict.fromkeys(LISTENING, 0), "gateway": port})
        sockets, broker = socket_folder(), NatsServer(layout.broker, port=ports["broker"], log=layout.log)
        valkey = ValkeyServer(layout.valkey, sockets=sockets, log=layout.log)
        redis = state is StateBackend.redis
        endpoints = Endpoints(
            broker=broker.server,
            state=valkey_address(sockets) if redis else Server(url=layout.sqlite),
            triton=Server(url=grpc_address(sockets)),
        )
        addresses = {
            "gateway": f"http://{HOST}:{ports['gateway']}",
            "triton": endpoints.triton.url,
            "consumer": f"http://{HOST}:{ports['consumer']}/metrics",
            "broker": endpoints.broker.url,
            "state": endpoints.state.url,
        }
        return Stack(
            stores=(broker, valkey) if redis else (broker,),
            processes=tuple(_processes(layout, ports, sockets, [f"--users={users}"], gateway_options)),
            addresses=addresses,
            endpoints=endpoints,
            sockets=sockets,
        )

    @property
    def services(self) -> tuple[Service, ...]:
        return (*self.stores, *self.processes)

    @contextmanager
    def running(
        self, layout: DeploymentLayout, report: Callable[[str], None], *, seed: Callable[[Callable[[str], None]], None]
    ) -> Iterator[None]:
        """Start all services in order and guard them; on exit stop them in reverse order.

        seed: fills the state store, called when the stores run and before the gateway starts. ServingError when another
        stack runs in this layout.
        """

        def report_and_record(sentence: str) -> None:
            report(sentence)
            with contextlib.suppress(OSError):
                self._write(layout.running)

        with contextlib.ExitStack() as started:
            started.callback(os.close, lock_folder(layout.live))
            started.callback(layout.running.unlink, missing_ok=True)
            started.callback(shutil.rmtree, self.sockets, ignore_errors=True)
            started.callback(layout.endpoints.unlink, missing_ok=True)
            write_endpoints(layout.endpoints, self.endpoints)
            _start(self.stores, started, report_and_record)
            seed(report_and_record)
            _start(self.processes, started, report_and_record)
            report_and_record("everything runs")
            started.enter_context(
                _guarded([Guard(one, report_and_record, policy=RestartPolicy()) for one in self.services])
            )
            yield

    def _write(self, file: Path) -> None:
        """Write process ids and addresses for operators; replaced atomically."""
        document = {"addresses": dict(self.addresses), "pids": dict(self._pids())}
        draft = file.with_suffix(f".{threading.get_ident()}")
        draft.write_text(json.dumps(document, indent=1), encoding="utf-8")
        draft.replace(file)

    def _pids(self) -> Iterator[tuple[str, int]]:
        for service in self.services:
            with contextlib.suppress(ServingError):
                yield service.name, service.pid


def _start(
    services: Sequence[Service], started: contextlib.ExitStack, report_and_record: Callable[[str], None]
) -> None:
    for service in services:
        report_and_record(f"{service.name} starts")
        started.callback(service.stop)
        service.start()


def _processes(
    layout: DeploymentLayout,
    ports: Mapping[str, int],
    sockets: Path,
    users: Sequence[str],
    gateway_options: Sequence[str],
) -> Iterator[Service]:
    yield TritonServer(
        layout.models, sockets=sockets, log=layout.log, start_timeout_s=START_S, probed_models=(FULL, LIGHT)
    )
    shared = [str(layout.serve), f"--live={layout.live}", f"--endpoints={layout.endpoints}", *users]
    yield _managed(layout, "consumer", ["consume", *shared], ports["consumer"], "/metrics")
    yield _managed(layout, "gateway", ["gateway", *shared, *gateway_options], ports["gateway"], "/healthz")


def _managed(layout: DeploymentLayout, name: str, arguments: Sequence[str], port: int, path: str) -> ManagedProcess:
    return ManagedProcess(
        name,
        [*arguments, f"--port={port}"],
        health=f"http://{HOST}:{port}{path}",
        log=layout.log,
        start_timeout_s=START_S,
        exit_timeout_s=DRAIN_S,
    )


@contextmanager
def _guarded(guards: Sequence[Guard]) -> Iterator[None]:
    """One thread a guard; all are joined on exit, so that no service is restarted during shutdown."""
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
