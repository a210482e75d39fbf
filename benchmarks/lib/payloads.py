"""Requests for Triton that somebody broke: a query's JSON, the tensor that carries it, or the bytes of the message."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2

from recsys.contracts import Query

MODELS = ("recommend", "recommend_light", "recommend_explained", "retrieve", "rank", "rules", "explain")
ODD_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        10**400,
        2**63,
        -0.0,
        1e308,
        5e-324,
        "",
        " ",
        "\x00",
        "\ud800",
        "é" * 300,
        "a" * 100_000,
    ),
    *([], {}, [[]], {"": None}, ["x"] * 5_000, {"rating": "five"}, [{"item": 1}]),
)
ODD_TEXTS = (
    *(
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"1e999",
        b"\\ud800",
        b"\xff\xfe",
        b"\x00",
        b"{",
        b"}",
        b"[" * 20_000,
        b'"',
        b",",
    ),
    *(b'{"a":' * 5_000, b"// a comment", b"'", b"0x10", b"\\", b"\xed\xa0\x80"),
)
ODD_SHAPES = ((), (0,), (1,), (0, 1), (1, 0), (-1, 1), (1, 1, 1), (2, 1), (33, 1), (1, 2), (2**40, 1), (2**62, 4))
DATATYPES = ("BOOL", "INT64", "FP32", "FP16", "UINT8", "", "bytes", "STRING")

Generator = np.random.Generator


@dataclass(frozen=True, kw_only=True)
class Payload:
    """The bytes of one ModelInferRequest, or of something that is none."""

    kind: str
    message: bytes


def payloads(query: Query, num: int, seed: int) -> list[Payload]:
    """So many broken forms of the query, the same for the same seed."""
    generator = np.random.default_rng(seed)
    kinds = list(BREAKS)
    return [_payload(kinds[number % len(kinds)], query, generator) for number in range(num)]


def request_of(document: bytes, model: str = "recommend") -> service_pb2.ModelInferRequest:
    """What carries one document."""
    request = service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name="QUERY", datatype="BYTES", shape=[1, 1])
    request.raw_input_contents.append(len(document).to_bytes(4, "little") + document)
    return request


def _payload(kind: str, query: Query, generator: Generator) -> Payload:
    return Payload(kind=kind, message=BREAKS[kind](query.to_json().encode(), generator))


def _of_text(change: Callable[[bytes, Generator], bytes]) -> Callable[[bytes, Generator], bytes]:
    """A break of the document, which is then carried as it should be."""

    def broken(document: bytes, generator: Generator) -> bytes:
        model = MODELS[generator.integers(len(MODELS))]
        return request_of(change(document, generator), model).SerializeToString()

    return broken


def _of_request(change: Callable[[Any, Generator], None]) -> Callable[[bytes, Generator], bytes]:
    """A break of the request that carries a good document."""

    def broken(document: bytes, generator: Generator) -> bytes:
        request = request_of(document, MODELS[generator.integers(len(MODELS))])
        change(request, generator)
        return request.SerializeToString()

    return broken


def other_bytes(text: bytes, generator: Generator) -> bytes:
    """One to eight bytes are others."""
    changed = bytearray(text)
    for place in generator.integers(len(text), size=generator.integers(1, 9)):
        changed[place] = generator.integers(256)
    return bytes(changed)


def cut(text: bytes, generator: Generator) -> bytes:
    begin, end = sorted(generator.integers(len(text) + 1, size=2))
    return text[:begin] + text[end:]


def odd_text(text: bytes, generator: Generator) -> bytes:
    place = generator.integers(len(text) + 1)
    return text[:place] + ODD_TEXTS[generator.integers(len(ODD_TEXTS))] + text[place:]


def twice(text: bytes, generator: Generator) -> bytes:
    begin, end = sorted(generator.integers(len(text) + 1, size=2))
    return text[:end] + text[begin:]


def odd_value(text: bytes, generator: Generator) -> bytes:
    """One value anywhere in the document is another."""
    document = json.loads(text)
    holders = _holders(document)
    holder, key = holders[generator.integers(len(holders))]
    holder[key] = ODD_VALUES[generator.integers(len(ODD_VALUES))]
    return _dumped(document)


def other_key(text: bytes, generator: Generator) -> bytes:
    """A field is missing, has another name, or came unasked."""
    document = json.loads(text)
    holders = [(holder, key) for holder, key in _holders(document) if isinstance(holder, dict)]
    holder, key = holders[generator.integers(len(holders))]
    value = holder.pop(key) if generator.random() < 0.7 else None
    if generator.random() < 0.5:
        holder[str(ODD_VALUES[generator.integers(8)])] = value
    return _dumped(document)


def shape(request: Any, generator: Generator) -> None:
    del request.inputs[0].shape[:]
    request.inputs[0].shape.extend(ODD_SHAPES[generator.integers(len(ODD_SHAPES))])


def datatype(request: Any, generator: Generator) -> None:
    request.inputs[0].datatype = DATATYPES[generator.integers(len(DATATYPES))]


def contents(request: Any, generator: Generator) -> None:
    """The tensor's bytes lie about their length, are missing, doubled, or stand in the other place as well."""
    (raw,) = request.raw_input_contents
    lies = (raw[:3], raw[: len(raw) // 2], b"\xff\xff\xff\xff" + raw[4:], raw * 2, b"", bytes(4), raw[4:])
    request.raw_input_contents[0] = lies[generator.integers(len(lies))]
    match generator.integers(4):
        case 0:
            del request.raw_input_contents[:]
        case 1:
            request.raw_input_contents.append(raw)
        case 2:
            request.inputs[0].contents.bytes_contents.append(raw)


def names(request: Any, generator: Generator) -> None:
    """Of the model, its version, the input, an output."""
    match generator.integers(6):
        case 0:
            request.model_name = ("", "ranker", "../recommend", "é" * 100, "\x00")[generator.integers(5)]
        case 1:
            request.model_version = ("2", "-1", "x", "9" * 40)[generator.integers(4)]
        case 2:
            request.inputs[0].name = ("query", "", "SLATE")[generator.integers(3)]
        case 3:
            request.outputs.add(name=("slate", "", "PROBABILITIES")[generator.integers(3)])
        case 4:
            request.inputs.add(name="QUERY", datatype="BYTES", shape=[1, 1])
        case 5:
            request.inputs.add(name="ROWS", datatype="INT64", shape=[1, 4])
            request.raw_input_contents.append(generator.integers(-(2**40), 2**40, 4).tobytes())


def parameters(request: Any, generator: Generator) -> None:
    """Those of Triton, with values that it does not expect."""
    known = (
        "sequence_id",
        "priority",
        "timeout",
        "binary_data_size",
        "shared_memory_region",
        "triton_enable_empty_final",
    )
    name = known[generator.integers(len(known))]
    where = request if generator.random() < 0.5 else request.inputs[0]
    if generator.random() < 0.5:
        where.parameters[name].int64_param = (0, -1, 2**62)[generator.integers(3)]
    else:
        where.parameters[name].string_param = ("", "x", "\x00" * 50)[generator.integers(3)]


def message(document: bytes, generator: Generator) -> bytes:
    """The serialised request with other bytes, cut, or with a piece twice."""
    change = (other_bytes, cut, twice)[generator.integers(3)]
    return change(request_of(document).SerializeToString(), generator)


BREAKS: Mapping[str, Callable[[bytes, Generator], bytes]] = {
    **{change.__name__: _of_text(change) for change in (other_bytes, cut, odd_text, twice, odd_value, other_key)},
    **{change.__name__: _of_request(change) for change in (shape, datatype, contents, names, parameters)},
    "message": message,
}
"""name -> (document, generator) -> bytes of a message"""


def _holders(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a document, those inside of others too."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [pair for key in list(keys) for pair in ((value, key), *_holders(value[key]))]


def _dumped(document: Any) -> bytes:
    return json.dumps(document, ensure_ascii=bool(len(json.dumps(document)) % 2)).encode(errors="surrogatepass")
