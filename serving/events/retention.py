"""Truncation of the JetStream event log: records that every reader acknowledged are removed when the log fills."""

from nats.js.api import StreamState

from serving.events.connection import Connection, Link, Stream

TRUNCATE_ABOVE, TRUNCATE_TO = 0.5, 0.25
"""shares of the log's max_bytes; removed records live on in the user states and in Parquet"""


class JetStreamRetention:
    """Truncates the log of `stream`, oldest records first."""

    def __init__(self, stream: Stream) -> None:
        self.num_bytes = 0
        """size of the log at the last `truncate`"""
        self.max_bytes = stream.max_bytes
        self._connection = Connection(stream)

    async def truncate(self, acknowledged: int) -> None:
        """Above TRUNCATE_ABOVE of `max_bytes`, purge down to about TRUNCATE_TO, never beyond the sequence `acknowledged` that
        every reader has reached. ServingError when the broker does not answer.
        """
        name = self._connection.stream.name

        async def fetch_state(link: Link) -> StreamState:
            return (await link.jetstream.stream_info(name)).state

        state = await self._connection.call("report its size", fetch_state)
        self.num_bytes = state.bytes
        if state.bytes <= TRUNCATE_ABOVE * self.max_bytes or acknowledged < state.first_seq:
            return
        excess = int(state.messages * (1 - TRUNCATE_TO * self.max_bytes / state.bytes))
        last = min(acknowledged, state.first_seq + excess - 1)

        async def purge(link: Link) -> None:
            await link.jetstream.purge_stream(name, seq=last + 1)

        await self._connection.call("truncate the log", purge)

    async def close(self) -> None:
        await self._connection.close()
