"""Index that a process searches by: as it was trained, exact on the CPU, or exact on a device."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from recsys.errors import ConfigError
from recsys.index.exact import ExactIndex
from recsys.index.faiss_index import FaissIndex
from recsys.index.guarded_device import GuardedDeviceIndex

IndexKind = Literal["faiss", "exact", "device", "auto"]
DRIVER = Path("/proc/driver/nvidia/version")
"""there where a CUDA device may be; looked at before torch is imported, which takes seconds"""
DEVICE = re.compile(r"cpu|cuda(:\d+)?")
DEVICE_ITEMS = 50_000
"""items of a catalogue, at least, that `auto` searches on a device: a smaller one is searched as fast on the CPU"""


@dataclass(frozen=True, kw_only=True)
class IndexChoice:
    """Kind of the index. ConfigError for an unknown one."""

    kind: str = "faiss"
    """faiss: as trained; exact: 8-bit scan with float32 scores, on the CPU; device: exact on `device`, with the trained index
    where that is lost; auto: on the device for a large catalogue where there is one, else as trained
    """
    device: str = "cuda"
    """of torch"""

    def __post_init__(self) -> None:
        if self.kind not in get_args(IndexKind):
            raise ConfigError(f"index is {self.kind!r}; choose one of {', '.join(get_args(IndexKind))}")
        if not DEVICE.fullmatch(self.device):
            raise ConfigError(f"device is {self.device!r}; write cuda, cuda:1 or cpu")

    def of(self, trained: FaissIndex) -> FaissIndex | ExactIndex | GuardedDeviceIndex:
        """Return the index that searches the rows of a trained one."""
        kind = self.kind
        if kind == "auto":
            kind = "device" if len(trained) >= DEVICE_ITEMS and DRIVER.exists() else "faiss"
        if kind == "device":
            return GuardedDeviceIndex(trained, self.device)
        return trained.to_exact() if kind == "exact" else trained


AS_TRAINED = IndexChoice()
