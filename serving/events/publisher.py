"""Publish many JetStream messages at once, each with its acknowledgement.

The client's own calls do not fit: one waits for the deadline when the broker refuses, the other keeps a task a message, and
both ignore cancellation while the socket is full.
"""

import asyncio
import itertools
import json
from collections.abc import Sequence

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

MESSAGE_ID = "Nats-Msg-Id"
YIELD_EVERY = 64
Message = tuple[str, bytes, str]
"""subject, payload, id"""


class Publisher:
    """Publishes on one connection and tracks pending acknowledgements."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._inbox = client.new_inbox()
        self._reply_numbers = itertools.count()
        self._pending: dict[str, asyncio.Future[None]] = {}
        self.last_sequence = 0
        """highest acknowledged sequence"""

    async def subscribe(self) -> None:
        """Subscribe to acknowledgements; call before the first `publish`."""
        await self._client.subscribe(f"{self._inbox}.*", cb=self._on_acknowledgement)

    async def publish(self, messages: Sequence[Message]) -> None:
        """Return when all messages are acknowledged; NatsError for the first refused one."""
        loop = asyncio.get_running_loop()
        pending = {str(next(self._reply_numbers)): loop.create_future() for _ in messages}
        self._pending |= pending
        try:
            for index, (number, (subject, payload, id)) in enumerate(zip(pending, messages, strict=True)):
                await self._client.publish(subject, payload, reply=f"{self._inbox}.{number}", headers={MESSAGE_ID: id})
                if index % YIELD_EVERY == YIELD_EVERY - 1:  # the client never yields to other tasks by itself
                    await asyncio.sleep(0)
            await asyncio.gather(*pending.values())
        finally:
            for number, future in pending.items():
                self._pending.pop(number, None)
                future.cancel()

    async def _on_acknowledgement(self, message: Msg) -> None:
        future = self._pending.pop(message.subject.rpartition(".")[2], None)
        if future is None or future.done():
            return
        answer = json.loads(message.data or b'{"error": {"description": "the log does not exist"}}')
        if "error" in answer:
            future.set_exception(NatsError(answer["error"]["description"]))
        else:
            self.last_sequence = max(self.last_sequence, int(answer["seq"]))
            future.set_result(None)
