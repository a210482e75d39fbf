"""All serving processes on one machine: broker, state store, Triton, consumer and gateway, each under a guard."""

import contextlib
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
from recsys.export.releases import hold_release
from serving.disk import DiskSizes
from serving.endpoints import Endpoints, Server, write_endpoints
from serving.events.folder_lock import lock_folder
from serving.events.nats_server import NatsServer
from serving.gateway.fallback_tiers import FULL, LIGHT
from serving.gateway.http_server import Listening
from serving.layout import DeploymentLayout
from serving.ops.drift_watch import DriftWatch
from serving.ops.kernels import compiling
from serving.ops.log_rotation import rotate_until
from serving.ops.managed_process import ManagedProcess
from serving.ops.running import GATEWAY_METRICS, RunningFile, ServiceReport, mark_children
from serving.ops.supervisor import Guard, RestartPolicy, Service
from serving.private_folder import socket_folder
from serving.processes import HOST, choose_ports
from serving.state.valkey_server import ValkeyServer, valkey_address
from serving.triton.server import TritonServer
from serving.triton.wheel import grpc_address

START_S = 180.0
DRAIN_S = 20.0
LISTENING = ("gateway", "gateway_metrics", "broker", "consumer")


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
    sizes: DiskSizes
    drift_period_s: float | None
    """seconds between two counts of drift; None counts none"""

    @staticmethod
    def plan(
        layout: DeploymentLayout,
        *,
        listening: Listening,
        state: StateBackend,
        users: UserIds,
        gateway_options: Sequence[str],
        log_options: Sequence[str],
        consumer_options: Sequence[str],
        drift_period_s: float | None = None,
    ) -> "Stack":
        """Everything but the gateway listens on a free port of the loopback interface.

        gateway_options, consumer_options, log_options: further options of the gateway, of the consumer and of both.
        ServingError without an exported bundle, for a port in use or a disk without room.
        """
        layout.check()
        sizes = DiskSizes.fitting(layout)
        chosen = {"gateway": listening.port, "gateway_metrics": listening.metrics_port}
        hosts = {"gateway": listening.host, "gateway_metrics": listening.metrics_host}
        ports = choose_ports({**dict.fromkeys(LISTENING, 0), **chosen}, hosts)
        sockets = socket_folder()
        broker = NatsServer(layout.broker, port=ports["broker"], log=layout.log, max_bytes=sizes.log)
        valkey = ValkeyServer(layout.valkey, sockets=sockets, log=layout.log)
        redis = state is StateBackend.redis
        endpoints = Endpoints(
            broker=broker.server,
            state=valkey_address(sockets) if redis else Server(url=layout.sqlite),
            triton=Server(url=grpc_address(sockets)),
        )
        addresses = {
            "gateway": _url(listening.host, ports["gateway"]),
            GATEWAY_METRICS: _url(listening.metrics_host, ports["gateway_metrics"]) + "/metrics",
            "triton": endpoints.triton.url,
            "consumer": f"http://{HOST}:{ports['consumer']}/metrics",
            "broker": endpoints.broker.url,
            "state": endpoints.state.url,
        }
        # not at the port of callers: a flood of theirs must not look like a process that hangs
        health = _url(listening.metrics_host, ports["gateway_metrics"]) + "/healthz"
        shared = [f"--users={users}", f"--log-bytes={sizes.log}", *log_options]
        gateway_options = [f"--spool-bytes={sizes.spool}", *gateway_options, *_listening_options(listening, ports)]
        return Stack(
            stores=(broker, valkey) if redis else (broker,),
            processes=tuple(_processes(layout, ports, sockets, shared, gateway_options, consumer_options, health)),
            addresses=addresses,
            endpoints=endpoints,
            sockets=sockets,
            sizes=sizes,
            drift_period_s=drift_period_s,
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

        guards = [
            Guard(one, lambda sentence: report_and_record(sentence), policy=RestartPolicy()) for one in self.services
        ]
        running = RunningFile(layout.running, self.addresses)

        def report_and_record(sentence: str) -> None:
            report(sentence)
            running.write(dict(_reports(guards)))

        with contextlib.ExitStack() as started:
            started.callback(os.close, lock_folder(layout.live))
            hold_release(layout.release)
            mark_children(layout.live)
            started.callback(layout.running.unlink, missing_ok=True)
            started.callback(shutil.rmtree, self.sockets, ignore_errors=True)
            started.callback(layout.endpoints.unlink, missing_ok=True)
            write_endpoints(layout.endpoints, self.endpoints)
            wait_for_kernels = started.enter_context(compiling(layout, report_and_record))
            _start(self.stores, started, report_and_record)
            seed(report_and_record)
            *others, gateway = self.processes
            _start(others, started, report_and_record)
            wait_for_kernels()
            _start([gateway], started, report_and_record)
            report_and_record("everything runs")
            housekeeping = {"log rotation": lambda stopped: rotate_until(stopped, layout.log, self.sizes.output)}
            if self.drift_period_s is not None:
                housekeeping["drift"] = DriftWatch(layout, self.drift_period_s, report).run
            started.enter_context(_guarded(guards, housekeeping))
            yield


def _reports(guards: Sequence[Guard]) -> Iterator[tuple[str, ServiceReport]]:
    """Services with a process."""
    for guard in guards:
        with contextlib.suppress(ServingError):
            report = ServiceReport(pid=guard.service.pid, fault=guard.fault, restarts=guard.num_restarts)
            yield guard.service.name, report


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
    shared_options: Sequence[str],
    gateway_options: Sequence[str],
    consumer_options: Sequence[str],
    health: str,
) -> Iterator[Service]:
    yield TritonServer(
        layout.models, sockets=sockets, log=layout.log, start_timeout_s=START_S, probed_models=(FULL, LIGHT)
    )
    shared = [str(layout.release), f"--live={layout.live}", f"--endpoints={layout.endpoints}", *shared_options]
    consumer = ["consume", *shared, *consumer_options, f"--port={ports['consumer']}"]
    yield _managed(layout, "consumer", consumer, f"http://{HOST}:{ports['consumer']}/metrics")
    yield _managed(layout, "gateway", ["gateway", *shared, *gateway_options], health)


