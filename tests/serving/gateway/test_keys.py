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
from serving.gateway.api_keys import ApiKey, ApiKeys, PreviousToken, hash_token, read_keys
from serving.gateway.http_error import HTTPError
from serving.gateway.key_file import create_key, revoke_key, rotate_key
from serving.gateway.reloaded_keys import ReloadedKeys
from serving.gateway.token_bucket import TokenBucket
from serving.layout import DeploymentLayout
from serving.ops.bootstrap import bootstrap_key, next_command, unlimited_key_warning


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def key(name: str, token: str, *scopes: Any, rate: float = 1.0, burst: int = 2, **more: Any) -> ApiKey:
    scopes = scopes or ("recommend",)
    return ApiKey(name=name, sha256=hash_token(token), scopes=scopes, rate=rate, burst=burst, **more)


def status_of(keys: Any, header: str | None, scope: Any = "recommend") -> int:
    try:
        keys.admit(header, scope)
    except HTTPError as refusal:
        return refusal.status
    return 200


def made(path: Path, name: str, *scopes: Any, **more: Any) -> str:
    return create_key(path, name=name, scopes=scopes or ("recommend",), rate=5.0, burst=10, **more)


def opened(path: Path, **more: Any) -> ApiKeys:
    return ApiKeys(read_keys(path), clock=Clock(), **more)


def test_a_key_is_made_once_and_only_its_hash_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "secret" / "keys.json"
    token = made(path, "shop")
    other = made(path, "feed", "events", "admin")
    assert token != other
    assert token not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}
    keys = opened(path)
    assert keys.admit(f"Bearer {token}", "recommend").name == "shop"
    assert keys.admit(f"bearer {other}", "admin").name == "feed"
    with pytest.raises(ConfigError, match="has a key 'shop' already"):
        made(path, "shop")


def test_a_token_is_written_into_a_file_of_its_owner_before_its_key_is_valid(tmp_path: Path) -> None:
    path, out = tmp_path / "live" / "keys.json", tmp_path / "shop.key"
    token = made(path, "shop", out=out)
    assert out.read_text() == f"{token}\n"
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="File exists"):
        made(path, "other", out=tmp_path / "file" / "other.key")
    assert [one.name for one in read_keys(path)] == ["shop"]


def test_a_revoked_key_is_unknown_and_the_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    tokens = {name: made(path, name) for name in ("shop", "feed")}
    assert revoke_key(path, "shop").name == "shop"
    assert [status_of(opened(path), f"Bearer {one}") for one in tokens.values()] == [401, 200]
    with pytest.raises(ConfigError, match=r"has no key 'shop'; it has feed"):
        revoke_key(path, "shop")


def test_a_rotated_key_keeps_its_previous_token_for_the_grace_period(tmp_path: Path) -> None:
    path, clock = tmp_path / "keys.json", Clock()
    clock.now = 1_000.0
    first = made(path, "shop", now=clock)
    second = rotate_key(path, "shop", grace_s=60.0, now=clock)
    clock.now = 1_030.0
    third = rotate_key(path, "shop", grace_s=60.0, now=clock)
    keys = opened(path, now=clock)
    assert [status_of(keys, f"Bearer {one}") for one in (first, second, third)] == [200, 200, 200]
    clock.now = 1_060.0
    with pytest.raises(HTTPError, match=r"this API key ended on 1970-01-01 00:17 UTC; ask for a new one"):
        keys.admit(f"Bearer {first}", "recommend")
    assert [status_of(keys, f"Bearer {one}") for one in (second, third)] == [200, 200]
    rotate_key(path, "shop", grace_s=0.0, now=clock)
    clock.now = 1_061.0
    keys = opened(path, now=clock)
    assert [status_of(keys, f"Bearer {one}") for one in (first, second, third)] == [401, 200, 401]


