"""Event log writers, readers, retention and erasure by the URL of the broker."""

from dataclasses import dataclass, replace
from typing import Protocol

from recsys.errors import ConfigError
from serving.endpoints import Server
from serving.events.connection import Stream
from serving.events.consumer import LogReader
from serving.events.jetstream import JetStreamEraser, JetStreamReader, JetStreamWriter
from serving.events.retention import JetStreamRetention
from serving.events.writer import LogBroker

NATS, KAFKA = ("nats://", "tls://"), "kafka://"


class ClosableReader(LogReader, Protocol):
    """A log reader with `close`."""

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLimits:
    """Size and age of a log in NATS; Kafka keeps its own."""

    max_bytes: int = 4 << 30
    max_age_s: float = 30 * 86_400.0


DEFAULT_LIMITS = LogLimits()


def open_writer(server: Server, limits: LogLimits = DEFAULT_LIMITS) -> LogBroker:
    """Writer for `nats://host:port` or `kafka://host:port`; connects with the first call. ConfigError for another URL."""
    if server.url.startswith(KAFKA):
        from serving.events import kafka

        return kafka.KafkaWriter(kafka.Topic(server=server))
    return JetStreamWriter(_stream(server, limits))


def open_reader(
    server: Server, limits: LogLimits = DEFAULT_LIMITS, *, name: str, limit: int, linger_s: float, poll_s: float
) -> ClosableReader:
    """Reader `name` of the same log."""
    options = {"limit": limit, "linger_s": linger_s, "poll_s": poll_s}
    if server.url.startswith(KAFKA):
        from serving.events import kafka

        return kafka.KafkaReader(kafka.Topic(server=server), name=name, **options)  # type: ignore[arg-type]
    return JetStreamReader(_stream(server, limits), name=name, **options)  # type: ignore[arg-type]


def open_retention(server: Server, limits: LogLimits = DEFAULT_LIMITS) -> JetStreamRetention | None:
    """Retention of the log; None for Kafka, which truncates by itself."""
    return None if server.url.startswith(KAFKA) else JetStreamRetention(_stream(server, limits))


def open_eraser(server: Server) -> JetStreamEraser | None:
    """Erasure of single records; None for Kafka, which keeps them until its retention ends."""
    if server.url.startswith(KAFKA):
        return None
    return JetStreamEraser(replace(_stream(server, DEFAULT_LIMITS), as_found=True))


def erasure_text(server: Server, now: float) -> str | None:
    """Sentence on how long a log that erases no single record keeps those of now (unix seconds); None for one that does."""
    if not server.url.startswith(KAFKA):
        return None
    from serving.events import kafka

    return kafka.erasure_text(kafka.Topic(server=server), now)


def _stream(server: Server, limits: LogLimits) -> Stream:
    if not server.url.startswith(NATS):
        raise ConfigError(f"the broker is {server.url!r}; give nats://host:port or kafka://host:port")
    return Stream(server=server, max_bytes=limits.max_bytes, max_age_s=limits.max_age_s)
