"""Batches that are answered side by side."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Batch = TypeVar("Batch")
Answer = TypeVar("Answer")


def in_threads(answer: Callable[[Batch], Answer], batches: Sequence[Batch]) -> list[Answer]:
    """[answer(batch) for batch in batches], on as many threads as torch has, which has one in each of them meanwhile.

    What numpy, torch and ONNX Runtime compute runs side by side, what Python does takes turns.
    """
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(answer, batches))
    finally:
        torch.set_num_threads(threads)
