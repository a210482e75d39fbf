"""Exchange between the processes of a shared fit within a step; alone, each function gives back what it gets.

Every process calls the same functions in the same order, or all of them wait for good.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_sharing: list[bool] = []


@contextmanager
def shared_fit() -> Iterator[None]:
    """Share the fit within the context with the other processes of the group."""
    _sharing.append(True)
    try:
        yield
    finally:
        _sharing.pop()


def num_processes() -> int:
    """Return by how many processes the fit that runs is shared; 1 without one."""
    return dist.get_world_size() if _sharing else 1


def process_number() -> int:
    """Return the number of this process in the fit that runs, from 0."""
    return dist.get_rank() if _sharing else 0


def from_first(drawn: Tensor) -> Tensor:
    """Return what the first process drew."""
    if _sharing:
        dist.broadcast(drawn, src=0)
    return drawn


def gathered(own: Tensor) -> Tensor:
    """Numbers of this process [n] -> those of all, one process after the other."""
    if not _sharing:
        return own
    sizes = [torch.empty(1, dtype=torch.int64, device=own.device) for _ in range(num_processes())]
    dist.all_gather(sizes, torch.tensor([len(own)], device=own.device))
    nums = [int(one) for one in sizes]
    padded = torch.cat([own, own.new_zeros(max(nums) - len(own))])
    parts = [torch.empty_like(padded) for _ in nums]
    dist.all_gather(parts, padded)
    return torch.cat([part[:num] for part, num in zip(parts, nums, strict=True)])


def averaged(own: Tensor) -> Tensor:
    """Mean over the processes, without a gradient.

    The denominator of a loss is averaged: the mean of the gradients is then that of the whole batch.
    """
    if not _sharing:
        return own
    mean = own.detach().clone()
    dist.all_reduce(mean)
    return mean / num_processes()


def from_all(value: Any) -> list[Any]:
    """Return the values of all processes, by number."""
    values = [value] * num_processes()
    if _sharing:
        dist.all_gather_object(values, value)
    return values
