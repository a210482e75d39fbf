"""Triton model configurations, generated from the declarations of the stages.

Two profiles share all names and shapes, so clients and ensembles do not change: `cpu` runs every stage in the python
backend, `gpu` hands the ranker to the onnxruntime backend on a GPU with dynamic batching.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from recsys.index import AS_TRAINED, IndexChoice
from recsys.tensors import TensorSpec

Profile = Literal["cpu", "gpu"]
PROFILES: tuple[Profile, ...] = ("cpu", "gpu")
MAX_BATCH_SIZE = 32
DTYPES = {"int64": "TYPE_INT64", "float32": "TYPE_FP32", "bytes": "TYPE_STRING"}


class DeclaredStage(Protocol):
    """Stage attributes that a configuration is generated from."""

    @property
    def name(self) -> str: ...
    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def optional_inputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...


@dataclass(frozen=True, slots=True)
class Symbol:
    """Unquoted word in a configuration, such as an enum value."""

    name: str


INDEX_PARAMETERS = {"index": "kind", "device": "device"}
"""parameter of the model `retrieve` -> field of IndexChoice"""


def stage_configuration(stage: DeclaredStage, profile: Profile, index: IndexChoice = AS_TRAINED) -> dict[str, Any]:
    """Return the configuration of one stage as a model. index: what `retrieve` searches by."""
    on_gpu = profile == "gpu" and stage.name == "rank"
    optional = [{**_tensor(tensor), "optional": True} for tensor in stage.optional_inputs]
    common = {
        "name": stage.name,
        "backend": "onnxruntime" if on_gpu else "python",
        "max_batch_size": MAX_BATCH_SIZE,
        "input": [_tensor(tensor) for tensor in stage.inputs] + optional,
        "output": [_tensor(tensor) for tensor in stage.outputs],
    }
    if on_gpu:
        return {
            **common,
            "instance_group": [{"count": 1, "kind": Symbol("KIND_GPU")}],
            "dynamic_batching": {"max_queue_delay_microseconds": 500},
        }
    if stage.name == "retrieve" and index != AS_TRAINED:
        chosen = {key: getattr(index, name) for key, name in INDEX_PARAMETERS.items()}
        common["parameters"] = [{"key": key, "value": {"string_value": value}} for key, value in chosen.items()]
    return {**common, "instance_group": [{"count": 1, "kind": Symbol("KIND_CPU")}]}


def ensemble_configuration(name: str, stages: Sequence[DeclaredStage]) -> dict[str, Any]:
    """Return the ensemble of stages: each input is the latest output of that name of an earlier stage."""
    first, last = stages[0], stages[-1]
    called = {tensor.name: tensor.name for tensor in first.inputs}
    read = {tensor.name for stage in stages for tensor in (*stage.inputs, *stage.optional_inputs)}
    final = {tensor.name for tensor in last.outputs}
    steps = []
    for stage in stages:
        inputs = {one.name: called[one.name] for one in (*stage.inputs, *stage.optional_inputs) if one.name in called}
        given = [one.name for one in stage.outputs if one.name in read or stage is last]
        outputs = {one: f"{stage.name}_{one}" if one in final and stage is not last else one for one in given}
        called |= outputs
        steps.append(
            {"model_name": stage.name, "model_version": -1, **_maps("input", inputs), **_maps("output", outputs)}
        )
    return {
        "name": name,
        "platform": "ensemble",
        "max_batch_size": MAX_BATCH_SIZE,
        "input": [_tensor(tensor) for tensor in first.inputs],
        "output": [_tensor(tensor) for tensor in last.outputs],
        "ensemble_scheduling": {"step": steps},
    }


def pbtxt(message: Mapping[str, Any], indent: str = "") -> str:
    """Return a nested document in protobuf text format; a list repeats its field."""
    lines = []
    for name, value in message.items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, Mapping):
                lines.append(f"{indent}{name} {{\n{pbtxt(one, indent + '  ')}{indent}}}\n")
            else:
                lines.append(f"{indent}{name}: {_scalar(one)}\n")
    return "".join(lines)


def _tensor(tensor: TensorSpec) -> dict[str, Any]:
    return {"name": tensor.name, "data_type": Symbol(DTYPES[tensor.dtype]), "dims": list(tensor.shape)}


def _maps(side: str, names: Mapping[str, str]) -> dict[str, Any]:
    """Return the maps of an ensemble step; names: of the stage -> of the ensemble."""
    return {f"{side}_map": [{"key": own, "value": called} for own, called in names.items()]}


def _scalar(value: Any) -> str:
    if isinstance(value, Symbol):
        return value.name
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
