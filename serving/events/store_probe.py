"""Probe of a JetStream log by a stored message.

JetStream answers requests and stores nothing any more once a write failed, as on a full disk, until it is started again. Only a
message that it stores tells the difference.
"""

import asyncio

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError

from recsys.errors import ServingError
from serving.endpoints import Server
from serving.events.connection import credentials

PROBE = "probe"
"""last part of the subject; readers skip these messages"""


def probe_store(server: Server, stream: str, timeout_s: float) -> None:
    """Return when the log has stored a message, has no stream yet, or refuses it because it is full; ServingError otherwise."""
    asyncio.run(_publish(server, f"{stream}.{PROBE}", timeout_s))


async def _publish(server: Server, subject: str, timeout_s: float) -> None:
    client = Client()
    try:
        async with asyncio.timeout(2 * timeout_s):
            await client.connect(
                server.url, **credentials(server), allow_reconnect=False, connect_timeout=1, error_cb=_ignore
            )
            await client.request(subject, b"", timeout=timeout_s)
    except NoRespondersError:
        return
    except (NatsError, OSError, TimeoutError):
        raise ServingError("stores nothing: a message was not acknowledged") from None
    finally:
        await client.close()


async def _ignore(_: Exception) -> None:
    """Ignore it: the pending call raises the error."""
