"""Parallel training of ensemble members in processes: their tensors are too small to keep a second core busy."""

import os
import signal
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from typing import TypeVar

import torch

Trained = TypeVar("Trained")


def train_members(
    train: Callable[[int], Trained], train_in_worker: Callable[[int], object], num: int, cores: int | None = None
) -> list[Trained]:
    """Return [train(0), ..., train(num - 1)]; while this process trains the first, workers run `train_in_worker` for others.

    `train_in_worker` must leave its result on disk, so that `train` reads it back, or resumes where a worker died. With
    one core, or for one member, there are no workers. cores: as many as this process may use, unless given.
    """
    cores = cores or len(os.sched_getaffinity(0))
    others = min(num, cores) - 1
    if others < 1:
        return [train(number) for number in range(num)]
    before = torch.get_num_threads()
    threads = max(1, min(before, cores // (others + 1)))
    shares = [range(1 + number, num, others) for number in range(others)]
    context = get_context("spawn")
    processes = [
        context.Process(target=_train_share, args=(train_in_worker, share, threads), daemon=True) for share in shares
    ]
    for process in processes:
        process.start()
    try:
        torch.set_num_threads(threads)
        first = train(0)
        for process in processes:
            process.join()
    finally:
        torch.set_num_threads(before)
        for process in processes:
            process.terminate()
    return [first, *(train(number) for number in range(1, num))]


def _train_share(train_in_worker: Callable[[int], object], numbers: Sequence[int], threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent terminates its workers
    torch.set_num_threads(threads)
    for number in numbers:
        train_in_worker(number)
