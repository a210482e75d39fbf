"""Export of modules to ONNX graphs, with the calibration inside; a graph is checked against its module before it is kept.

Shapes: B batch, C candidates.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxscript.optimizer
import torch
from torch import nn

from recsys.contracts import DEVIATIONS, PROBABILITIES
from recsys.errors import BundleError
from recsys.features.batches import ItemBatch, RequestBatch
from recsys.features.spec import FeatureSpec
from recsys.graphs.cache import graph_key, read_graph, weight_tables, with_weights, without_weights, write_graph
from recsys.ranking.calibration import Calibrator
from recsys.ranking.impression import impression_batch
from recsys.ranking.model import RankerModel, logits_and_request
from recsys.ranking.trees import TreeEnsemble
from recsys.ranking.uncertainty import LastLayerPosterior, certainty
from recsys.retrieval.two_tower import TowerEnsemble
from recsys.stages import OnnxModel
from recsys.tensors import TensorSpec

OPSET = 20
TOLERANCE = 1e-5
CHECKED_SIZES = ((1, 1), (1, 1_000), (7, 33), (64, 2))
"""requests and candidates of each comparison of a graph with its module"""


Call = Callable[[dict[str, torch.Tensor]], torch.Tensor | tuple[torch.Tensor, ...]]


class _PositionalInputs(nn.Module):
    """Module that takes the values of a dictionary as positional inputs, in a fixed order, as the exporter needs them."""

    def __init__(self, module: nn.Module, call: Call, names: Sequence[str]):
        super().__init__()
        self.module = module
        self.call = call
        self.names = tuple(names)

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        return self.call(dict(zip(self.names, tensors, strict=True)))


def export_user_tower(towers: TowerEnsemble, spec: FeatureSpec, path: Path) -> None:
    """Export the user tower: request tensors -> USER_VECTOR [B, D]."""
    _export(towers, towers.users, RequestBatch.specs(spec.sizes), ("user_vectors",), path)


def export_item_tower(towers: TowerEnsemble, spec: FeatureSpec, path: Path) -> None:
    """Export the item tower: features of items -> EMBEDDINGS [R, D]."""
    _export(towers, towers.items, ItemBatch.specs(spec.sizes), ("embeddings",), path)


def export_ranker(
    ranker: RankerModel,
    calibrator: Calibrator,
    posterior: LastLayerPosterior | None,
    inputs: Sequence[TensorSpec],
    path: Path,
) -> None:
    """Export the ranker: request and candidate tensors -> probabilities, with a posterior also deviations [B, C, T]."""
    if posterior is None:
        modules = nn.ModuleList([ranker, calibrator])

        def probabilities(batch: dict[str, torch.Tensor]) -> torch.Tensor:
            return calibrator(*logits_and_request(ranker, calibrator.parents, batch))

        _export(modules, probabilities, inputs, (PROBABILITIES,), path)
        return
    modules, outputs = nn.ModuleList([ranker, calibrator, posterior]), (PROBABILITIES, DEVIATIONS)
    _export(modules, lambda batch: certainty(ranker, calibrator, posterior, batch), inputs, outputs, path)


def export_impression_ranker(ranker: RankerModel, calibrator: Calibrator, spec: FeatureSpec, path: Path) -> None:
    """Export a ranker of impressions, each the one candidate of a request: item tensors [R, ...] -> probabilities [R, T]."""
    modules = nn.ModuleList([ranker, calibrator])

    def probabilities(impressions: dict[str, torch.Tensor]) -> torch.Tensor:
        batch = impression_batch(spec, impressions)
        return calibrator(*logits_and_request(ranker, calibrator.parents, batch)).squeeze(1)

    _export(modules, probabilities, ItemBatch.specs(spec.sizes), (PROBABILITIES,), path)


def _export(
    module: nn.Module,
    call: Call,
    inputs: Sequence[TensorSpec],
    outputs: tuple[str, ...],
    path: Path,
) -> None:
    """Write the graph of a module; the structure comes from the cache where that gives the same values."""
    named = _PositionalInputs(module.cpu().float().eval(), call, [tensor.name for tensor in inputs]).eval()
    weights = {name: one.detach().numpy() for name, one in named.state_dict().items()}
    if any(isinstance(part, TreeEnsemble) for part in named.modules()):  # whose graph is that of one training
        _write(_optimized(_trace(named, inputs, outputs)), named, inputs, path)
        return
    key = graph_key(named, inputs, outputs)
    if (graph := read_graph(key)) is not None:
        try:
            _write(with_weights(graph, weights), named, inputs, path)
            return
        except BundleError:
            pass  # the graph depends on something that the key does not hold: it is traced again
    graph = _optimized(without_weights(_trace(named, inputs, outputs), weight_tables(named)))
    _write(with_weights(graph, weights), named, inputs, path)
    write_graph(key, graph)


def _write(graph: onnx.ModelProto, named: nn.Module, inputs: Sequence[TensorSpec], path: Path) -> None:
    onnx.save(graph, path)
    check_against_eager(named, inputs, path)


def _optimized(graph: onnx.ModelProto) -> onnx.ModelProto:
    with _silenced():
        return onnxscript.optimizer.optimize(graph)


def _trace(named: "_PositionalInputs", inputs: Sequence[TensorSpec], outputs: tuple[str, ...]) -> onnx.ModelProto:
    """Return the graph as it was traced; its initialisers have the names of the module's weights."""
    batch, candidates = torch.export.Dim("batch"), torch.export.Dim("candidates")
    shapes = tuple(
        {0: batch, **{axis + 1: candidates for axis, size in enumerate(tensor.shape) if size == -1}}
        for tensor in inputs
    )
    example = tuple(torch.from_numpy(array) for array in random_inputs(inputs, 3, 5, _num_ids(named)).values())
    with _silenced(), torch.no_grad():
        program = torch.onnx.export(
            named,
            example,
            input_names=[tensor.name for tensor in inputs],
            output_names=list(outputs),
            dynamic_shapes=(shapes,),
            opset_version=OPSET,
            dynamo=True,
            optimize=False,  # folding would make one initialiser of several weights; _optimized sees none of them
            verbose=False,
        )
    assert program is not None
    return program.model_proto


