"""All serving processes on one machine: broker, state store, Triton, consumer and gateway, each under a guard."""

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
from serving.events.folder_lock import lock_folder
from serving.events.nats_server import NatsServer
from serving.gateway.fallback_tiers import FULL, LIGHT
from serving.layout import DeploymentLayout
from serving.managed_process import ManagedProcess
from serving.processes import HOST, choose_ports
from serving.state.valkey_server import ValkeyServer
from serving.supervisor import Guard, RestartPolicy, Service
from serving.triton_server import TritonServer

START_S = 180.0
DRAIN_S = 20.0
LISTENING = ("gateway", "triton_http", "triton_grpc", "triton_metrics", "broker", "state", "consumer")


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

    @staticmethod
    def plan(
        layout: DeploymentLayout, *, port: int, state: StateBackend, users: UserIds, gateway_options: Sequence[str]
    ) -> "Stack":
        """Everything but the gateway listens on a free port of the loopback interface.

        ServingError without an exported bundle or for a port in use.
        """
        layout.check()
        ports = choose_ports({**dict.fromkeys(LISTENING, 0), "gateway": port})
        stores = {
            "broker": f"nats://{HOST}:{ports['broker']}",
            "state": f"redis://{HOST}:{ports['state']}" if state is StateBackend.redis else layout.sqlite,
        }
        addresses = {
            "gateway": f"http://{HOST}:{ports['gateway']}",
            "triton": f"{HOST}:{ports['triton_grpc']}",
            "triton metrics": f"http://{HOST}:{ports['triton_metrics']}/metrics",
            "consumer": f"http://{HOST}:{ports['consumer']}/metrics",
            **stores,
        }
        processes = _processes(layout, ports, stores, [f"--users={users}"], gateway_options)
        return Stack(stores=tuple(_stores(layout, ports, state)), processes=tuple(processes), addresses=addresses)

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


def _stores(layout: DeploymentLayout, ports: Mapping[str, int], state: StateBackend) -> Iterator[Service]:
    yield NatsServer(layout.broker, port=ports["broker"], log=layout.log)
    if state is StateBackend.redis:
        yield ValkeyServer(layout.valkey, port=ports["state"], log=layout.log)


def _processes(
    layout: DeploymentLayout,
    ports: Mapping[str, int],
    stores: Mapping[str, str],
    users: Sequence[str],
    gateway_options: Sequence[str],
) -> Iterator[Service]:
    yield TritonServer(
        layout.models,
        http_port=ports["triton_http"],
        grpc_port=ports["triton_grpc"],
        metrics_port=ports["triton_metrics"],
        log=layout.log,
        start_timeout_s=START_S,
        probed_models=(FULL, LIGHT),
    )
    shared = [str(layout.serve), f"--live={layout.live}", f"--broker={stores['broker']}", f"--state={stores['state']}"]
    shared += users
    yield _managed(layout, "consumer", ["consume", *shared], ports["consumer"], "/metrics")
    arguments = ["gateway", *shared, f"--triton={HOST}:{ports['triton_grpc']}", *gateway_options]
    yield _managed(layout, "gateway", arguments, ports["gateway"], "/healthz")


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
