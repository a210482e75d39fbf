"""Parallel map over batches in threads."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from recsys.progress import Progress, silent, tracked

Batch = TypeVar("Batch")
Answer = TypeVar("Answer")


def map_in_threads(
    answer: Callable[[Batch], Answer], batches: Sequence[Batch], progress: Progress = silent, what: str = ""
) -> list[Answer]:
    """[answer(batch) for batch in batches], on as many threads as torch has; torch then uses one in each.

    numpy, torch and ONNX Runtime release the GIL, so only their part of the work runs in parallel.
    """
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(tracked(pool.map(answer, batches), len(batches), progress, what))
    finally:
        torch.set_num_threads(threads)
