"""Parallel map over batches in threads."""

import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from recsys.progress import Progress, silent, tracked

Batch = TypeVar("Batch")
Answer = TypeVar("Answer")


def map_in_threads(
    answer: Callable[[Batch], Answer], batches: Sequence[Batch], progress: Progress = silent, what: str = ""
) -> list[Answer]:
    """[answer(batch) for batch in batches], on as many threads as torch has; torch then uses one in each.

    numpy, torch and ONNX Runtime release the GIL, so only their part of the work runs in parallel. Where nothing has imported
    torch, as in a process that reads bundles alone, there is a thread for each core.
    """
    if (torch := sys.modules.get("torch")) is None:
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            return list(tracked(pool.map(answer, batches), len(batches), progress, what))
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(tracked(pool.map(answer, batches), len(batches), progress, what))
    finally:
        torch.set_num_threads(threads)