def _listening_options(listening: Listening, ports: Mapping[str, int]) -> list[str]:
    return [
        f"--host={listening.host}",
        f"--port={ports['gateway']}",
        f"--metrics-host={listening.metrics_host}",
        f"--metrics-port={ports['gateway_metrics']}",
        *(f"--trusted-proxy={one}" for one in listening.trusted_proxies),
    ]


def _url(host: str, port: int) -> str:
    """URL under which this machine reaches a server that listens on `host`."""
    reached = {"0.0.0.0": HOST, "::": "::1", "": HOST}.get(host, host)  # nosec B104: nothing is bound here
    return f"http://[{reached}]:{port}" if ":" in reached else f"http://{reached}:{port}"


def _managed(layout: DeploymentLayout, name: str, arguments: Sequence[str], health: str) -> ManagedProcess:
    return ManagedProcess(
        name,
        arguments,
        health=health,
        log=layout.log,
        start_timeout_s=START_S,
        exit_timeout_s=DRAIN_S,
    )


@contextmanager
def _guarded(guards: Sequence[Guard], housekeeping: Mapping[str, Callable[[threading.Event], None]]) -> Iterator[None]:
    """One thread a guard and a task by its name; all are joined on exit, so that no service is restarted during shutdown."""
    ended = threading.Event()
    threads = [threading.Thread(target=guard.run, args=(ended,), name=guard.service.name) for guard in guards]
    threads += [threading.Thread(target=task, args=(ended,), name=name) for name, task in housekeeping.items()]
    try:
        for thread in threads:
            thread.start()
        yield
    finally:
        ended.set()
        for thread in threads:
            if thread.ident is not None:  # a signal may come before the last one is started
                thread.join()
