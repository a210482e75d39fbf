"""The ranker's graph for the onnxruntime backend, which runs no Python that could compare releases.

A batch of another release is passed on as NO_RELEASE, which the next stage refuses.
"""

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from recsys.stages import NO_RELEASE, RANKED_RELEASE, RELEASE, release_number

OWN, OTHER, SAME = "release_own", "release_other", "release_same"
INT64 = TensorProto.INT64


def write_ranker_graph(source: Path, path: Path, fingerprint: str) -> None:
    """Write the graph of a bundle's ranker with RELEASE as one more input and RANKED_RELEASE as one more output."""
    model = onnx.load(source)
    numbers = {OWN: release_number(fingerprint), OTHER: NO_RELEASE}
    model.graph.initializer.extend(helper.make_tensor(name, INT64, [1, 1], [one]) for name, one in numbers.items())
    model.graph.node.append(helper.make_node("Equal", [RELEASE.name, OWN], [SAME]))
    model.graph.node.append(helper.make_node("Where", [SAME, OWN, OTHER], [RANKED_RELEASE.name]))
    model.graph.input.append(helper.make_tensor_value_info(RELEASE.name, INT64, ["batch", 1]))
    model.graph.output.append(helper.make_tensor_value_info(RANKED_RELEASE.name, INT64, ["batch", 1]))
    onnx.save(model, path)
