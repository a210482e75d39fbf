"""Processes that train together: each of them runs the same fit on its part of every batch.

The first process does all other work. For a fit it writes the task and its settings into the folder of the fit, which the
others read. torchrun starts all of them, on one machine or several that share the run folder; else the first fit starts the
others on this machine.
"""

import atexit
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.plugins.environments import ClusterEnvironment
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.seed import isolate_rng

from recsys.errors import RecsysError
from recsys.training.trainer_options import check_accelerator

JOB_FILE = "job.pt"
"""task and settings of a fit, for the other processes, while it runs"""
BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
PATIENCE = timedelta(days=30)
"""of a process without a fit: between two of them the first one measures, searches and writes"""
END_S, POLL_S = 10.0, 0.1
READY = "ready"


def launched() -> bool:
    """Return whether torchrun started this process, which then has its number in the environment."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_first() -> bool:
    """Return whether this process is the first one, which does all but the fits alone."""
    return not launched() or os.environ["RANK"] == "0"


def processes_of(devices: int | Sequence[int]) -> int:
    """Return the number of processes of a fit: as many as torchrun started, else one a device."""
    if launched():
        return int(os.environ["WORLD_SIZE"])
    return devices if isinstance(devices, int) else len(devices)


def strategy(accelerator: str) -> dict[str, Any]:
    """Return the arguments of Lightning's Trainer for a fit by several processes.

    Buffers are the data of a task, the same everywhere. What a step does not use differs by encoder.
    """
    options: dict[str, Any] = {"broadcast_buffers": False, "find_unused_parameters": True}
    ddp = IndependentDraws(
        cluster_environment=StartedProcesses(), process_group_backend=BACKENDS[accelerator], **options
    )
    nodes = {}
    if launched():
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = {"devices": local, "num_nodes": int(os.environ["WORLD_SIZE"]) // local}
    return {"strategy": ddp, "use_distributed_sampler": False, **nodes}


class StartedProcesses(ClusterEnvironment):
    """Cluster of processes that Lightning did not start."""

    creates_processes_externally = True
    main_address, main_port = "", 0

    @staticmethod
    def detect() -> bool:
        return dist.is_initialized()

    def world_size(self) -> int:
        return dist.get_world_size()

    def global_rank(self) -> int:
        return dist.get_rank()

    def local_rank(self) -> int:
        return int(os.environ["LOCAL_RANK"]) if launched() else dist.get_rank()

    def node_rank(self) -> int:
        return int(os.environ["GROUP_RANK"]) if launched() else 0

    def set_world_size(self, size: int) -> None:
        """The size is that of the group."""

    def set_global_rank(self, rank: int) -> None:
        """The number is that in the group."""


class EndBySignal(Callback):
    """End a shared fit by SIGTERM; Lightning's own handler waits for the others in a collective that they do not enter."""

    def on_train_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, _interrupt if trainer.is_global_zero else signal.SIG_DFL)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


class IndependentDraws(DDPStrategy):
    """Data parallel training that leaves each process its random numbers, where Lightning gives all of them the same."""

    def setup_distributed(self) -> None:
        with isolate_rng():
            super().setup_distributed()


