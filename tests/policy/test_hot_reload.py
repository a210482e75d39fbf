"""A follower answers with what was published last, and never waits for it."""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from recsys.errors import ConfigError
from recsys.policy.rules import RuleSet
from recsys.policy.rules.audit import HEAD, LOG
from recsys.policy.rules.hot_reload import ActiveVersion, HotReloader
from recsys.policy.rules.store import RuleStore

PATIENCE_S = 60
OWN = "the bundle's own"


def text(year: int) -> str:
    return f"rules: [{{name: a, must: 'not year < {year}'}}]"


def version(year: int) -> str:
    return RuleSet.parse(text(year)).hash


class Maker:
    """Makes the hash of a rule set; odd years do not fit."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.open = threading.Event()
        self.open.set()

    def __call__(self, rules: RuleSet | None) -> str:
        assert self.open.wait(PATIENCE_S)
        made = OWN if rules is None else rules.hash
        self.made.append(made)
        if made in (version(1), version(3)):
            raise ConfigError("the rule 'a' does not fit")
        return made


@pytest.fixture
def store(tmp_path: Path) -> RuleStore:
    return RuleStore(tmp_path / "rules")


@pytest.fixture
def maker() -> Maker:
    return Maker()


def publish(store: RuleStore, year: int) -> None:
    head = store.head()
    store.publish(text(year), who="ann", why="x", expected=head.version if head else None)


def until(follower: HotReloader[str], wanted: Callable[[ActiveVersion[str]], bool]) -> ActiveVersion[str]:
    """Ask until the answer is as wanted."""
    deadline = time.monotonic() + PATIENCE_S
    while not wanted(served := follower.current()):
        assert time.monotonic() < deadline, served
    return served


def test_where_nothing_was_published_the_own_rules_serve_until_something_is(store: RuleStore, maker: Maker) -> None:
    follower = HotReloader(store, maker)
    assert follower.current() == ActiveVersion(value=OWN, text=None)
    publish(store, 2)
    assert until(follower, lambda served: served.value == version(2)).stale is False


def test_a_start_takes_the_current_version(store: RuleStore, maker: Maker) -> None:
    publish(store, 2)
    publish(store, 4)
    assert HotReloader(store, maker).current().value == version(4)
    assert maker.made == [version(4)]


def test_the_old_version_answers_while_the_new_one_is_made(store: RuleStore, maker: Maker) -> None:
    publish(store, 2)
    follower = HotReloader(store, maker)
    maker.open.clear()
    publish(store, 4)
    assert {follower.current().value for _ in range(1_000)} == {version(2)}
    maker.open.set()
    until(follower, lambda served: served.value == version(4))


def test_of_many_changes_while_one_is_made_the_last_one_wins(store: RuleStore, maker: Maker) -> None:
    publish(store, 2)
    follower = HotReloader(store, maker)
    maker.open.clear()
    for year in (4, 6, 8):
        publish(store, year)
        follower.current()
    maker.open.set()
    until(follower, lambda served: served.value == version(8))
    assert len(maker.made) <= 3


def test_undoing_the_last_change_makes_nothing_anew(store: RuleStore, maker: Maker) -> None:
    publish(store, 2)
    follower = HotReloader(store, maker)
    publish(store, 4)
    until(follower, lambda served: served.value == version(4))
    store.rollback(who="bob", why="x")
    until(follower, lambda served: served.value == version(2))
    assert maker.made == [version(2), version(4)]


def test_a_version_that_does_not_fit_leaves_the_old_one_and_is_said_once(
    store: RuleStore, maker: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    publish(store, 2)
    follower = HotReloader(store, maker)
    publish(store, 3)
    assert until(follower, lambda served: served.stale).value == version(2)
    assert {follower.current().value for _ in range(100)} == {version(2)}
    assert [record.getMessage() for record in caplog.records] == [
        "rules: the rule 'a' does not fit; the older version stays active"
    ]
    store.rollback(who="bob", why="x")
    assert until(follower, lambda served: not served.stale).value == version(2)


@pytest.mark.parametrize("damage", ["text", "HEAD", "gone"])
def test_what_cannot_be_read_leaves_the_old_one(
    store: RuleStore, maker: Maker, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    publish(store, 2)
    follower = HotReloader(store, maker)
    if damage == "text":
        publish(store, 4)
        (store.folder / "objects" / f"{store.history()[1].text}.yaml").unlink()
    elif damage == "HEAD":
        (store.folder / HEAD).write_text("4")
    else:
        (store.folder / HEAD).unlink()
    assert until(follower, lambda served: served.stale).value == version(2)
    assert len(caplog.records) == 1


def test_what_could_not_be_read_for_a_moment_serves_as_soon_as_it_is_there(
    store: RuleStore, maker: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    publish(store, 2)
    follower = HotReloader(store, maker)
    publish(store, 4)
    there = store.folder / "objects" / f"{store.history()[1].text}.yaml"
    away = there.rename(store.folder / "not yet here")
    assert until(follower, lambda served: served.stale).value == version(2)
    away.rename(there)
    assert until(follower, lambda served: not served.stale).value == version(4)
    assert len(caplog.records) == 1


def test_a_start_with_what_cannot_be_read_takes_it_when_it_is_there(store: RuleStore, maker: Maker) -> None:
    publish(store, 2)
    there = store.folder / "objects" / f"{store.history()[0].text}.yaml"
    away = there.rename(store.folder / "not yet here")
    follower = HotReloader(store, maker)
    assert follower.current() == ActiveVersion(value=OWN, text=None, stale=True, lost=True)
    away.rename(there)
    assert until(follower, lambda served: not served.stale).value == version(2)


def test_a_defect_while_making_leaves_the_old_one_and_keeps_its_traceback(
    store: RuleStore, caplog: pytest.LogCaptureFixture
) -> None:
    def make(rules: RuleSet | None) -> str:
        return OWN if rules is None else str(1 / 0)

    follower = HotReloader(store, make)
    publish(store, 2)
    assert until(follower, lambda served: served.stale).value == OWN
    assert "ZeroDivisionError" in caplog.text
    assert caplog.records[0].levelno == logging.ERROR


def test_a_start_with_a_version_that_does_not_fit_takes_the_newest_that_does(store: RuleStore, maker: Maker) -> None:
    for year in (2, 4, 1, 3):
        publish(store, year)
    assert HotReloader(store, maker).current().value == version(4)
    assert HotReloader(store, maker).current().stale


def test_a_start_in_which_no_version_fits_has_none_that_may_serve(store: RuleStore, maker: Maker) -> None:
    publish(store, 1)
    served = HotReloader(store, maker).current()
    assert (served.lost, served.stale) == (True, True)


def test_a_start_with_a_damaged_head_or_log_says_so_and_serves_nothing(
    store: RuleStore, maker: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    publish(store, 2)
    (store.folder / HEAD).write_text("")
    assert HotReloader(store, maker).current().stale
    (store.folder / LOG).write_text("")
    assert HotReloader(store, maker).current() == ActiveVersion(value=OWN, text=None, stale=True, lost=True)
    reasons = [record.getMessage() for record in caplog.records if "no published version" not in record.getMessage()]
    assert len(reasons) == 2
    assert all("HEAD was altered" in reason for reason in reasons)


def test_a_first_publish_that_a_crash_cut_off_is_finished_at_the_start(store: RuleStore, maker: Maker) -> None:
    publish(store, 2)
    (store.folder / HEAD).unlink()
    follower = HotReloader(store, maker)
    assert follower.current().value == version(2)
    assert until(follower, lambda served: not served.stale).value == version(2)
    assert len(store.verify()) == 1
