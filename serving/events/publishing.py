"""Publish many messages at once and know of each whether the broker has it.

The client's own ways do not serve: one waits for the deadline when the broker refuses, the other keeps a task a message,
each deaf to cancellation while the socket is full.
"""

import asyncio
import itertools
import json
from collections.abc import Sequence

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

ID = "Nats-Msg-Id"
YIELD = 64
Message = tuple[str, bytes, str]
"""subject, payload, id"""


class Publisher:
    """Messages of one connection, and the acknowledgements that are expected."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._inbox = client.new_inbox()
        self._numbers = itertools.count()
        self._expected: dict[str, asyncio.Future[None]] = {}
        self.last = 0
        """highest sequence that was acknowledged"""

    async def listen(self) -> None:
        """Before the first message."""
        await self._client.subscribe(f"{self._inbox}.*", cb=self._hear)

    async def publish(self, messages: Sequence[Message]) -> None:
        """Return when all are acknowledged; the client's error for the first that is refused."""
        loop = asyncio.get_running_loop()
        expected = {str(next(self._numbers)): loop.create_future() for _ in messages}
        self._expected |= expected
        try:
            for place, (number, (subject, payload, id)) in enumerate(zip(expected, messages, strict=True)):
                await self._client.publish(subject, payload, reply=f"{self._inbox}.{number}", headers={ID: id})
                if place % YIELD == YIELD - 1:  # the client alone would not let others run
                    await asyncio.sleep(0)
            await asyncio.gather(*expected.values())
        finally:
            for number, future in expected.items():
                self._expected.pop(number, None)
                future.cancel()

    async def _hear(self, message: Msg) -> None:
        future = self._expected.pop(message.subject.rpartition(".")[2], None)
        if future is None or future.done():
            return
        answer = json.loads(message.data or b'{"error": {"description": "there is no such log"}}')
        if "error" in answer:
            future.set_exception(NatsError(answer["error"]["description"]))
        else:
            self.last = max(self.last, int(answer["seq"]))
            future.set_result(None)
