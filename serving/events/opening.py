"""One URL says which broker keeps the event log."""

from typing import Protocol

from recsys.errors import ConfigError
from serving.events.connection import Stream
from serving.events.consumer import Reader
from serving.events.jetstream import JetStreamReader, JetStreamRoom, JetStreamWriter
from serving.events.log import LogBroker

NATS, KAFKA = "nats://", "kafka://"


class OpenReader(Reader, Protocol):
    """A reader that ends."""

    async def close(self) -> None: ...


def open_writer(url: str) -> LogBroker:
    """The log at `nats://host:port` or `kafka://host:port`; connects with the first call. ConfigError for another URL."""
    if url.startswith(KAFKA):
        from serving.events import kafka

        return kafka.KafkaWriter(kafka.Topic(url=url))
    return JetStreamWriter(_stream(url))


def open_reader(url: str, *, name: str, limit: int, linger_s: float, poll_s: float) -> OpenReader:
    """The same log, read by a reader of this name."""
    knobs = {"limit": limit, "linger_s": linger_s, "poll_s": poll_s}
    if url.startswith(KAFKA):
        from serving.events import kafka

        return kafka.KafkaReader(kafka.Topic(url=url), name=name, **knobs)  # type: ignore[arg-type]
    return JetStreamReader(_stream(url), name=name, **knobs)  # type: ignore[arg-type]


def open_room(url: str) -> JetStreamRoom | None:
    """Who keeps room in the log; None where the broker does that by itself, as Kafka does."""
    return None if url.startswith(KAFKA) else JetStreamRoom(_stream(url))


def _stream(url: str) -> Stream:
    if not url.startswith(NATS):
        raise ConfigError(f"the broker is {url!r}; give nats://host:port or kafka://host:port")
    return Stream(url=url)