def test_a_key_ends(tmp_path: Path) -> None:
    path, clock = tmp_path / "keys.json", Clock()
    token = made(path, "trial", expires=86_400.0)
    keys = opened(path, now=clock)
    clock.now = 86_399.0
    assert status_of(keys, f"Bearer {token}") == 200
    clock.now = 86_400.0
    with pytest.raises(HTTPError, match=r"this API key ended on 1970-01-02 00:00 UTC; ask for a new one") as refused:
        keys.admit(f"Bearer {token}", "recommend")
    assert refused.value.status == 401
    rotate_key(path, "trial", grace_s=1e6)
    assert status_of(opened(path, now=clock), f"Bearer {token}") == 401  # a rotation prolongs nothing


def test_the_key_of_the_owner_may_not_change_the_catalogue_and_dies_with_its_file(tmp_path: Path) -> None:
    layout = DeploymentLayout(serve=tmp_path, live=tmp_path / "live")
    token = bootstrap_key(layout)
    assert token is not None
    assert bootstrap_key(layout) == token
    assert unlimited_key_warning(layout) is None
    assert stat.S_IMODE(layout.first_key.stat().st_mode) == 0o600
    keys = ReloadedKeys(layout.keys, clock=Clock())
    assert [status_of(keys, f"Bearer {token}", one) for one in ("recommend", "events", "admin")] == [200, 200, 403]
    assert f"$(cat '{layout.first_key}')" in next_command(layout, "http://127.0.0.1:8080", "u")
    layout.first_key.unlink()
    assert status_of(ReloadedKeys(layout.keys, clock=Clock()), f"Bearer {token}") == 401
    assert bootstrap_key(layout) is None
    assert not layout.first_key.exists()
    command = next_command(layout, "http://127.0.0.1:8080", "u")
    assert command == f"next     python -m serving keys list --keys={layout.keys}"


def test_revoking_the_key_of_the_owner_removes_its_file(tmp_path: Path) -> None:
    layout = DeploymentLayout(serve=tmp_path, live=tmp_path / "live")
    bootstrap_key(layout)
    rotate_key(layout.keys, "first", grace_s=0.0)
    token = bootstrap_key(layout)
    assert status_of(ReloadedKeys(layout.keys, clock=Clock()), f"Bearer {token}") == 200
    revoke_key(layout.keys, "first")
    assert not layout.first_key.exists()
    assert bootstrap_key(layout) is None


def test_a_key_of_an_earlier_version_that_may_do_everything_is_named(tmp_path: Path) -> None:
    layout = DeploymentLayout(serve=tmp_path, live=tmp_path / "live")
    layout.make_live()
    old = {"name": "first", "sha256": hash_token("old"), "scopes": ["recommend", "events", "admin"]}
    layout.keys.write_text(json.dumps({"keys": [{**old, "rate": 10_000.0, "burst": 10_000}]}))
    layout.first_key.write_text("old\n")
    assert bootstrap_key(layout) == "old"
    assert "keys revoke first" in (unlimited_key_warning(layout) or "")
    revoke_key(layout.keys, "first")
    assert bootstrap_key(layout) is None
    assert unlimited_key_warning(layout) is None


def test_keys_made_at_once_are_all_there(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    with ThreadPoolExecutor(8) as pool:
        tokens = [pool.submit(made, path, f"k{number}") for number in range(16)]
    assert len({one.result() for one in tokens}) == 16
    assert {one.name for one in read_keys(path)} == {f"k{number}" for number in range(16)}


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
        "Bearer one" + 300 * "x",
    ):
        assert status_of(keys, header) == 401


