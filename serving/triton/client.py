"""Client of the Triton server: slates over gRPC.

Shapes: B queries of a batch (at most 32, the models' max_batch_size), K slate positions.
"""

from collections.abc import Iterator, Sequence
from typing import Self

import numpy as np
import tritonclient.grpc as triton

from recsys.contracts import Query, Slate
from recsys.errors import QueryError, ServingError

MAX_BATCH = 32
TIMEOUT_S = 10.0


class Client:
    """Connection to the server at `grpc_url` ("unix:path" or "host:port"), as a context manager; connects with the first call.

    Raises QueryError when the server refuses a query, ServingError when it cannot be reached or does not answer.
    """

    def __init__(self, grpc_url: str) -> None:
        if "://" in grpc_url:
            raise ServingError(f"grpc_url is {grpc_url!r}; give unix:path, or host:port without a scheme")
        self._url = grpc_url
        self._connection = triton.InferenceServerClient(grpc_url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def recommend(
        self, queries: Sequence[Query], *, model: str = "recommend", timeout_s: float = TIMEOUT_S
    ) -> list[Slate]:
        """Return one slate a query, in query order. `timeout_s` bounds each batch, in seconds."""
        return [slate for batch in _batches(queries) for slate in self._slates(batch, model, timeout_s)]

    def tensors(
        self, queries: Sequence[Query], *, model: str = "recommend", timeout_s: float = TIMEOUT_S
    ) -> tuple[np.ndarray, np.ndarray]:
        """Output tensors of one batch: ITEMS [B, K] object (bytes) and UTILITIES [B, K] float32."""
        if not 1 <= len(queries) <= MAX_BATCH:
            raise QueryError(f"{len(queries)} queries came for one batch; send 1 to {MAX_BATCH}")
        items, utilities = self._infer(queries, ("ITEMS", "UTILITIES"), model, timeout_s)
        return items, utilities

    def _slates(self, batch: Sequence[Query], model: str, timeout_s: float) -> list[Slate]:
        (documents,) = self._infer(batch, ("SLATE",), model, timeout_s)
        try:
            return [Slate.from_json(document) for document in documents[:, 0]]
        except (ValueError, TypeError, KeyError) as error:
            raise ServingError(
                f"the model {model!r} at {self._url} answered with something that is no slate ({error!r}); "
                "check that server and client are of the same version"
            ) from None

    def _infer(self, batch: Sequence[Query], outputs: Sequence[str], model: str, timeout_s: float) -> list[np.ndarray]:
        try:
            answer = self._connection.infer(
                model,
                [_tensor(batch)],
                outputs=[triton.InferRequestedOutput(name) for name in outputs],
                client_timeout=timeout_s,
            )
        except triton.InferenceServerException as error:
            raise _translated(error, model, self._url, timeout_s) from None
        return [answer.as_numpy(name) for name in outputs]


def _batches(queries: Sequence[Query]) -> Iterator[Sequence[Query]]:
    for start in range(0, len(queries), MAX_BATCH):
        yield queries[start : start + MAX_BATCH]


def _tensor(batch: Sequence[Query]) -> triton.InferInput:
    """QUERY [B, 1] BYTES, one JSON document a row."""
    documents = np.array([[query.to_json().encode()] for query in batch], dtype=object)
    tensor = triton.InferInput("QUERY", list(documents.shape), "BYTES")
    tensor.set_data_from_numpy(documents)
    return tensor


def _translated(
    error: triton.InferenceServerException, model: str, url: str, timeout_s: float
) -> QueryError | ServingError:
    status = str(error.status()).removeprefix("StatusCode.")
    if status == "INVALID_ARGUMENT":
        return QueryError(error.message())
    if status == "DEADLINE_EXCEEDED":
        return ServingError(f"the model {model!r} at {url} did not answer within {timeout_s:g} s; allow it more time")
    return ServingError(
        f"the model {model!r} at {url} did not answer ({status}: {error.message()}); check that the server runs there "
        "and that the model is ready"
    )
