"""Event log writers, readers and retention by the URL of the broker."""

from typing import Protocol

from recsys.errors import ConfigError
from serving.endpoints import Server
from serving.events.connection import Stream
from serving.events.consumer import LogReader
from serving.events.jetstream import JetStreamReader, JetStreamWriter
from serving.events.retention import JetStreamRetention
from serving.events.writer import LogBroker

NATS, KAFKA = ("nats://", "tls://"), "kafka://"


class ClosableReader(LogReader, Protocol):
    """A log reader with `close`."""

    async def close(self) -> None: ...


def open_writer(server: Server) -> LogBroker:
    """Writer for `nats://host:port` or `kafka://host:port`; connects with the first call. ConfigError for another URL."""
    if server.url.startswith(KAFKA):
        from serving.events import kafka

        return kafka.KafkaWriter(kafka.Topic(server=server))
    return JetStreamWriter(_stream(server))


def open_reader(server: Server, *, name: str, limit: int, linger_s: float, poll_s: float) -> ClosableReader:
    """Reader `name` of the same log."""
    options = {"limit": limit, "linger_s": linger_s, "poll_s": poll_s}
    if server.url.startswith(KAFKA):
        from serving.events import kafka

        return kafka.KafkaReader(kafka.Topic(server=server), name=name, **options)  # type: ignore[arg-type]
    return JetStreamReader(_stream(server), name=name, **options)  # type: ignore[arg-type]


def open_retention(server: Server) -> JetStreamRetention | None:
    """Retention of the log; None for Kafka, which truncates by itself."""
    return None if server.url.startswith(KAFKA) else JetStreamRetention(_stream(server))


def _stream(server: Server) -> Stream:
    if not server.url.startswith(NATS):
        raise ConfigError(f"the broker is {server.url!r}; give nats://host:port or kafka://host:port")
    return Stream(server=server)
