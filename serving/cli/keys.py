"""`python -m serving keys`: create, list, revoke and rotate API keys. Running gateways follow within a second."""

import re
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from shlex import quote
from typing import Annotated, cast

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from recsys.errors import ConfigError
from serving.gateway.api_keys import ApiKey, Scope, read_keys, token_file_missing, utc_text
from serving.gateway.key_file import create_key, revoke_key, rotate_key

keys = typer.Typer(no_args_is_help=True, help="Create, list, revoke and rotate API keys while gateways run.")
console = Console()

DAY_S = 86_400.0
UNITS_S = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": DAY_S}
MAX_DAYS = 36_500
_DURATION = re.compile(r"([0-9]{1,6})([smhd])")

KeysPath = Annotated[Path, typer.Option(help="keys.json of the gateways, in `live`; made if absent")]
Name = Annotated[str, typer.Option(help="name of the key: 1 to 32 of a-z, 0-9 and -")]
KeyName = Annotated[str, typer.Argument(help="name of the key")]
Rate = Annotated[float, typer.Option(help="sustained requests a second")]
Burst = Annotated[int, typer.Option(help="burst of requests")]
TokenFile = Annotated[
    Path | None, typer.Option("--out", help="file for the token, readable by its owner; else it is printed")
]


@keys.command()
def create(
    name: Name,
    keys: KeysPath,
    scopes: Annotated[list[str], typer.Option(help="recommend, events, admin; by commas or repeated")] = ["recommend"],  # noqa: B006
    rate: Rate = 100.0,
    burst: Burst = 200,
    expires: Annotated[str | None, typer.Option(help="days, or the last day in UTC, 2027-01-31; else never")] = None,
    tenant: Annotated[str | None, typer.Option(help="the key sees and writes only users of this tenant")] = None,
    out: TokenFile = None,
) -> None:
    """Create an API key. Its token is shown once and stored only as a hash."""
    if out is not None and out.exists():
        raise ConfigError(f"{out} exists; name a new file for the token")
    token = create_key(
        keys,
        name=name,
        scopes=split_scopes(scopes),
        rate=rate,
        burst=burst,
        expires=None if expires is None else expiry(expires, time.time()),
        tenant=tenant,
        out=out,
    )
    _print_line("key", token if out is None else f"in {out}")
    _print_line("kept", f"only its hash, in {keys}; running gateways know the key within a second")
    _next("list", keys)


@keys.command("list")
def list_keys(keys: KeysPath) -> None:
    """List names, scopes, tenants, limits and ends of all keys; tokens are known to nobody."""
    found = read_keys(keys)
    if not found:
        _print_line("empty", f"{keys} has no key")
        _next("create --name=shop", keys)
        return
    console.print(_table(keys, found, time.time()))
    _next(f"rotate {found[-1].name}", keys)


@keys.command()
def revoke(name: KeyName, keys: KeysPath) -> None:
    """Revoke a key; running gateways refuse it within a second."""
    key = revoke_key(keys, name)
    _print_line("revoked", f"{name}; running gateways refuse it within a second")
    if key.token_file is not None:
        _print_line("removed", str(keys.parent / key.token_file))
    _next("list", keys)


@keys.command()
def rotate(
    name: KeyName,
    keys: KeysPath,
    grace: Annotated[str, typer.Option(help="validity of the present token: 30s, 15m, 1h, 7d")] = "1h",
    out: TokenFile = None,
) -> None:
    """Give a key a new token; the present one stays valid for a while, so that its user can change over."""
    grace_s = duration(grace)
    token = rotate_key(keys, name, grace_s=grace_s, out=out)
    _print_line("key", token if out is None else f"in {out}")
    _print_line("before", f"the present token is valid until {utc_text(time.time() + grace_s)}")
    _next("list", keys)


def split_scopes(texts: list[str]) -> list[Scope]:
    """Return scopes from options that name one or several by commas."""
    names = [name.strip() for text in texts for name in text.split(",")]
    return cast(list[Scope], [name for name in names if name])


def expiry(text: str, now: float) -> float:
    """Return the end of a key in unix seconds: so many days from now, or after the day of a date. ConfigError otherwise."""
    refused = f"--expires is {text!r}; give 1 to {MAX_DAYS:,} days, or a day to come, like 2027-01-31"
    if text.isascii() and text.isdigit():
        if not 1 <= int(text[:9]) <= MAX_DAYS:
            raise ConfigError(refused)
        return now + int(text) * DAY_S
    try:
        last = date.fromisoformat(text)
    except ValueError:
        raise ConfigError(refused) from None
    end = datetime(last.year, last.month, last.day, tzinfo=UTC).timestamp() + timedelta(days=1).total_seconds()
    if end <= now:
        raise ConfigError(refused)
    return end


def duration(text: str) -> float:
    """Return seconds of a duration like 15m. ConfigError otherwise."""
    if (found := _DURATION.fullmatch(text)) is None:
        raise ConfigError(f"--grace is {text!r}; give a number of seconds, minutes, hours or days: 30s, 15m, 1h, 7d")
    return int(found[1]) * UNITS_S[found[2]]


def _table(path: Path, found: tuple[ApiKey, ...], now: float) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("name", "scopes", "tenant", "rate", "burst", "ends (UTC)", "state"):
        number, ends = heading in ("rate", "burst"), heading == "ends (UTC)"
        table.add_column(
            heading,
            justify="right" if number else "left",
            no_wrap=number or ends,
            min_width=16 if ends else 0,
            overflow="fold",
        )
    for key in found:
        cells = (
            key.name,
            " ".join(key.scopes),
            key.tenant or "",
            f"{key.rate:g}/s",
            f"{key.burst:,}",
            _ends(key.expires),
        )
        table.add_row(*map(Text, (*cells, _state(path, key, now))))
    return table


def _ends(timestamp: float | None) -> str:
    return "never" if timestamp is None else utc_text(timestamp).removesuffix(" UTC")


def _state(path: Path, key: ApiKey, now: float) -> str:
    if token_file_missing(path, key):
        return f"revoked: {key.token_file} was removed"
    if key.expires is not None and key.expires <= now:
        return "ended"
    before = [one.until for one in key.previous if one.until > now]
    return f"valid; previous token until {_ends(max(before))}" if before else "valid"


def _print_line(word: str, sentence: str) -> None:
    console.print(Text(f"{word:<9}{sentence}"), soft_wrap=True)


def _next(command: str, path: Path) -> None:
    text = f"next     python -m serving keys {command} --keys={quote(str(path))}"
    console.print(Text(text), style="bold", soft_wrap=True)


def key(
    name: Annotated[str, typer.Argument(help="name of the key's user")],
    keys: Annotated[Path, typer.Option(help="keys.json of a gateway")],
    scope: Annotated[list[str], typer.Option(help="recommend, events or admin; repeatable")],
    rate: Annotated[float, typer.Option(help="sustained requests a second")] = 100.0,
    burst: Annotated[int, typer.Option(help="burst of requests")] = 200,
) -> None:
    """Create an API key, as `keys create`: the earlier spelling, read for one release."""
    console.print(create_key(keys, name=name, scopes=split_scopes(scope), rate=rate, burst=burst), soft_wrap=True)
