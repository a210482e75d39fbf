"""A connection that is closed leaves nothing behind, however far its opening had come."""

import asyncio
import contextlib

import pytest

from serving.events.connection import Connection


@pytest.mark.parametrize("num_turns", range(0, 300, 15))
def test_close_during_the_opening_leaves_no_task(stream, num_turns):
    async def run() -> set[asyncio.Task]:
        async def ask(link):
            await link.jetstream.stream_info(stream.name)

        connection = Connection(stream)
        calling = asyncio.ensure_future(connection.call("answer", ask))
        for _ in range(num_turns):
            await asyncio.sleep(0)
        calling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await calling
        await connection.close()
        return asyncio.all_tasks() - {asyncio.current_task()}

    assert asyncio.run(run()) == set()
