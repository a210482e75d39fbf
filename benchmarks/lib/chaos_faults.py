"""Faults of a running stack for benchmarks/claims/serving/chaos.py; each is a context manager that undoes what it did."""

import contextlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx
import polars as pl

from benchmarks.lib.serving_stack import RunningStack
from recsys.bundle import Bundle, write_bundle
from recsys.errors import ServingError
from recsys.export.releases import served_release
from serving.layout import DeploymentLayout
from serving.processes import command_line, group, until

Fault = Callable[[RunningStack], AbstractContextManager[None]]
STUB = "triton_python_backend_stub"
SLOW_S, AWAKE_S = 0.045, 0.005
CLOSE_S, STEPPED_S = 10.0, 5.0


def kill(name: str) -> Fault:
    """kill -9 of a service; what the stack does about it is what is measured."""

    @contextmanager
    def fault(stack: RunningStack) -> Iterator[None]:
        os.kill(stack.pids[name], signal.SIGKILL)
        yield

    return fault


def halt(name: str) -> Fault:
    """SIGSTOP, and SIGCONT at the end: the process is there and says nothing."""

    @contextmanager
    def fault(stack: RunningStack) -> Iterator[None]:
        pids = group(stack.pids[name])
        _signal(pids, signal.SIGSTOP)
        try:
            yield
        finally:
            _signal(pids, signal.SIGCONT)

    return fault


@contextmanager
def kill_a_stub(stack: RunningStack) -> Iterator[None]:
    """kill -9 of the process that ranks; Triton says that all is well."""
    os.kill(stub_of(stack, "rank"), signal.SIGKILL)
    yield


@contextmanager
def slow_ranker(stack: RunningStack) -> Iterator[None]:
    """The ranking process gets a tenth of its time."""
    pid, ended = stub_of(stack, "rank"), threading.Event()

    def stutter() -> None:
        while not ended.is_set():
            _signal([pid], signal.SIGSTOP)
            ended.wait(SLOW_S)
            _signal([pid], signal.SIGCONT)
            ended.wait(AWAKE_S)

    thread = threading.Thread(target=stutter)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        _signal([pid], signal.SIGCONT)


@contextmanager
def corrupt_bundle(stack: RunningStack) -> Iterator[None]:
    """A byte of the ranker's graph changes, then the process that would have to load it again dies."""
    graph = stack.place.bundle / "ranker.onnx"
    whole = graph.read_bytes()
    draft = graph.with_suffix(".draft")
    draft.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    draft.replace(graph)
    try:
        os.kill(stub_of(stack, "rank"), signal.SIGKILL)
        yield
    finally:
        draft.write_bytes(whole)
        draft.replace(graph)


@contextmanager
def full_spool(stack: RunningStack) -> Iterator[None]:
    """The broker is silent and the disk that would take its place has no room: events must be refused, not lost."""
    filling = stack.place.spool / "filling"
    with halt("broker")(stack):
        with filling.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(1 << 12))
        try:
            yield
        finally:
            filling.unlink()


@contextmanager
def full_disk(stack: RunningStack) -> Iterator[None]:
    """No byte is left for log, states and Parquet: events are refused, and everything goes on when there is room."""
    filling = stack.place.live / "filling"
    with filling.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass
    try:
        yield
    finally:
        filling.unlink()


@contextmanager
def lost_stores(stack: RunningStack) -> Iterator[None]:
    """Published rules and changed items are gone, and the models that read them start again."""
    with aside(stack.place.rules), aside(stack.place.items):
        os.kill(stack.pids["triton"], signal.SIGKILL)
        yield


@contextmanager
def aside(folder: Path) -> Iterator[None]:
    """Move a folder away and put it back."""
    hidden = folder.with_name(f"{folder.name}.aside")
    existed = folder.exists()
    if existed:
        folder.rename(hidden)
    try:
        yield
    finally:
        if existed:
            shutil.rmtree(folder, ignore_errors=True)
            hidden.rename(folder)


def other_release(release: Path) -> Fault:
    """Another release is published over the served folder, and one stage starts again."""

    @contextmanager
    def fault(stack: RunningStack) -> Iterator[None]:
        served = served_release(stack.place.serve)
        link(stack.place.serve, release)
        try:
            os.kill(stub_of(stack, "rank"), signal.SIGKILL)
            yield
        finally:
            link(stack.place.serve, served)

    return fault


def link(serve: Path, release: Path) -> None:
    """Let `current` name a release."""
    draft = serve / "back"
    draft.symlink_to(os.path.relpath(release, serve))
    draft.replace(serve / "current")


def reversed_bundle(layout: DeploymentLayout, path: Path) -> Path:
    """Write the served bundle with its items in another order: every row number stands for another item."""
    if path.exists():
        return path
    served = Bundle.open(layout.bundle)
    path.parent.mkdir(exist_ok=True)
    with write_bundle(path, served.spec_fingerprint) as draft:
        shutil.copytree(served.path, draft.path, dirs_exist_ok=True)
        (draft.path / "manifest.json").unlink()
        pl.read_ipc(served.file("items.arrow")).reverse().write_ipc(draft.path / "items.arrow")
    return path


def kill_supervisor(stack: RunningStack) -> AbstractContextManager[None]:
    """kill -9 of the supervisor: nothing is started again any more, and what runs goes on."""
    os.kill(stack.supervisor, signal.SIGKILL)
    return contextlib.nullcontext()


def step_clock(seconds: int) -> Fault:
    """The wall clock jumps, and jumps back at the end."""

    @contextmanager
    def fault(stack: RunningStack) -> Iterator[None]:
        assert stack.clock is not None
        stack.clock.step(seconds)
        try:
            if not until(lambda: abs(_date(stack) - time.time() - seconds) < CLOSE_S, STEPPED_S):
                raise ServingError("the gateway's Date did not step with its wall clock")
            yield
        finally:
            stack.clock.step(0)

    return fault


def _date(stack: RunningStack) -> float:
    """What the gateway takes for now, unix seconds."""
    return parsedate_to_datetime(httpx.get(f"http://{stack.address}/healthz").headers["date"]).timestamp()


@contextmanager
def nothing(stack: RunningStack) -> Iterator[None]:
    """For what the load alone does."""
    yield


def stub_of(stack: RunningStack, model: str) -> int:
    """Process id of the stub that runs a model."""
    for pid in group(stack.pids["triton"]):
        words = command_line(pid)
        if len(words) > 1 and words[0].endswith(STUB) and Path(words[1]).parts[-3] == model:
            return pid
    raise ServingError(f"no stub runs the model {model!r}; is the stack up?")


def _signal(pids: list[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
