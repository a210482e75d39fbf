"""Exported graphs by ONNX Runtime."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from recsys.errors import BundleError
from recsys.tensors import Arrays, TensorSpec


class OnnxModel:
    """An ONNX file as a function of named arrays; one thread, because the server runs many."""

    def __init__(self, path: Path, inputs: Sequence[TensorSpec]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        required = {one.name for one in self.session.get_inputs()}
        if missing := sorted(required - {tensor.name for tensor in inputs}):
            raise BundleError(
                f"{path} reads the tensor {missing[0]!r}, which the feature spec does not give; retrain it"
            )
        _check_widths(path, {one.name: one.shape for one in self.session.get_inputs()}, inputs)
        self.names = frozenset(required)
        self.outputs = tuple(one.name for one in self.session.get_outputs())

    def __call__(self, arrays: Arrays) -> np.ndarray:
        """The first output."""
        return self.named(arrays)[self.outputs[0]]

    def named(self, arrays: Arrays) -> Arrays:
        """All outputs."""
        found = self.session.run(self.outputs, {name: arrays[name] for name in self.names})
        return dict(zip(self.outputs, found, strict=True))


def _check_widths(path: Path, shapes: Mapping[str, Sequence[Any]], inputs: Sequence[TensorSpec]) -> None:
    """BundleError for a graph that reads more or fewer features than its stage gives; names stand for any size."""
    for tensor in inputs:
        width, given = shapes.get(tensor.name, tensor.shape)[-1], tensor.shape[-1]
        if isinstance(width, int) and given != -1 and width != given:
            raise BundleError(
                f"{path} reads {width} features of {tensor.name!r}, this version gives {given}; train the bundle again"
            )
