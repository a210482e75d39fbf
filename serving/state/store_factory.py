"""User state stores by the URL of their server."""

from pathlib import Path

from recsys.encryption import configured_encryption_key
from recsys.errors import ConfigError, check_ranges
from recsys.features.spec import FeatureSpec
from serving.endpoints import Server
from serving.state.encrypted import EncryptedStore
from serving.state.exposure_counts import ExposureCounts
from serving.state.protocols import KeyValueStore
from serving.state.redis import RedisStore
from serving.state.sqlite import SqliteStore
from serving.state.states import StateStore

SQLITE = "sqlite:///"
REDIS = ("redis://", "rediss://", "unix://")


def open_states(
    server: Server,
    spec: FeatureSpec,
    *,
    exposure: ExposureCounts,
    read_timeout_s: float,
    write_timeout_s: float,
    ttl_s: float | None,
) -> StateStore:
    """Open the store at `sqlite:///runs/states.db` (`sqlite:////` before an absolute path), `redis://host:port` or `unix://path`.

    read_timeout_s, write_timeout_s: limits of one call, in seconds. ttl_s: time to live of a user state after its last
    write, in seconds; None keeps all. ConfigError for an unusable URL or number, ServingError for a
    file that cannot be opened; Redis connects with the first call.
    """
    limits = {"read_timeout_s": (read_timeout_s, 1e-3, 600.0), "write_timeout_s": (write_timeout_s, 1e-3, 600.0)}
    check_ranges("state", **limits, **({} if ttl_s is None else {"ttl_s": (ttl_s, 1.0, 1e9)}))
    return StateStore(open_store(server, read_timeout_s, write_timeout_s, ttl_s), spec, exposure)


def open_store(server: Server, read_timeout_s: float, write_timeout_s: float, ttl_s: float | None) -> KeyValueStore:
    """Open the key-value store behind the same URL; its rows are encrypted where a key is configured."""
    store, key = _plain_store(server, read_timeout_s, write_timeout_s, ttl_s), configured_encryption_key()
    return store if key is None else EncryptedStore(store, key)


def _plain_store(server: Server, read_timeout_s: float, write_timeout_s: float, ttl_s: float | None) -> KeyValueStore:
    url = server.url
    if url.startswith(SQLITE) and url != SQLITE:
        return SqliteStore(Path(url.removeprefix(SQLITE)), timeout_s=write_timeout_s, ttl_s=ttl_s)
    if url.startswith(REDIS):
        return RedisStore(server, read_timeout_s=read_timeout_s, write_timeout_s=write_timeout_s, ttl_s=ttl_s)
    raise ConfigError(f"the state store is {url!r}; give sqlite:///path or redis://host:port")
