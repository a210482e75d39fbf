"""What a start takes whose rule store is missing or damaged: the copy of what served last, or nothing that may serve."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from recsys.errors import ConfigError
from recsys.policy.rules import RuleSet
from recsys.policy.rules.audit import HEAD, LOG
from recsys.policy.rules.hot_reload import ActiveVersion, HotReloader
from recsys.policy.rules.last_good import FILE, KeptRules, LastGoodRules
from recsys.policy.rules.store import RuleStore

OWN = "the bundle's own"


def build(rules: RuleSet | None) -> str:
    """Make the hash of a rule set; those of a rule called "misfit" do not fit."""
    if rules is not None and rules.rules and rules.rules[0].name == "misfit":
        raise ConfigError("it does not fit")
    return OWN if rules is None else rules.hash


def text(year: int, name: str = "a") -> str:
    return f"# a comment\nrules: [{{name: {name}, must: 'not year < {year}'}}]"


def version(year: int) -> str:
    return RuleSet.parse(text(year)).hash


@pytest.fixture
def store(tmp_path: Path) -> RuleStore:
    return RuleStore(tmp_path / "rules")


@pytest.fixture
def start(tmp_path: Path, store: RuleStore) -> Callable[[], HotReloader[str]]:
    """A process that starts."""
    return lambda: HotReloader(RuleStore(store.folder), build, None, LastGoodRules(tmp_path / "last_good"))


def publish(store: RuleStore, document: str) -> None:
    head = store.head()
    store.publish(document, who="ann", why="x", expected=head.version if head else None)


def remove(folder: Path) -> None:
    shutil.rmtree(folder)


def empty(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            file.unlink()


def truncate(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(0o600)
            file.write_bytes(b"")


def lose_head(folder: Path) -> None:
    (folder / HEAD).unlink()
    (folder / LOG).write_bytes(b"{}\n")


def lose_texts(folder: Path) -> None:
    shutil.rmtree(folder / "objects")


DAMAGES = [remove, empty, truncate, lose_head, lose_texts]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_start_without_the_store_takes_what_served_last(
    store: RuleStore, start: Callable[[], HotReloader[str]], damage: Callable[[Path], None]
) -> None:
    publish(store, text(2))
    publish(store, text(4))
    assert start().current() == ActiveVersion(value=version(4), text=store.history()[1].text)
    damage(store.folder)
    for _ in range(2):
        served = start().current()
        assert (served.value, served.stale, served.lost) == (version(4), True, False)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_running_process_goes_on_with_what_it_has(
    store: RuleStore, start: Callable[[], HotReloader[str]], damage: Callable[[Path], None]
) -> None:
    publish(store, text(2))
    follower = start()
    damage(store.folder)
    follower._reload()
    served = follower.current()
    assert (served.value, served.lost) == (version(2), False)


@pytest.mark.parametrize("damage", [truncate, lose_head, lose_texts])
def test_where_nothing_is_left_nothing_may_serve_and_not_after_the_ruins_are_cleared_away(
    store: RuleStore, start: Callable[[], HotReloader[str]], damage: Callable[[Path], None]
) -> None:
    publish(store, text(2))
    damage(store.folder)
    follower = start()
    assert follower.current().lost
    remove(store.folder)
    follower._reload()
    assert follower.current().lost
    assert start().current().lost
    publish(RuleStore(store.folder), text(6))
    follower._reload()
    assert (follower.current().value, follower.current().lost) == (version(6), False)
    assert start().current().value == version(6)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"published": true, "text": "rules: []", "sha256": "0"}'])
def test_a_damaged_copy_is_replaced_from_the_store_and_never_trusted(
    store: RuleStore, start: Callable[[], HotReloader[str]], tmp_path: Path, content: str
) -> None:
    publish(store, text(2))
    start()
    copy = tmp_path / "last_good" / FILE
    copy.write_text(content)
    assert start().current().value == version(2)
    assert LastGoodRules(tmp_path / "last_good").read() == KeptRules(published=True, text=text(2))
    copy.write_text(content)
    remove(store.folder)
    assert start().current().lost


def test_without_any_publication_the_own_rules_serve(start: Callable[[], HotReloader[str]]) -> None:
    for _ in range(2):
        assert start().current() == ActiveVersion(value=OWN, text=None)


def test_a_first_publication_that_does_not_fit_leaves_the_own_rules_after_a_restart_too(
    store: RuleStore, start: Callable[[], HotReloader[str]]
) -> None:
    follower = start()
    publish(store, text(2, "misfit"))
    follower._reload()
    assert follower.current() == ActiveVersion(value=OWN, text=None, stale=True)
    assert start().current() == ActiveVersion(value=OWN, text=None, stale=True)
    lose_texts(store.folder)
    assert start().current().lost


def test_a_copy_that_does_not_fit_a_new_bundle_is_no_way_out(
    store: RuleStore, start: Callable[[], HotReloader[str]], tmp_path: Path
) -> None:
    publish(store, text(2))
    LastGoodRules(tmp_path / "last_good").write(KeptRules(published=True, text=text(2, "misfit")))
    lose_texts(store.folder)
    assert start().current().lost
    assert LastGoodRules(tmp_path / "last_good").read() == KeptRules(published=True, text=text(2, "misfit"))


def test_a_copy_that_was_removed_is_written_again_with_the_next_reload(
    store: RuleStore, start: Callable[[], HotReloader[str]], tmp_path: Path
) -> None:
    publish(store, text(2))
    follower = start()
    remove(tmp_path / "last_good")
    follower._reload()
    assert LastGoodRules(tmp_path / "last_good").read() == KeptRules(published=True, text=text(2))


def test_a_copy_that_cannot_be_written_costs_no_slate(
    store: RuleStore, start: Callable[[], HotReloader[str]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "last_good").write_text("a file where the folder should be")
    publish(store, text(2))
    assert start().current().value == version(2)
    assert "a restart would not find the rules" in caplog.text
