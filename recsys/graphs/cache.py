"""Cache of exported graphs without their weights: a module is traced once, later trainings only fill in their weights.

Tracing and optimising take ten to thirty seconds a graph, longer than many trainings. In the cache weights are inputs of the
graph, so that the optimiser, which sees no value of them, can fold none into the structure. The key holds what the structure
depends on as far as it can be seen from outside; whoever fills a cached graph compares it with its module
(recsys/graphs/export.py).
"""

import contextlib
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import helper, numpy_helper
from torch import nn

from recsys.jit import remove_stale_caches
from recsys.stores.atomic_files import atomic_file
from recsys.tensors import TensorSpec

PACKAGE = Path(__file__).parents[1]
ROOMS = ("graphs", "nn", "ranking", "retrieval")
"""whose sources decide what a graph computes, beside those of the classes of its modules"""
LIBRARIES = ("torch", "onnx", "onnxscript")
CACHE_PREFIX = "graphs-"


def graph_key(module: nn.Module, inputs: Sequence[TensorSpec], outputs: Sequence[str]) -> str:
    """Return the digest of classes, plain attributes, shapes of the weights, inputs and outputs of a module.

    The rows of embedding tables are left out: a vocabulary grows from one training to the next, its graph stays.
    """
    weights, tables = module.state_dict(), weight_tables(module)
    structure = [
        *([name, repr(type(part)), _plain(vars(part), ("num_embeddings",))] for name, part in module.named_modules()),
        *([name, list(one.shape[tables[name] :]), str(one.dtype)] for name, one in weights.items()),
        *([one.name, list(one.shape), one.dtype] for one in inputs),
        *outputs,
    ]
    digest = hashlib.sha256(json.dumps(structure, sort_keys=True).encode())
    for file in sorted({file for part in module.modules() if (file := _source(type(part)))}):
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()[:32]


def weight_tables(module: nn.Module) -> dict[str, bool]:
    """Return the names of the weights of a module, and whether each is an embedding table."""
    tables = {name for name, part in module.named_modules() if isinstance(part, nn.Embedding)}
    return {name: name.rpartition(".")[0] in tables for name in module.state_dict()}


def read_graph(key: str) -> onnx.ModelProto | None:
    """Return the cached graph without weights, None where there is none."""
    try:
        graph = onnx.load(_folder() / f"{key}.onnx")
    except (OSError, DecodeError):
        return None
    return graph if graph.graph.node else None


def write_graph(key: str, graph: onnx.ModelProto) -> None:
    """Cache a graph without weights, where the process may write."""
    with contextlib.suppress(OSError), atomic_file(_folder() / f"{key}.onnx") as draft:
        draft.write_bytes(graph.SerializeToString())


def without_weights(graph: onnx.ModelProto, tables: Mapping[str, bool]) -> onnx.ModelProto:
    """Make inputs of the initialisers that are named as weights, in place.

    tables: name of a weight -> whether it is an embedding table, whose rows differ from one training to the next
    """
    for index, one in reversed(list(enumerate(graph.graph.initializer))):
        if one.name in tables:
            shape = ["rows", *one.dims[1:]] if tables[one.name] else one.dims
            graph.graph.input.append(helper.make_tensor_value_info(one.name, one.data_type, shape))
            del graph.graph.initializer[index]
    return graph


def with_weights(graph: onnx.ModelProto, weights: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """Return a copy whose inputs that are named as weights are initialisers; those that no node reads are left out."""
    filled = onnx.ModelProto()
    filled.CopyFrom(graph)
    read = set(_read_names(filled.graph))
    for one in [one for one in filled.graph.input if one.name in weights]:
        filled.graph.input.remove(one)
        if one.name in read:
            filled.graph.initializer.append(numpy_helper.from_array(weights[one.name], one.name))
    return filled


def _read_names(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield the names that nodes read, those of branches as well, and the names of the outputs."""
    yield from (one.name for one in graph.output)
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for branch in (attribute.g, *attribute.graphs):
                yield from _read_names(branch)


def _plain(values: Any, left_out: Sequence[str] = ()) -> Any:
    """Return numbers, text, and mappings and sequences of them; the name of its class for anything else."""
    if isinstance(values, Mapping):
        names = (name for name in values if not str(name).startswith("_") and name not in left_out)
        return {str(name): _plain(values[name]) for name in names}
    if isinstance(values, list | tuple):
        return [_plain(one) for one in values]
    return values if isinstance(values, bool | int | float | str | None) else type(values).__name__


def _source(kind: type) -> str | None:
    """Return the file that defines a class; None for those of torch, which its version stands for."""
    if kind.__module__.partition(".")[0] == "torch":
        return None
    return getattr(sys.modules.get(kind.__module__), "__file__", None)


@cache
def _folder() -> Path:
    """Return the folder of this version's graphs; those of others are removed."""
    digest = hashlib.sha256(" ".join(f"{name} {version(name)}" for name in LIBRARIES).encode())
    for file in (file for room in ROOMS for file in sorted((PACKAGE / room).glob("*.py"))):
        digest.update(file.read_bytes())
    folder = PACKAGE / "__pycache__" / f"{CACHE_PREFIX}{digest.hexdigest()[:16]}"
    remove_stale_caches(folder, CACHE_PREFIX)
    return folder
