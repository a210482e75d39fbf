"""Triton requests <-> the tensors of a stage."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import triton_python_backend_utils as triton

from recsys.bundle import Bundle
from recsys.contracts import Query, Slate, query_from_dict
from recsys.errors import QueryError, RecsysError, ReleaseError, RulesLostError, where
from recsys.export.configuration import INDEX_PARAMETERS
from recsys.export.releases import hold_release, state_folder
from recsys.index import IndexChoice
from recsys.stages import RELEASE, SlateTensors, release_tensor
from recsys.tensors import TensorSpec

LONGEST_ERROR = 1_000
"""characters; gRPC drops an answer whose error is longer than 16 KiB once it is quoted"""

CODES: Mapping[type[RecsysError], str] = {ReleaseError: "UNSUPPORTED", RulesLostError: "UNAVAILABLE"}
"""names of the codes of errors that the caller did not make; others are INVALID_ARG"""

logger = logging.getLogger(__name__)


def open_bundle(arguments: Mapping[str, str]) -> Bundle:
    """The bundle beside the model repository, verified; its release is held."""
    hold_release(_release(arguments))
    if f'"{RELEASE.name}"' not in arguments["model_config"]:
        logger.warning(
            "an earlier version exported %s: its stages do not notice another bundle; export again", _release(arguments)
        )
    return Bundle.open(_release(arguments) / "bundle")


def rules_store(arguments: Mapping[str, str]) -> Path:
    """The folder of published rules of the serve folder; it need not exist."""
    return state_folder(_release(arguments)) / "rules"


def items_store(arguments: Mapping[str, str]) -> Path:
    """The folder of changed items of the serve folder; it need not exist."""
    return state_folder(_release(arguments)) / "items"


def shares_folder(arguments: Mapping[str, str]) -> Path:
    """The folder of what was shown to everybody; it need not exist."""
    return state_folder(_release(arguments)) / "exposure"


def last_good(arguments: Mapping[str, str]) -> Path:
    """The folder with copies of the rules and items that were served last; it need not exist."""
    return state_folder(_release(arguments)) / "last_good"


def index_choice(arguments: Mapping[str, str]) -> IndexChoice:
    """The index that the export chose; that of the training where an earlier version exported."""
    parameters = orjson.loads(arguments["model_config"]).get("parameters", {})
    chosen = {name: parameters[key]["string_value"] for key, name in INDEX_PARAMETERS.items() if key in parameters}
    return IndexChoice(**chosen)


def _release(arguments: Mapping[str, str]) -> Path:
    """The folder of the release, from that of a model, <release>/models/<model>."""
    return Path(arguments["model_repository"]).resolve().parent.parent


def respond(stage: Any, requests: Sequence[Any]) -> list[Any]:
    """Run a stage on each request; an error becomes one sentence, never a traceback."""
    return [_respond(stage, request) for request in requests]


def _respond(stage: Any, request: Any) -> Any:
    try:
        tensors = _decode(request, (*stage.inputs, *stage.optional_inputs), stage.release)
        outputs = request.requested_output_names()
        answer = _encode(stage(tensors))
        return triton.InferenceResponse([triton.Tensor(name, answer[name]) for name in outputs])
    except RecsysError as error:
        code = getattr(triton.TritonError, CODES.get(type(error), "INVALID_ARG"))
        return triton.InferenceResponse(error=triton.TritonError(str(error)[:LONGEST_ERROR], code))
    except Exception as error:
        logger.error("stage %s failed with %s", stage.name, where(error))
        message = f"the stage {stage.name} failed; its log says why"
        return triton.InferenceResponse(error=triton.TritonError(message, triton.TritonError.INTERNAL))


def _decode(request: Any, inputs: Sequence[TensorSpec], release: str) -> dict[str, Any]:
    given = {tensor.name: triton.get_input_tensor_by_name(request, tensor.name) for tensor in inputs}
    tensors = {name: tensor.as_numpy() for name, tensor in given.items() if tensor is not None}
    for tensor in inputs:
        if tensor.name in tensors and tensors[tensor.name].ndim != 1 + len(tensor.shape):
            shape = tensors[tensor.name].shape
            raise QueryError(f"{tensor.name} came as {list(shape)}; send a batch of {list(tensor.shape)}")
    if RELEASE in inputs and RELEASE.name not in tensors:  # exported before batches carried it: Triton demands it else
        tensors[RELEASE.name] = release_tensor(release, len(next(iter(tensors.values()))))
    if "QUERY" in tensors:
        tensors["QUERY"] = [_query(document) for document in tensors["QUERY"][:, 0]]
    if "SLATE" in tensors:
        tensors["SLATE"] = [Slate.from_json(document) for document in tensors["SLATE"][:, 0]]
    return tensors


def _query(document: bytes) -> Query:
    """As Query.from_json, in less time where the document is sound."""
    try:
        fields = orjson.loads(document)
    except orjson.JSONDecodeError:
        return Query.from_json(document)
    return query_from_dict(fields)


def _encode(tensors: Mapping[str, Any]) -> Mapping[str, np.ndarray]:
    if "SLATE" not in tensors:
        return tensors
    slates: Sequence[Slate] = tensors["SLATE"]
    places = max(len(slate.items) for slate in slates)
    items = np.full((len(slates), places), b"", dtype=object)
    utilities = np.full((len(slates), places), np.nan, dtype=np.float32)
    for row, slate in enumerate(slates):
        items[row, : len(slate.items)] = [item.item.encode() for item in slate.items]
        utilities[row, : len(slate.items)] = [item.utility for item in slate.items]
    documents = np.array([[slate.to_json().encode()] for slate in slates], dtype=object)
    return SlateTensors(slates=documents, items=items, utilities=utilities).tensors()