def test_every_token_costs_one_comparison_whichever_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a match nor the number of keys may be read from the number of comparisons."""
    compared: list[tuple[bytes, bytes]] = []

    def counted(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return real(one, other)

    real = hmac.compare_digest
    keys = ApiKeys([key(f"k{number}", f"token-{number}", burst=9) for number in range(5)], clock=Clock())
    monkeypatch.setattr("serving.gateway.api_keys.hmac.compare_digest", counted)
    for token in ("token-0", "token-4", "none", "", "x" * 300):
        compared.clear()
        status_of(keys, f"Bearer {token}")
        assert len(compared) == 1
        assert {len(text) for pair in compared for text in pair} == {32}


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


@pytest.mark.parametrize(("rate", "burst", "admitted"), [(1.0, 5, 2), (9.0, 5, 2), (1.0, 1, 1), (1.0, 50, 2)])
def test_a_changed_limit_gives_no_new_burst(rate: float, burst: int, admitted: int) -> None:
    clock = Clock()
    before = ApiKeys([key("a", "one", burst=5)], clock=clock)
    for _ in range(3):
        before.admit("Bearer one", "recommend")
    after = ApiKeys([key("a", "one", rate=rate, burst=burst)], clock=clock, before=before)
    assert [status_of(after, "Bearer one") for _ in range(3)] == [200] * admitted + [429] * (3 - admitted)


def test_both_tokens_of_a_rotated_key_share_its_rate() -> None:
    before = PreviousToken(sha256=hash_token("old"), until=10.0)
    keys = ApiKeys([key("a", "new", previous=(before,))], clock=Clock(), now=Clock())
    assert [status_of(keys, f"Bearer {one}") for one in ("old", "new", "old")] == [200, 200, 429]


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


VALID = {"name": "a", "sha256": "0" * 64, "scopes": ["events"], "rate": 1.0, "burst": 1}


def document(**changes: Any) -> str:
    return json.dumps({"keys": [{**VALID, **changes}]})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no file of API keys"),
        ("[]", "no file of API keys"),
        ("{}", "the field 'keys' is missing"),
        ("[" * 100_000, "no file of API keys"),
        (json.dumps({"keys": [{"name": "a"}]}), r"keys\[0\] lacks the field 'sha256'"),
        (json.dumps({"version": 3, "keys": []}), "this release reads the versions up to 2"),
        (document(name="A b"), "name"),
        (document(sha256="plain"), "sha256"),
        (document(previous=[{"sha256": "plain", "until": 0.0}]), "sha256"),
        (document(scopes=["root"]), "scopes"),
        (document(scopes="events"), "scopes is 'events'"),
        (document(rate=0.0), "rate"),
        (document(expires="tomorrow"), "expires is 'tomorrow'"),
        (document(expires=1e300), "expires"),
        (document(tenant="a:b"), "tenant 'a:b'"),
        (document(tenant="a", scopes=["admin"]), "give admin to a key without a tenant"),
        (document(token_file="../first.key"), "token file"),
        (document(more=1), "unknown field"),
    ],
)
def test_a_file_that_is_wrong_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "keys.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_keys(tmp_path / "keys.json")


def test_a_file_of_other_bytes_is_refused_without_quoting_them(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_bytes(document().encode() + b"\xff")
    with pytest.raises(ConfigError, match="it holds no UTF-8") as refused:
        read_keys(tmp_path / "keys.json")
    assert VALID["sha256"] not in str(refused.value)


def test_a_file_of_the_first_version_is_read(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(document(sha256=hash_token("token")))
    assert opened(path).admit("Bearer token", "events").tenant is None
    made(path, "new")
    assert [one.name for one in read_keys(path)] == ["a", "new"]
    assert json.loads(path.read_text())["version"] == 2


def test_a_file_that_is_absent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"does not exist; make a key with `python -m serving keys create"):
        read_keys(tmp_path / "keys.json")


def test_two_keys_of_one_name_or_token_are_refused() -> None:
    with pytest.raises(ConfigError, match="two keys are called 'a'"):
        ApiKeys([key("a", "one"), key("a", "two")], clock=Clock())
    with pytest.raises(ConfigError, match="two keys have the same token"):
        ApiKeys([key("a", "one"), key("b", "one")], clock=Clock())
