"""Signed publications: where a public key is configured unsigned rules are refused, and the last good ones go on serving."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from recsys.cli.main import app
from recsys.errors import ConfigError
from recsys.policy.rules import RuleSet
from recsys.policy.rules.audit import Head
from recsys.policy.rules.hot_reload import ActiveVersion, HotReloader
from recsys.policy.rules.last_good import FILE, KeptRules, LastGoodRules, _document
from recsys.policy.rules.store import SIGNATURES, RuleStore
from recsys.signatures import PUBLIC_KEY, write_keys

pytest.importorskip("cryptography")

OWN = "the bundle's own"
PATIENCE_S = 60


def text(year: int) -> str:
    return f"rules: [{{name: a, must: 'not year < {year}'}}]"


def version(year: int) -> str:
    return RuleSet.parse(text(year)).hash


def build(rules: RuleSet | None) -> str:
    return OWN if rules is None else rules.hash


@pytest.fixture
def key(tmp_path: Path) -> Path:
    write_keys(private := tmp_path / "rules.key")
    return private


@pytest.fixture
def store(tmp_path: Path) -> RuleStore:
    return RuleStore(tmp_path / "rules")


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch, key: Path) -> Callable[[], None]:
    """From its call on only signed rules serve."""
    return lambda: monkeypatch.setenv(PUBLIC_KEY, f"{key}.pub")


@pytest.fixture
def start(tmp_path: Path, store: RuleStore) -> Callable[[], HotReloader[str]]:
    """A process that starts."""
    return lambda: HotReloader(RuleStore(store.folder), build, None, LastGoodRules(tmp_path / "last_good"))


def publish(store: RuleStore, year: int, key: Path | None) -> Head:
    head = store.head()
    entry = store.publish(text(year), who="ann", why="x", expected=head.version if head else None, key=key)
    return Head.of(entry)


def until(reloader: HotReloader[str], expected: Callable[[ActiveVersion[str]], bool]) -> ActiveVersion[str]:
    deadline = time.monotonic() + PATIENCE_S
    while not expected(active := reloader.current()):
        assert time.monotonic() < deadline, active
    return active


def test_signed_rules_serve_and_an_unsigned_change_leaves_them(
    store: RuleStore, key: Path, strict: Callable[[], None], start: Callable[[], HotReloader[str]]
) -> None:
    publish(store, 2, key)
    publish(RuleStore(store.folder), 4, None)
    store.rollback(who="ann", why="x", key=key)
    strict()
    reloader = start()
    assert (reloader.current().value, reloader.current().stale) == (version(2), False)
    smuggle(store, 6)
    assert until(reloader, lambda active: active.stale).value == version(2)
    restarted = start().current()
    assert (restarted.value, restarted.stale, restarted.lost) == (version(2), True, False)


def smuggle(store: RuleStore, year: int) -> None:
    """Publish as somebody does who can write the folder and has no key: no public key keeps his own tools from it."""
    with pytest.MonkeyPatch.context() as elsewhere:
        elsewhere.delenv(PUBLIC_KEY, raising=False)
        publish(store, year, None)


def copied_signature(store: RuleStore, signed: Head, unsigned: Head) -> None:
    shutil.copy(
        store.folder / SIGNATURES / f"{signed.sha256}.sig", store.folder / SIGNATURES / f"{unsigned.sha256}.sig"
    )


def signature_of_another_key(store: RuleStore, _: Head, __: Head) -> None:
    write_keys(other := store.folder.parent / "other.key")
    store.sign(other)


def foreign_text(store: RuleStore, signed: Head, unsigned: Head) -> None:
    """The signed version names the text of the unsigned one."""
    shutil.copy(
        store.folder / SIGNATURES / f"{signed.sha256}.sig", store.folder / SIGNATURES / f"{unsigned.sha256}.sig"
    )
    (store.folder / "HEAD").write_bytes(replace(signed, text=unsigned.text, version=unsigned.version).data)


def no_signature(store: RuleStore, _: Head, unsigned: Head) -> None:
    (store.folder / SIGNATURES / f"{unsigned.sha256}.sig").write_bytes(b"\xff no base64")


@pytest.mark.parametrize("forge", [copied_signature, signature_of_another_key, foreign_text, no_signature])
def test_a_forgery_never_serves(
    store: RuleStore,
    key: Path,
    strict: Callable[[], None],
    start: Callable[[], HotReloader[str]],
    forge: Callable[[RuleStore, Head, Head], None],
) -> None:
    signed = publish(store, 2, key)
    start()
    forge(store, signed, publish(store, 4, None))
    strict()
    active = start().current()
    assert (active.value, active.stale) == (version(2), True)
    with pytest.raises(ConfigError):
        store.verify()


def test_where_nothing_is_signed_no_slate_is_served_but_the_bundle_s_rules_stay_where_they_served(
    store: RuleStore, strict: Callable[[], None], start: Callable[[], HotReloader[str]], tmp_path: Path
) -> None:
    start()  # the bundle's own rules serve, and the copy says so
    strict()
    smuggle(store, 4)
    active = start().current()
    assert (active.value, active.stale, active.lost) == (OWN, True, False)
    shutil.rmtree(tmp_path / "last_good")
    assert start().current().lost


def test_a_forged_copy_is_left_out(
    store: RuleStore, key: Path, strict: Callable[[], None], start: Callable[[], HotReloader[str]], tmp_path: Path
) -> None:
    publish(store, 2, key)
    start()
    strict()
    shutil.rmtree(store.folder)
    assert start().current().value == version(2)
    copy = LastGoodRules(tmp_path / "last_good").read()
    assert copy is not None
    for forged in (replace(copy, text=text(8)), KeptRules(published=True, text=text(8))):
        (tmp_path / "last_good" / FILE).write_text(json.dumps(_document(forged)))
        assert start().current().lost


def test_nothing_unsigned_is_published_where_a_public_key_is_configured(
    store: RuleStore, key: Path, strict: Callable[[], None]
) -> None:
    strict()
    with pytest.raises(ConfigError, match="is not signed; publish with --key"):
        publish(store, 2, None)
    assert store.history() == ()
    write_keys(other := key.with_name("other.key"))
    with pytest.raises(ConfigError, match="is not by the key"):
        publish(store, 2, other)
    publish(store, 2, key)
    publish(store, 4, key)
    with pytest.raises(ConfigError, match="is not signed"):
        store.rollback(who="ann", why="x")
    assert [entry.version for entry in store.verify()] == [version(2), version(4)]


def test_rules_that_serve_already_can_be_signed_unless_they_were_altered(
    store: RuleStore, key: Path, strict: Callable[[], None], start: Callable[[], HotReloader[str]]
) -> None:
    publish(store, 2, None)
    publish(store, 4, None)
    altered = store.folder / "objects" / f"{store.history()[0].text}.yaml"
    before = altered.read_bytes()
    altered.chmod(0o600)
    altered.write_bytes(b"rules: []")
    with pytest.raises(ConfigError, match="was altered"):
        store.sign(key)
    altered.write_bytes(before)
    store.sign(key)
    strict()
    assert (start().current().value, start().current().stale) == (version(4), False)


def test_a_signature_covers_the_log_before_it(store: RuleStore, key: Path, strict: Callable[[], None]) -> None:
    """Another author of an older change gives another chain, so another HEAD."""
    publish(store, 2, None)
    honest = publish(store, 4, key)
    first, last = store.history()
    forged = replace(first, who="bob")
    relinked = Head.of(replace(last, previous=forged.sha256))
    strict()
    assert store.signed(honest).signature is not None
    with pytest.raises(ConfigError, match="is not signed"):
        store.signed(relinked)
    assert {**asdict(relinked), "sha256": honest.sha256} == asdict(honest)


def test_the_commands_sign(tmp_path: Path, key: Path, strict: Callable[[], None]) -> None:
    rules = tmp_path / "rules.yaml"
    where = ["--store", str(tmp_path / "rules")]
    run = CliRunner().invoke
    rules.write_text(text(2))
    assert run(app, ["rules", "publish", str(rules), *where, "--why", "x"]).exit_code == 0
    strict()
    assert run(app, ["rules", "verify", *where]).exit_code != 0
    assert run(app, ["rules", "sign", *where, "--key", str(key)]).exit_code == 0
    assert run(app, ["rules", "verify", *where]).exit_code == 0
    rules.write_text(text(4))
    published = ["rules", "publish", str(rules), *where, "--why", "x", "--from", version(2)]
    assert run(app, published).exit_code != 0
    assert run(app, [*published, "--key", str(key)]).exit_code == 0
    undone = ["rules", "rollback", *where, "--why", "x"]
    assert run(app, undone).exit_code != 0
    assert run(app, [*undone, "--key", str(key)]).exit_code == 0
    assert RuleStore(tmp_path / "rules").verify()[-1].version == version(2)
