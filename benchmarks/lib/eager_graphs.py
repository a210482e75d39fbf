"""Runs of this process that export no graphs, draw no pictures and resample little: nine tenths of a tiny training."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import ClassVar
from unittest.mock import patch

import numpy as np
import torch
from torch import nn

from recsys.evaluation import intervals, report
from recsys.graphs import export
from recsys.stages import load
from recsys.tensors import Arrays, TensorSpec


class EagerModel:
    """What OnnxModel is of a graph, of a module that was registered under the text in its file."""

    modules: ClassVar[dict[str, tuple[nn.Module, tuple[str, ...]]]] = {}

    def __init__(self, path: Path, inputs: Sequence[TensorSpec]) -> None:
        self.module, self.outputs = self.modules[path.read_text(encoding="utf-8")]
        given = {tensor.name for tensor in inputs}
        self.names = frozenset(name for name in self.module.names if name in given)  # type: ignore[union-attr]

    def __call__(self, arrays: Arrays) -> np.ndarray:
        return self.named(arrays)[self.outputs[0]]

    @torch.no_grad()
    def named(self, arrays: Arrays) -> Arrays:
        found = self.module(*(torch.from_numpy(np.ascontiguousarray(arrays[name])) for name in self.module.names))  # type: ignore[union-attr]
        parts = found if isinstance(found, tuple) else (found,)
        return dict(zip(self.outputs, (one.numpy() for one in parts), strict=True))


def register(
    module: nn.Module, call: export.Call, inputs: Sequence[TensorSpec], outputs: tuple[str, ...], path: Path
) -> None:
    """Stands for export._export."""
    named = export._PositionalInputs(module.cpu().float().eval(), call, [tensor.name for tensor in inputs]).eval()
    key = f"{path.name} {len(EagerModel.modules)}"
    EagerModel.modules[key] = named, outputs
    path.write_text(key, encoding="utf-8")


@contextmanager
def eager_graphs() -> Iterator[None]:
    """Inside, bundles are written and read with modules in place of graphs, and pictures are empty files."""
    with ExitStack() as stack:
        stack.enter_context(patch.object(export, "_export", register))
        stack.enter_context(patch.object(load, "OnnxModel", EagerModel))
        for name in ("draw", "draw_reliability"):
            stack.enter_context(patch.object(report, name, lambda path, *_: path.touch()))
        stack.enter_context(patch.object(intervals.bootstrap_interval, "__defaults__", (None, 20)))
        yield
    EagerModel.modules.clear()