@torch.no_grad()
def check_against_eager(named: nn.Module, inputs: Sequence[TensorSpec], path: Path) -> None:
    """Raise BundleError unless graph and module agree to TOLERANCE for several batch sizes and candidate counts.

    The tolerance is absolute for values up to 1 and relative beyond.
    """
    graph = OnnxModel(path, inputs)
    for batch, candidates in CHECKED_SIZES:
        arrays = random_inputs(inputs, batch, candidates, _num_ids(named))
        eager = named(*(torch.from_numpy(array) for array in arrays.values()))
        expected = [one.numpy() for one in (eager if isinstance(eager, tuple) else (eager,))]
        difference = max(map(_difference, graph.named(arrays).values(), expected))
        if not difference <= TOLERANCE:
            raise BundleError(
                f"{path.name} differs from its module by {difference:.2g} for batch {batch} with {candidates} candidates, "
                f"at most {TOLERANCE:g} is allowed; report this with the versions of torch and onnxruntime"
            )


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    return float((np.abs(found - expected) / np.maximum(np.abs(expected), 1)).max())


def _num_ids(module: nn.Module) -> int:
    """Number of ids that every embedding table of the module has."""
    return min((one.num_embeddings for one in module.modules() if isinstance(one, nn.Embedding)), default=2)


def random_inputs(inputs: Sequence[TensorSpec], batch: int, candidates: int, num_ids: int = 2) -> dict[str, np.ndarray]:
    """Random arrays of the types and shapes of `inputs`: ids below num_ids, gaps from a second to years, histories half
    full and that of the last of several requests empty.
    """
    generator = np.random.default_rng(batch * 1_000 + candidates)
    arrays: dict[str, np.ndarray] = {}
    for tensor in inputs:
        shape = (batch, *(candidates if size == -1 else size for size in tensor.shape))
        if tensor.dtype == "int64":
            arrays[tensor.name] = generator.integers(0, num_ids, shape)
        else:
            arrays[tensor.name] = generator.normal(size=shape).astype(np.float32)
    if "history_ids" in arrays:
        length = arrays["history_ids"].shape[1]
        arrays["history_ids"][:, length // 2 :, 0] = np.maximum(arrays["history_ids"][:, length // 2 :, 0], 1)
        arrays["history_ids"][:, : length // 2] = 0
        arrays["history_ids"][1:][-1:] = 0
    if "history_gaps" in arrays:
        arrays["history_gaps"] = generator.uniform(0, 18, arrays["history_gaps"].shape).astype(np.float32)
    return arrays


@contextlib.contextmanager
def _silenced():
    """Silence the exporter, which writes to both streams, to the log and to warnings."""
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
