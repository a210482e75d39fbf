"""`python -m serving keys`: what is printed, what is kept, and what a mistake says."""

import re
import stat
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from recsys.errors import ConfigError
from serving.__main__ import app
from serving.cli.keys import MAX_DAYS, duration, expiry
from serving.gateway.api_keys import hash_token, read_keys
from serving.gateway.key_file import create_key

DAY_S = 86_400.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "live" / "keys.json"


def run(path: Path, *words: str) -> list[str]:
    """Lines of a command that succeeds."""
    done = CliRunner().invoke(app, [*words, f"--keys={path}"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout.splitlines()


def token_of(lines: list[str]) -> str:
    word, token = lines[0].split()
    assert word == "key"
    assert token.startswith("rk_")
    return token


def test_a_key_is_created_with_all_that_is_given(path: Path) -> None:
    words = ["--name=shop", "--scopes=recommend,events", "--rate=20", "--burst=40", "--expires=90", "--tenant=acme"]
    before = time.time()
    lines = run(path, "keys", "create", *words)
    (key,) = read_keys(path)
    assert key.sha256 == hash_token(token_of(lines))
    assert (key.name, key.scopes, key.rate, key.burst, key.tenant) == (
        "shop",
        ("recommend", "events"),
        20.0,
        40,
        "acme",
    )
    assert key.expires is not None
    assert 0 <= key.expires - before - 90 * DAY_S < 60
    assert lines[-1] == f"next     python -m serving keys list --keys={path}"


def test_a_key_has_few_rights_where_nothing_is_given(path: Path) -> None:
    run(path, "keys", "create", "--name=shop")
    (key,) = read_keys(path)
    assert (key.scopes, key.expires, key.tenant) == (("recommend",), None, None)


def test_a_token_goes_into_a_file_and_not_to_the_screen(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "shop.key"
    text = "\n".join(run(path, "keys", "create", "--name=shop", f"--out={out}"))
    assert out.read_text().strip() not in text
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    with pytest.raises(ConfigError, match=r"shop\.key exists; name a new file"):
        run(path, "keys", "create", "--name=other", f"--out={out}")
    assert [key.name for key in read_keys(path)] == ["shop"]
    before = out.read_text()
    run(path, "keys", "rotate", "shop", f"--out={out}")
    assert out.read_text() != before
    assert hash_token(out.read_text().strip()) == read_keys(path)[0].sha256


def test_the_list_fits_80_columns_and_holds_no_secret(path: Path) -> None:
    tokens = [
        token_of(run(path, "keys", "create", "--name=" + "long-" * 6 + "xy", "--scopes=recommend,events,admin")),
        token_of(run(path, "keys", "create", "--name=shop", "--expires=90", "--tenant=acme", "--rate=1000")),
        token_of(run(path, "keys", "rotate", "shop", "--grace=15m")),
        create_key(path, name="ended", scopes=["events"], rate=1.0, burst=1, expires=DAY_S),
        create_key(path, name="first", scopes=["events"], rate=1.0, burst=1, token_file="first.key"),
    ]
    (path.parent / "first.key").unlink()
    done = subprocess.run(
        [sys.executable, "-m", "serving", "keys", "list", f"--keys={path}"], capture_output=True, text=True, check=True
    )
    assert max(map(len, done.stdout.splitlines()[:-1])) <= 80
    secrets = [*tokens, *(one for key in read_keys(path) for one in key.hashes)]
    assert not any(one in done.stdout for one in secrets)
    rows = " ".join(done.stdout.split())
    assert re.search(r"shop recommend acme 1000/s 200 20\d\d-\d\d-\d\d \d\d:\d\d valid;", rows)
    assert "previous token until" in re.sub(r" +", " ", rows)
    assert re.search(r"ended events 1/s 1 1970-01-02 00:00 ended", rows)
    assert "revoked:" in rows
    assert done.stdout.splitlines()[-1].startswith("next     python -m serving keys rotate ")


def test_a_list_without_keys_says_how_to_make_one(path: Path) -> None:
    run(path, "keys", "create", "--name=shop")
    lines = run(path, "keys", "revoke", "shop")
    assert lines[0].startswith("revoked  shop")
    assert run(path, "keys", "list") == [
        f"empty    {path} has no key",
        f"next     python -m serving keys create --name=shop --keys={path}",
    ]


def test_rotating_and_revoking_name_what_follows(path: Path) -> None:
    old = token_of(run(path, "keys", "create", "--name=shop"))
    lines = run(path, "keys", "rotate", "shop")
    (key,) = read_keys(path)
    assert key.sha256 == hash_token(token_of(lines))
    assert [one.sha256 for one in key.previous] == [hash_token(old)]
    assert lines[1].startswith("before   the present token is valid until ")
    assert lines[-1] == f"next     python -m serving keys list --keys={path}"


def test_the_earlier_spelling_prints_the_token_alone(path: Path) -> None:
    (token,) = run(path, "key", "shop", "--scope=recommend", "--scope=events")
    (key,) = read_keys(path)
    assert (key.sha256, key.scopes) == (hash_token(token), ("recommend", "events"))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["create", "--name=Shop"], "error: the key name 'Shop' is not usable; write 1 to 32 of a-z, 0-9 and -"),
        (["create", "--name=a", "--scopes=root"], "choose of recommend, events, admin"),
        (["create", "--name=a", "--scopes="], "choose of recommend, events, admin"),
        (["create", "--name=a", "--rate=0"], "key a.rate is 0.0; choose a number from 0.001"),
        (["create", "--name=a", "--tenant=a b"], "has the tenant 'a b'; write 1 to 64"),
        (["create", "--name=a", "--tenant=b", "--scopes=admin"], "give admin to a key without a tenant"),
        (["create", "--name=a", "--expires=2020-01-01"], "or a day to come, like 2027-01-31"),
        (["rotate", "nobody"], "does not exist; make a key with `python -m serving keys create"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(path: Path, words: list[str], sentence: str) -> None:
    command = [sys.executable, "-m", "serving", "keys", *words, f"--keys={path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not path.exists()


NOON = datetime(2026, 11, 30, 12, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("1", NOON + DAY_S),
        (str(MAX_DAYS), NOON + MAX_DAYS * DAY_S),
        ("2026-11-30", datetime(2026, 12, 1, tzinfo=UTC).timestamp()),
        ("2027-01-31", datetime(2027, 2, 1, tzinfo=UTC).timestamp()),
        ("9999-12-30", datetime(9999, 12, 31, tzinfo=UTC).timestamp()),
    ],
)
def test_an_end_is_days_from_now_or_after_a_day(text: str, end: float) -> None:
    assert expiry(text, NOON) == end


@pytest.mark.parametrize(
    "text", ["0", "-1", "36501", "99999999999", "2026-11-29", "2026-02-30", "9999-12-31T", "soon", "", "²"]
)
def test_any_other_end_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--expires is"):
        expiry(text, NOON)


@pytest.mark.parametrize(
    ("text", "seconds"), [("0s", 0.0), ("30s", 30.0), ("15m", 900.0), ("1h", 3_600.0), ("7d", 604_800.0)]
)
def test_a_grace_period_is_a_duration(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "1", "h", "-1h", "1.5h", "1w", "1h30m", "٣h"])
def test_any_other_duration_is_refused(text: Any) -> None:
    with pytest.raises(ConfigError, match="--grace is"):
        duration(text)