@dataclass
class Others:
    """The other processes, as the first one sees them."""

    control: dist.ProcessGroup
    """by which they wait for the next fit"""
    workers: list[BaseProcess] = field(default_factory=list)
    """those that this process started"""

    @contextmanager
    def take_part(self, fit: Callable[[], object], folder: Path) -> Iterator[None]:
        """Have the others run `fit` while this process runs its part within the context."""
        file = folder / JOB_FILE
        folder.mkdir(parents=True, exist_ok=True)
        threads = torch.get_num_threads()
        try:
            torch.save(fit, file)
            dist.broadcast_object_list([str(file.resolve())], src=0, group=self.control)
            torch.set_num_threads(max(1, threads // (len(self.workers) + 1)))
            yield
        except BaseException as error:
            ended = self._ended() if isinstance(error, RuntimeError) else ""
            self.abandon()
            if ended:
                raise RecsysError(f"a process of the fit in {folder} {ended}") from error
            raise
        finally:
            torch.set_num_threads(threads)
            file.unlink(missing_ok=True)

    def _ended(self) -> str:
        """Return how another process ended, after some seconds; "" where all of them run."""
        ended = wait([one.sentinel for one in self.workers], END_S)
        for one in self.workers:
            if one.sentinel in ended:
                one.join()
                killed = one.exitcode is not None and one.exitcode < 0
                return "was killed, perhaps for lack of memory" if killed else "ended; its message stands above"
        return ""

    def abandon(self) -> None:
        """End the others within a fit that failed here; torchrun ends those that it started.

        They may wait for this process in a collective, where no signal but SIGKILL reaches them.
        """
        _running.clear()
        for one in self.workers:
            one.kill()
            one.join()
        if self.workers:
            dist.destroy_process_group()

    def end(self) -> None:
        """End the others, who wait for a fit."""
        _running.clear()
        with suppress(RuntimeError):  # one of them is gone
            dist.broadcast_object_list([None], src=0, group=self.control)
        for one in self.workers:
            one.join(END_S)
        dist.destroy_process_group()


_running: list[Others] = []


def others(num: int, accelerator: str) -> Others:
    """Return the other processes of a fit by `num`; started by the first call."""
    for one in list(_running):
        if dist.get_world_size() == num:
            return one
        one.end()
    if launched():
        check_accelerator(accelerator)
        dist.init_process_group(BACKENDS[accelerator])
        found = Others(control=_control())
    else:
        store = dist.TCPStore("127.0.0.1", 0, num, is_master=True, wait_for_workers=False)
        threads = max(1, torch.get_num_threads() // num)
        context = get_context("spawn")
        workers: list[BaseProcess] = [
            context.Process(target=_work, args=(store.port, one, num, accelerator, threads), daemon=True)
            for one in range(1, num)
        ]
        for worker in workers:
            worker.start()
        _wait_until_ready(workers, store)
        dist.init_process_group(BACKENDS[accelerator], store=store, rank=0, world_size=num)
        found = Others(control=_control(), workers=workers)
    _running.append(found)
    atexit.register(_end)
    return found


def follow(accelerator: str) -> None:
    """Take part in the fits of the first process until it ends, in a process that torchrun started."""
    check_accelerator(accelerator)
    dist.init_process_group(BACKENDS[accelerator])
    _follow(_control())


def _wait_until_ready(workers: Sequence[BaseProcess], store: dist.TCPStore) -> None:
    """Wait until all can join; RecsysError for one that ended before."""
    ready = [f"{READY}{number}" for number in range(1, len(workers) + 1)]
    while not store.check(ready):
        if wait([one.sentinel for one in workers], POLL_S):
            for one in workers:
                one.kill()
            raise RecsysError(
                "a process of the fit did not start; its message stands above. "
                'A script that trains by several needs `if __name__ == "__main__":` around what it does'
            )


def _work(port: int, number: int, num: int, accelerator: str, threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the first process ends the others
    torch.set_num_threads(threads)
    store = dist.TCPStore("127.0.0.1", port, num, is_master=False)
    store.set(f"{READY}{number}", "")
    dist.init_process_group(BACKENDS[accelerator], store=store, rank=number, world_size=num)
    _follow(_control())


def _follow(control: dist.ProcessGroup) -> None:
    while True:
        received: list[Any] = [None]
        try:
            dist.broadcast_object_list(received, src=0, group=control)
        except RuntimeError:  # the first process is gone
            return
        if received[0] is None:
            dist.destroy_process_group()
            return
        try:
            torch.load(received[0], weights_only=False)()  # nosec B614: written by the first process a moment ago
        except RuntimeError:
            if (parent := parent_process()) is not None and not parent.is_alive():
                return
            raise


def _control() -> dist.ProcessGroup:
    return dist.new_group(backend="gloo", timeout=PATIENCE)


def _end() -> None:
    for one in list(_running):
        one.end()
