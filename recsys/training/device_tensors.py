"""Training arrays as tensors on the device of a task."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from recsys.tensors import part_name


class DeviceTensors(nn.Module):
    """Named arrays as non-persistent buffers: moved with the task to its device, left out of checkpoints."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        super().__init__()
        for name, array in arrays.items():
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(array)), persistent=False)

    def __getitem__(self, name: str) -> Tensor:
        return self.get_buffer(name)

    def rows(self, rows: Tensor | slice) -> dict[str, Tensor]:
        """{name: tensor[rows]} of all arrays."""
        return {name: tensor[rows] for name, tensor in self.named_buffers()}

    def join(self, prefix: str, rows: Tensor | slice) -> dict[str, Tensor]:
        """Rows of all arrays, the parts of an encoded table, under the names of `recsys.tensors.part_name`."""
        return {part_name(prefix, part): tensor for part, tensor in self.rows(rows).items()}
