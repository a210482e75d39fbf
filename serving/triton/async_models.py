"""Asyncio client of Triton's models: one query document in, one slate document out, both as bytes.

Requests are built as protobuf messages directly, since the tritonclient layer converts through numpy twice.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2 as messages

from recsys.errors import QueryError, ReleaseError, ServingError

METHOD = "/inference.GRPCInferenceService/ModelInfer"
LENGTH_BYTES = 4
"""length prefix of a BYTES tensor element, little-endian"""
OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", 8 << 20),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)
"""backoffs that find a restarted server within a second"""

Metadata = Sequence[tuple[str, str]]


class Models(Protocol):
    """Model server as used by the fallback tiers."""

    async def infer(self, model: str, query: bytes, *, time_s: float, metadata: Metadata) -> bytes:
        """Slate of one query, both JSON.

        QueryError for a refused query, ReleaseError from stages of different releases, ServingError without an answer.
        """
        ...

    async def close(self) -> None: ...


class TritonModels:
    """Connection to the server at `grpc_url` ("unix:path" or "host:port"), opened with the first call; for one event loop."""

    def __init__(self, grpc_url: str, *, ca: str = "") -> None:
        """ca: PEM file of the authorities that sign the server's certificate; without one, no TLS"""
        if "://" in grpc_url:
            raise ServingError(f"grpc_url is {grpc_url!r}; give unix:path, or host:port without a scheme")
        self._url, self._ca = grpc_url, ca
        self._channel: grpc.aio.Channel | None = None

    async def infer(self, model: str, query: bytes, *, time_s: float, metadata: Metadata) -> bytes:
        try:
            answer = await self._call()(_request(model, query), timeout=time_s, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise _translated(error, model, self._url, time_s) from None
        return answer.raw_output_contents[0][LENGTH_BYTES:]

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    def _call(self) -> grpc.aio.UnaryUnaryMultiCallable:
        if self._channel is None:
            self._channel = _channel(self._url, self._ca)
            self._infer = self._channel.unary_unary(
                METHOD,
                request_serializer=messages.ModelInferRequest.SerializeToString,
                response_deserializer=messages.ModelInferResponse.FromString,
            )
        return self._infer


def _channel(url: str, ca: str) -> grpc.aio.Channel:
    if not ca:
        return grpc.aio.insecure_channel(url, options=OPTIONS)
    return grpc.aio.secure_channel(url, grpc.ssl_channel_credentials(Path(ca).read_bytes()), options=OPTIONS)


def _request(model: str, query: bytes) -> messages.ModelInferRequest:
    return messages.ModelInferRequest(
        model_name=model,
        inputs=[_QUERY],
        outputs=[_SLATE],
        raw_input_contents=[len(query).to_bytes(LENGTH_BYTES, "little") + query],
    )


_QUERY = messages.ModelInferRequest.InferInputTensor(name="QUERY", datatype="BYTES", shape=[1, 1])
_SLATE = messages.ModelInferRequest.InferRequestedOutputTensor(name="SLATE")


def _translated(error: grpc.aio.AioRpcError, model: str, url: str, time_s: float) -> Exception:
    status = error.code()
    if status is grpc.StatusCode.INVALID_ARGUMENT:
        return QueryError(error.details())
    if status is grpc.StatusCode.UNIMPLEMENTED:
        return ReleaseError(error.details())
    if status is grpc.StatusCode.DEADLINE_EXCEEDED:
        return TimeoutError(f"the model {model!r} at {url} did not answer within {time_s:g} s; allow it more time")
    return ServingError(
        f"the model {model!r} at {url} did not answer ({status.name}: {error.details()}); check that the server runs "
        "there and that the model is ready"
    )
