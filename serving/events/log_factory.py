"""Event log writers, readers and retention by broker URL."""

from typing import Protocol

from recsys.errors import ConfigError
from serving.events.connection import Stream
from serving.events.consumer import LogReader
from serving.events.jetstream import JetStreamReader, JetStreamWriter
from serving.events.retention import JetStreamRetention
from serving.events.writer import LogBroker

NATS, KAFKA = "nats://", "kafka://"


class ClosableReader(LogReader, Protocol):
    """A log reader with `close`."""

    async def close(self) -> None: ...


def open_writer(url: str) -> LogBroker:
    """Writer for `nats://host:port` or `kafka://host:port`; connects with the first call. ConfigError for another URL."""
    if url.startswith(KAFKA):
        from serving.events import kafka

        return kafka.KafkaWriter(kafka.Topic(url=url))
    return JetStreamWriter(_stream(url))


def open_reader(url: str, *, name: str, limit: int, linger_s: float, poll_s: float) -> ClosableReader:
    """Reader `name` of the same log."""
    options = {"limit": limit, "linger_s": linger_s, "poll_s": poll_s}
    if url.startswith(KAFKA):
        from serving.events import kafka

        return kafka.KafkaReader(kafka.Topic(url=url), name=name, **options)  # type: ignore[arg-type]
    return JetStreamReader(_stream(url), name=name, **options)  # type: ignore[arg-type]


def open_retention(url: str) -> JetStreamRetention | None:
    """Retention of the log; None for Kafka, which truncates by itself."""
    return None if url.startswith(KAFKA) else JetStreamRetention(_stream(url))


def _stream(url: str) -> Stream:
    if not url.startswith(NATS):
        raise ConfigError(f"the broker is {url!r}; give nats://host:port or kafka://host:port")
    return Stream(url=url)
