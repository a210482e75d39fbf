"""An open-loop load generator in a process of its own: requests leave when they are due, whatever became of those before.

Latency counts from the moment a request was due, so that a server that stalls cannot hide the wait of those behind it.
Arrivals are a Poisson process of fixed seed. Over HTTP/1.1 connections that are kept, or over gRPC to a Triton model.

`python -m benchmarks.lib.load plan.json out.npz`, where the plan is a `Plan`. R requests.
"""

import asyncio
import json
import resource
import ssl
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import orjson
import uvloop
from tritonclient.grpc import service_pb2, service_pb2_grpc

NO_ANSWER = 0
"""the status of a request whose connection failed, or that was given up"""
WRONG = 300
"""bytes that are kept of what is no slate"""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to send, where, how fast."""

    address: str
    """host:port"""
    bodies: str
    """file with one JSON document a line; request i sends line i modulo their number"""
    rates: Sequence[tuple[float, float]]
    """(requests/s, seconds), one phase after the other"""
    seed: int = 0
    path: str = "/v1/recommend"
    headers: Sequence[tuple[str, str]] = ()
    model: str | None = None
    """of a Triton behind `address`; None for HTTP"""
    k: int = 10
    """items that a full slate has"""
    forbidden: str | None = None
    """file with one item a line that no slate may hold"""
    give_up_s: float = 10.0
    from_query: bool = False
    """bodies are whole queries that only lack a request id"""
    certificate: str | None = None
    """PEM file that is trusted: HTTP over TLS; None for plain HTTP"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of one request."""

    number: int
    due_s: float
    latency_ms: float
    status: int
    rung: str
    items: int
    stateless: bool
    """whether the user's state was not to be had"""
    forbidden: int
    ended_s: float
    wrong: str
    """what came in the place of an answer: the error, or how the body begins; "" for 200"""


class Connection(asyncio.Protocol):
    """One HTTP/1.1 connection, one request at a time."""

    def __init__(self) -> None:
        self._transport: Any = None
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._buffer = b""
        self.open = False

    def connection_made(self, transport: Any) -> None:
        self._transport, self.open = transport, True

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError())

    def ask(self, request: bytes) -> "asyncio.Future[tuple[int, bytes]]":
        self._answer = asyncio.get_running_loop().create_future()
        self._buffer = b""
        self._transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, gap, body = self._buffer.partition(b"\r\n\r\n")
        if not gap or self._answer is None or self._answer.done():
            return
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0] or 0)
        if len(body) >= length:
            self._answer.set_result((int(head[9:12]), body))

    def close(self) -> None:
        self.open = False
        if self._transport is not None:
            self._transport.abort()


class Http:
    """Sends bodies to one path; idle connections are used again."""

    def __init__(self, plan: Plan) -> None:
        self._host, _, port = plan.address.partition(":")
        self._port = int(port)
        self._tls = None if plan.certificate is None else ssl.create_default_context(cafile=plan.certificate)
        fixed = [f"POST {plan.path} HTTP/1.1", f"Host: {plan.address}", "Content-Type: application/json"]
        self._head = "\r\n".join([*fixed, *(f"{name}: {value}" for name, value in plan.headers)]).encode()
        self._idle: list[Connection] = []

    async def ask(self, body: bytes) -> tuple[int, bytes]:
        connection = await self._connection()
        try:
            request = b"%b\r\nContent-Length: %d\r\n\r\n%b" % (self._head, len(body), body)
            answer = await connection.ask(request)
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)
        return answer

    async def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    async def _connection(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.open:
                return connection
        loop = asyncio.get_running_loop()
        return (await loop.create_connection(Connection, self._host, self._port, ssl=self._tls))[1]


class Grpc:
    """Asks a Triton model for SLATE; its error codes stand as HTTP knows them."""

    def __init__(self, plan: Plan) -> None:
        self._channel = grpc.aio.insecure_channel(plan.address)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._model = plan.model

    async def ask(self, body: bytes) -> tuple[int, bytes]:
        request = service_pb2.ModelInferRequest(model_name=self._model)
        request.inputs.add(name="QUERY", datatype="BYTES", shape=[1, 1])
        request.outputs.add(name="SLATE")
        request.raw_input_contents.append(len(body).to_bytes(4, "little") + body)
        try:
            answer = await self._stub.ModelInfer(request)
        except grpc.aio.AioRpcError as error:
            return (503 if error.code() == grpc.StatusCode.UNAVAILABLE else 500), b""
        return 200, answer.raw_output_contents[0][4:]

    async def close(self) -> None:
        await self._channel.close()


class Load:
    """Sends a plan and keeps what came of every request."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._bodies = Path(plan.bodies).read_bytes().splitlines()
        lines = Path(plan.forbidden).read_text(encoding="utf-8").split("\n") if plan.forbidden else []
        self._forbidden = frozenset(filter(None, lines))
        self.answers: list[Answer] = []

    async def send(self) -> None:
        """Every request when it is due; returns when the last one was answered or given up."""
        door = Http(self._plan) if self._plan.model is None else Grpc(self._plan)
        start = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for number, due in enumerate(arrivals(self._plan)):
                if (wait := start + due - time.perf_counter()) > 0:
                    await asyncio.sleep(wait)
                tasks.create_task(self._one(door, number, start, due))
        await door.close()

    async def _one(self, door: Http | Grpc, number: int, start: float, due: float) -> None:
        body = self._bodies[number % len(self._bodies)]
        if self._plan.from_query:
            body = b'%b,"request_id":"%d"}' % (body[:-1], number)
        try:
            async with asyncio.timeout(self._plan.give_up_s):
                status, answer = await door.ask(body)
        except (OSError, TimeoutError) as error:
            status, answer = NO_ANSWER, type(error).__name__.encode()
        self.answers.append(self._read(number, status, answer, due, time.perf_counter() - start))

    def _read(self, number: int, status: int, answer: bytes, due: float, ended: float) -> Answer:
        slate = orjson.loads(answer) if status == 200 else {}
        items = [item["item"] for item in slate.get("items", ())]
        return Answer(
            number=number,
            due_s=due,
            latency_ms=1e3 * (ended - due),
            status=status,
            rung=slate.get("rung", ""),
            items=len(items),
            stateless=any(flag.startswith("state:") for flag in slate.get("degraded", ())),
            forbidden=len(self._forbidden.intersection(items)),
            ended_s=ended,
            wrong="" if status == 200 else answer[:WRONG].decode(errors="replace"),
        )


def arrivals(plan: Plan) -> np.ndarray:
    """[R] seconds after the start at which requests are due, rising."""
    generator = np.random.default_rng(plan.seed)
    begin, times = 0.0, []
    for rate, seconds in plan.rates:
        num = generator.poisson(rate * seconds)
        times.append(begin + np.sort(generator.uniform(0, seconds, num)))
        begin += seconds
    return np.concatenate(times)


def main() -> None:
    plan = Plan(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    load = Load(plan)
    uvloop.run(load.send())
    used = resource.getrusage(resource.RUSAGE_SELF)
    columns = {name: np.array([getattr(one, name) for one in load.answers]) for name in Answer.__dataclass_fields__}
    np.savez(sys.argv[2], **columns, cpu_s=used.ru_utime + used.ru_stime)


if __name__ == "__main__":
    main()
