"""A gateway with API keys as a process of its own: `python keyed_gateway.py <arguments in JSON>`.

It prints where it listens. Limits are small, so that an attack needs few connections and little time.
"""

import asyncio
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from conftest import PATIENT, MemoryExposures, MemoryItems, MemoryStates, erase_nothing

from recsys.bundle import Bundle
from recsys.data.forgotten import ForgottenList
from recsys.policy.exposure.exposure_file import ShareFile
from recsys.stages import load_retrieve, load_rules
from serving.events.record import Record
from serving.gateway.anonymous_budget import AnonymousLimits
from serving.gateway.api_keys import SCOPES, ApiKey, ApiKeys, hash_token
from serving.gateway.app import build
from serving.gateway.connection_limits import ConnectionLimits
from serving.gateway.container import Dependencies
from serving.gateway.http_server import Listening, serve_gateway
from serving.gateway.pseudonyms import UserPseudonyms
from serving.triton.async_models import TritonModels

CONNECTIONS = ConnectionLimits(total=150, per_peer=60, header_s=1.5, keep_alive_s=3.0, write_s=1.5)
ANONYMOUS = AnonymousLimits(peer_burst=40, probe_burst=60)


class SlowLog:
    """An event log that is durable a little later."""

    async def append(self, records: Sequence[Record]) -> None:
        await asyncio.sleep(0.2)


def main(bundle: str, grpc: str, exposure: str, now: float, keys: Sequence[str], proxies: Sequence[str]) -> None:
    opened = Bundle.open(Path(bundle))
    ring = [ApiKey(name=key, sha256=hash_token(key), scopes=SCOPES, rate=1e5, burst=100_000) for key in keys]
    gateway = build(
        Dependencies(
            bundle=opened,
            retrieve=load_retrieve(opened),
            rules=load_rules(opened),
            models=TritonModels(grpc),
            states=MemoryStates(),
            writer=SlowLog(),
            items=MemoryItems(),
            pseudonyms=UserPseudonyms(key=b"0" * 32, store_raw=False),
            forgotten=ForgottenList(Path(exposure).parent / "forgotten", b"0" * 32),
            erase_spool=erase_nothing,
            exposures=MemoryExposures(),
            share_file=ShareFile(Path(exposure)),
            keys=ApiKeys(ring, clock=time.monotonic),
            settings=dataclasses.replace(PATIENT, connections=CONNECTIONS, anonymous=ANONYMOUS),
            log=sys.stderr,
            clock=time.monotonic,
            now=lambda: now,
        )
    )
    serve_gateway(
        gateway,
        Listening(port=0, trusted_proxies=tuple(proxies)),
        lame_duck_s=0.0,
        drain_s=5.0,
        log=sys.stderr,
        ready=lambda url, metrics: print(url, metrics, flush=True),
    )


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
