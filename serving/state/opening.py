"""One URL says which store holds the user states."""

from pathlib import Path

from recsys.errors import ConfigError, check_ranges
from recsys.features.spec import FeatureSpec
from serving.state.contract import Table
from serving.state.exposure import Amortised
from serving.state.redis import RedisTable
from serving.state.sqlite import SqliteTable
from serving.state.states import States

SQLITE = "sqlite:///"


def open_states(
    url: str,
    spec: FeatureSpec,
    *,
    exposure: Amortised,
    read_timeout_s: float,
    write_timeout_s: float,
    ttl_s: float | None,
) -> States:
    """The store at `sqlite:///runs/states.db` (`sqlite:////` before an absolute path) or `redis://host:port`.

    read_timeout_s, write_timeout_s: limits of one call, in seconds. ttl_s: a user who was not written for so long is
    forgotten, in seconds; None keeps everybody, as the store in a file always does. ConfigError for what cannot be used,
    ServingError for a file that cannot be opened; Redis is asked with the first call only.
    """
    limits = {"read_timeout_s": (read_timeout_s, 1e-3, 600.0), "write_timeout_s": (write_timeout_s, 1e-3, 600.0)}
    check_ranges("state", **limits, **({} if ttl_s is None else {"ttl_s": (ttl_s, 1.0, 1e9)}))
    return States(open_table(url, read_timeout_s, write_timeout_s, ttl_s), spec, exposure)


def open_table(url: str, read_timeout_s: float, write_timeout_s: float, ttl_s: float | None) -> Table:
    """The table behind the same URL."""
    if url.startswith(SQLITE) and url != SQLITE:
        if ttl_s is not None:
            raise ConfigError(f"state.ttl_s is {ttl_s!r}, but the store in a file keeps everybody; leave it out")
        return SqliteTable(Path(url.removeprefix(SQLITE)), timeout_s=write_timeout_s)
    if url.startswith("redis://"):
        return RedisTable(url, read_timeout_s=read_timeout_s, write_timeout_s=write_timeout_s, ttl_s=ttl_s)
    raise ConfigError(f"the state store is {url!r}; give sqlite:///path or redis://host:port")
