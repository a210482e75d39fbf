"""The load generator against a server that answers, refuses, breaks off and never answers."""

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from benchmarks.lib.load import NO_ANSWER, WRONG, Load, Plan

SLATE = b'{"rung": "recommend", "items": [{"item": "a"}, {"item": "b"}], "degraded": ["state:slow"]}'
REFUSAL = b'{"error": "' + b"x" * 500 + b'"}'


def response(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d Said\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As the bodies of the requests ask, until the client goes."""
    with suppress(ConnectionError):
        while line := await reader.readline():
            if not line.startswith(b"Content-Length"):
                continue
            await reader.readline()
            wanted = await reader.readexactly(int(line.partition(b":")[2]))
            if wanted == b'"break off"':
                writer.transport.abort()
            elif wanted != b'"stay silent"':
                writer.write(response(200, SLATE) if wanted == b'"answer"' else response(503, REFUSAL))
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


@pytest.mark.parametrize(
    ("asked", "status", "wrong"),
    [
        ("answer", 200, ""),
        ("refuse", 503, REFUSAL[:WRONG].decode()),
        ("break off", NO_ANSWER, "ConnectionResetError"),
        ("stay silent", NO_ANSWER, "TimeoutError"),
    ],
)
def test_what_came_in_the_place_of_an_answer_is_kept(tmp_path: Path, asked: str, status: int, wrong: str) -> None:
    (tmp_path / "bodies").write_text(f'"{asked}"\n')
    (tmp_path / "forbidden").write_text("b\n")

    async def sent() -> Load:
        serving: list[asyncio.Task[None]] = []
        server = await asyncio.start_server(
            lambda *streams: serving.append(asyncio.ensure_future(behave(*streams))), "127.0.0.1", 0
        )
        port = server.sockets[0].getsockname()[1]
        load = Load(
            Plan(
                address=f"127.0.0.1:{port}",
                bodies=str(tmp_path / "bodies"),
                rates=[(100.0, 0.05)],
                forbidden=str(tmp_path / "forbidden"),
                give_up_s=0.2,
            )
        )
        await load.send()
        server.close()
        await asyncio.gather(*serving)
        return load

    answers = asyncio.run(sent()).answers
    assert len(answers) >= 2
    assert {(one.status, one.wrong) for one in answers} == {(status, wrong)}
    if status == 200:
        assert {(one.items, one.forbidden, one.rung, one.stateless) for one in answers} == {(2, 1, "recommend", True)}
