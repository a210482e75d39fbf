"""API keys: what the file holds, who is admitted, how often."""

import hmac
import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import ConfigError
from serving.bootstrap import bootstrap_key
from serving.gateway.api_keys import ApiKey, ApiKeys, TokenBucket, create_key, hash_token, read_keys
from serving.gateway.http_error import HTTPError
from serving.layout import DeploymentLayout


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def key(name: str, token: str, *scopes: Any, rate: float = 1.0, burst: int = 2) -> ApiKey:
    return ApiKey(name=name, sha256=hash_token(token), scopes=scopes or ("recommend",), rate=rate, burst=burst)


def status_of(keys: ApiKeys, header: str | None, scope: Any = "recommend") -> int:
    try:
        keys.admit(header, scope)
    except HTTPError as refusal:
        return refusal.status
    return 200


def test_a_key_is_made_once_and_only_its_hash_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "secret" / "keys.json"
    token = create_key(path, name="shop", scopes=["recommend"], rate=5.0, burst=10)
    other = create_key(path, name="feed", scopes=["events", "admin"], rate=5.0, burst=10)
    assert token != other
    assert token not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    keys = ApiKeys(read_keys(path), clock=Clock())
    assert keys.admit(f"Bearer {token}", "recommend") == "shop"
    assert keys.admit(f"bearer {other}", "admin") == "feed"
    with pytest.raises(ConfigError, match="has a key 'shop' already"):
        create_key(path, name="shop", scopes=["recommend"], rate=5.0, burst=10)


def test_a_key_may_take_the_place_of_one_whose_token_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "live" / "keys.json"
    lost = create_key(path, name="first", scopes=["recommend"], rate=5.0, burst=10)
    other = create_key(path, name="shop", scopes=["recommend"], rate=5.0, burst=10)
    token = create_key(path, name="first", scopes=["recommend"], rate=5.0, burst=10, replace=True)
    keys = ApiKeys(read_keys(path), clock=Clock())
    assert [status_of(keys, f"Bearer {one}") for one in (lost, other, token)] == [401, 200, 200]
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_the_first_token_comes_back_when_its_file_is_gone(tmp_path: Path) -> None:
    place = DeploymentLayout(serve=tmp_path, live=tmp_path / "live")
    lost = bootstrap_key(place)
    assert bootstrap_key(place) == lost
    place.first_key.unlink()
    token = bootstrap_key(place)
    keys = ApiKeys(read_keys(place.keys), clock=Clock())
    assert [status_of(keys, f"Bearer {one}") for one in (lost, token)] == [401, 200]


def test_keys_made_at_once_are_all_there(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    with ThreadPoolExecutor(8) as pool:
        made = [
            pool.submit(create_key, path, name=f"k{place}", scopes=["recommend"], rate=1.0, burst=1)
            for place in range(16)
        ]
    assert len({one.result() for one in made}) == 16
    assert {one.name for one in read_keys(path)} == {f"k{place}" for place in range(16)}


def test_who_may_do_what() -> None:
    keys = ApiKeys([key("a", "one", "recommend"), key("b", "two", "events")], clock=Clock())
    assert status_of(keys, "Bearer one") == 200
    assert status_of(keys, "Bearer one", "events") == 403
    assert status_of(keys, "Bearer two", "events") == 200
    for header in (
        None,
        "",
        "one",
        "Basic one",
        "Bearer ",
        "Bearer three",
        "Bearer One",
        "Bearer one two",
        "Bearer \udcff",
    ):
        assert status_of(keys, header) == 401


def test_every_key_is_compared_whichever_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a match nor its place may be told from the number of comparisons."""
    compared: list[tuple[str, str]] = []

    def counted(one: str, other: str) -> bool:
        compared.append((one, other))
        return real(one, other)

    real = hmac.compare_digest
    keys = ApiKeys([key(f"k{place}", f"token-{place}", burst=9) for place in range(5)], clock=Clock())
    monkeypatch.setattr("serving.gateway.api_keys.hmac.compare_digest", counted)
    for token in ("token-0", "token-4", "none", ""):
        compared.clear()
        status_of(keys, f"Bearer {token}")
        assert len(compared) == 5
        assert {len(text) for pair in compared for text in pair} == {64}


def test_a_key_that_asks_too_often_is_told_when_to_come_again() -> None:
    clock = Clock()
    keys = ApiKeys([key("a", "one", rate=0.5, burst=2), key("b", "two")], clock=clock)
    assert [status_of(keys, "Bearer one") for _ in range(3)] == [200, 200, 429]
    with pytest.raises(HTTPError) as refused:
        keys.admit("Bearer one", "recommend")
    assert refused.value.retry_after_s == pytest.approx(2.0)
    assert status_of(keys, "Bearer two") == 200  # its own bucket
    clock.now = 1.9
    assert status_of(keys, "Bearer one") == 429
    clock.now = 2.0
    assert status_of(keys, "Bearer one") == 200


@settings(deadline=None)
@given(st.lists(st.floats(0.0, 5.0), max_size=80), st.floats(0.1, 10.0), st.integers(1, 10))
def test_no_window_admits_more_than_burst_and_rate(pauses: list[float], rate: float, burst: int) -> None:
    clock = Clock()
    bucket = TokenBucket(rate=rate, burst=burst, clock=clock)
    admitted = []
    for pause in pauses:
        clock.now += pause
        if not bucket.wait():
            admitted.append(clock.now)
    for first, start in enumerate(admitted):
        for last, end in enumerate(admitted[first:]):
            assert last + 1 <= burst + rate * (end - start) + 1e-6


@settings(deadline=None)
@given(st.floats(0.1, 10.0), st.integers(1, 10))
def test_who_waits_as_long_as_told_is_admitted(rate: float, burst: int) -> None:
    clock = Clock()
    bucket = TokenBucket(rate=rate, burst=burst, clock=clock)
    for _ in range(burst):
        assert not bucket.wait()
    clock.now += bucket.wait() * (1 + 1e-9) + 1e-9
    assert not bucket.wait()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no file of API keys"),
        ("{}", "no file of API keys"),
        (json.dumps({"keys": [{"name": "a"}]}), "no file of API keys"),
        (
            json.dumps({"keys": [{"name": "A b", "sha256": "0" * 64, "scopes": ["events"], "rate": 1.0, "burst": 1}]}),
            "name",
        ),
        (
            json.dumps({"keys": [{"name": "a", "sha256": "plain", "scopes": ["events"], "rate": 1.0, "burst": 1}]}),
            "sha256",
        ),
        (
            json.dumps({"keys": [{"name": "a", "sha256": "0" * 64, "scopes": ["root"], "rate": 1.0, "burst": 1}]}),
            "scopes",
        ),
        (
            json.dumps({"keys": [{"name": "a", "sha256": "0" * 64, "scopes": ["events"], "rate": 0.0, "burst": 1}]}),
            "rate",
        ),
    ],
)
def test_a_file_that_is_wrong_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "keys.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_keys(tmp_path / "keys.json")


def test_a_file_that_is_absent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        read_keys(tmp_path / "keys.json")


def test_two_keys_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="two keys are called 'a'"):
        ApiKeys([key("a", "one"), key("a", "two")], clock=Clock())
