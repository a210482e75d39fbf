"""Members of an ensemble, trained side by side: tensors as small as theirs leave a second core idle, other members do not."""

import os
import signal
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from typing import TypeVar

import torch

Trained = TypeVar("Trained")


def side_by_side(
    train: Callable[[int], Trained], quietly: Callable[[int], object], num: int, cores: int | None = None
) -> list[Trained]:
    """[train(0), ..., train(num - 1)], the first while other processes go through `quietly` for the others.

    Whatever `quietly` does must be left on disk, so that `train` reads it back, or goes on where a process died. With
    one core, or for one member, everything happens here. cores: as many as this process may use, unless given.
    """
    cores = cores or len(os.sched_getaffinity(0))
    others = min(num, cores) - 1
    if others < 1:
        return [train(number) for number in range(num)]
    before = torch.get_num_threads()
    threads = max(1, min(before, cores // (others + 1)))
    shares = [range(1 + place, num, others) for place in range(others)]
    context = get_context("spawn")
    processes = [context.Process(target=_train, args=(quietly, share, threads), daemon=True) for share in shares]
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


def _train(quietly: Callable[[int], object], numbers: Sequence[int], threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who is interrupted is the process that waits, and it ends this one
    torch.set_num_threads(threads)
    for number in numbers:
        quietly(number)
