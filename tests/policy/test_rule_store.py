"""Published rules: what is kept, who wins, what a crash leaves."""

import multiprocessing
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import ConfigError, ConflictError
from recsys.policy.rules import RuleSet
from recsys.policy.rules.audit import LOG
from recsys.policy.rules.store import MAX_TEXT_BYTES, RuleStore

REPORT = {"slates_changed": 0.25}
PUBLISH = """
import os, sys
from recsys.policy.rules.store import RuleStore

folder, text, expected, last = sys.argv[1], sys.argv[2], sys.argv[3] or None, int(sys.argv[4])
synchronise, calls = os.fsync, 0


def fsync(descriptor):
    global calls
    calls += 1
    if calls > last:
        os._exit(9)
    synchronise(descriptor)


os.fsync = fsync
RuleStore(folder).publish(text, who="cid", why="a crash", expected=expected, report={})
"""
NUM_SYNCHRONISED = 8
"""of one publish: two for each of text, report, line and HEAD"""


def text(number: int) -> str:
    return f"# the {number}. try\nrules:\n  - {{name: old, must: 'not year < {number}'}}\n"


def published(store: RuleStore, *numbers: int) -> list[str]:
    """One version after the other; their hashes."""
    for number in numbers:
        current = store.current()
        expected = current.version if current else None
        store.publish(text(number), who="ann", why=f"try {number}", expected=expected, report=REPORT)
    return [RuleSet.parse(text(number)).hash for number in numbers]


def current(store: RuleStore) -> str:
    found = store.current()
    assert found is not None
    return found.version


@pytest.fixture
def store(tmp_path: Path) -> RuleStore:
    return RuleStore(tmp_path / "rules")


def test_a_store_in_which_nothing_was_published_is_empty_and_makes_no_folder(store: RuleStore) -> None:
    assert (store.current(), store.head(), store.stamp(), store.history(), store.verify()) == (None, None, None, (), ())
    assert not store.folder.exists()


def test_a_version_is_found_by_the_hash_of_its_rules_and_read_as_it_was_written(store: RuleStore) -> None:
    first, second = published(store, 1950, 1960)
    assert current(store) == second == RuleSet.parse(text(1960)).hash
    assert [store.read(first), store.read(second[:5])] == [text(1950), text(1960)]
    assert store.report(first) == REPORT


def test_an_entry_says_who_when_why_and_what_came_before(store: RuleStore) -> None:
    first, second = published(store, 1950, 1960)
    one, two = store.history()
    assert (two.number, two.who, two.why, two.action, two.version) == (2, "ann", "try 1960", "publish", second)
    assert (one.parent, two.parent, one.previous, two.previous) == (None, first, None, one.sha256)
    assert two.when.endswith("+00:00")
    assert one.when <= two.when


def test_every_change_gives_another_stamp(store: RuleStore) -> None:
    stamps = [store.stamp()]
    for number in (1950, 1960, 1970):
        published(store, number)
        stamps.append(store.stamp())
    store.rollback(who="bob", why="too old")
    assert len({*stamps, store.stamp()}) == 5


def test_the_later_of_two_editors_gets_a_conflict_that_says_who_was_first(store: RuleStore) -> None:
    first, second = published(store, 1950, 1960)
    with pytest.raises(ConflictError) as caught:
        store.publish(text(1970), who="bob", why="late", expected=first)
    sentence = f"you started from {first}, but ann made {second} serve on {store.history()[1].when} (try 1960)"
    assert str(caught.value) == f"{sentence}; put your change into {second} and publish it --from {second}"
    assert current(store) == second


def test_an_editor_who_names_no_version_overwrites_none(store: RuleStore) -> None:
    published(store, 1950)
    with pytest.raises(ConflictError, match="no version was named to start from, but ann made"):
        store.publish(text(1970), who="bob", why="late")


def test_a_conflict_names_the_last_three_changes(store: RuleStore) -> None:
    first, *_ = published(store, *range(1950, 1955))
    with pytest.raises(ConflictError) as caught:
        store.publish(text(1970), who="bob", why="late", expected=first)
    assert [f"try {year}" in str(caught.value) for year in range(1950, 1955)] == [False, False, True, True, True]


def test_the_same_rules_are_not_published_twice_whatever_their_comments(store: RuleStore) -> None:
    (version,) = published(store, 1950)
    with pytest.raises(ConfigError, match=f"version {version} serves already"):
        store.publish("# another\n" + text(1950), who="bob", why="again", expected=version)
    assert len(store.history()) == 1


def test_a_version_that_is_published_again_later_is_read_with_its_newer_comments(store: RuleStore) -> None:
    first, second = published(store, 1950, 1960)
    store.publish("# newer\n" + text(1950), who="bob", why="again", expected=second)
    assert store.read(first) == "# newer\n" + text(1950)
    assert store.verify()[0].text != store.verify()[2].text


def test_rollback_is_an_audited_entry_and_a_second_one_goes_further_back(store: RuleStore) -> None:
    first, second, _ = published(store, 1950, 1960, 1970)
    entry = store.rollback(who="bob", why="too old")
    assert (entry.action, entry.version, entry.who, entry.report) == (
        "rollback",
        second,
        "bob",
        store.history()[1].report,
    )
    assert store.rollback(who="bob", why="still").version == first
    with pytest.raises(ConfigError, match=f"{first} is the first version; publish what shall serve"):
        store.rollback(who="bob", why="once more")
    assert [one.action for one in store.history()] == ["publish"] * 3 + ["rollback"] * 2


def test_rollback_to_a_named_version_may_go_anywhere_and_back(store: RuleStore) -> None:
    first, _, third = published(store, 1950, 1960, 1970)
    assert store.rollback(first[:6], who="bob", why="far").version == first
    assert store.rollback(third, who="bob", why="and forth").version == third
    assert store.rollback(who="bob", why="undone").version == first


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (lambda store: store.rollback(who="bob", why="x"), "nothing was published yet"),
        (lambda store: store.read("abc"), "holds no version 'abc'; nothing was published yet"),
    ],
)
def test_an_empty_store_has_nothing_to_give(store: RuleStore, asked: Callable[[RuleStore], Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        asked(store)


def test_rollback_refuses_what_serves_already_and_what_somebody_changed(store: RuleStore) -> None:
    first, second = published(store, 1950, 1960)
    with pytest.raises(ConfigError, match=f"version {second} serves already"):
        store.rollback(second, who="bob", why="x")
    with pytest.raises(ConflictError, match=f"you started from {first}, but ann"):
        store.rollback(who="bob", why="x", expected=first)


def test_the_beginning_of_a_version_must_mean_one(store: RuleStore) -> None:
    numbers = list(range(1000, 1018))
    versions = published(store, *numbers)
    shared = next(one[0] for one in versions if sum(other[0] == one[0] for other in versions) > 1)
    with pytest.raises(ConfigError, match=f"'{shared}' is the beginning of the versions .* and .*; give more of it"):
        store.read(shared)
    with pytest.raises(ConfigError, match="holds no version 'x'; history lists what it holds"):
        store.read("x")
    with pytest.raises(ConfigError, match="holds no version ''"):
        store.read("")


def test_a_difference_names_rules_and_shows_lines(store: RuleStore) -> None:
    before = (
        "rules:\n  - {name: a, must: 'not x < 1'}\n  - {name: b, must: 'not x < 1'}\n  - {name: c, must: 'not x < 1'}\n"
    )
    rules = ["{name: d, must: 'not x < 1'}", "{name: c, must: not x < 1}", "{name: b, must: 'not x < 2'}"]
    after = "# why\nrules:\n" + "".join(f"  - {rule}\n" for rule in rules)
    first = store.publish(before, who="ann", why="x").version
    second = store.publish(after, who="ann", why="x", expected=first).version
    found = store.diff(first, second)
    assert (found.added, found.removed, found.changed, found.reordered) == (("d",), ("a",), ("b",), True)
    assert found.settings == ()
    assert found.lines.splitlines()[:2] == [f"--- {first}", f"+++ {second}"]
    assert "+# why" in found.lines
    same = store.diff(first, first)
    assert (same.lines, same.changed, same.reordered) == ("", (), False)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"who": " "}, "who is ' '; write one line of 1 to 500 characters"),
        ({"why": "two\nlines"}, r"why is 'two\\nlines'; write one line"),
        ({"why": "x" * 501}, "why is 'x+'; write one line"),
        ({"text": "rules: ["}, "the rule set is not YAML: line 1"),
        ({"text": "rules: [{name: a}]"}, "has no kind"),
        ({"text": "#" * MAX_TEXT_BYTES + "\nrules: []"}, "has 1,048,586 bytes; at most 1,048,576 can be published"),
        ({"text": "rules: [] # \ud800"}, "characters that UTF-8 does not know"),
        ({"report": {"x": float("nan")}}, "the report cannot be kept as JSON"),
    ],
)
def test_what_cannot_be_published_is_said_and_leaves_nothing(
    store: RuleStore, wrong: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        store.publish(**{"text": text(1950), "who": "ann", "why": "x", **wrong})
    assert store.history() == ()


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "rules").write_text("rules: []")
    with pytest.raises(ConfigError, match="is a file; give a folder"):
        RuleStore(tmp_path / "rules")


def attempt(folder: Path, number: int, expected: str, barrier: Any, answers: Any) -> None:
    """One of two editors, in a process of its own."""
    store = RuleStore(folder)
    barrier.wait()
    try:
        answers.put(("won", store.publish(text(number), who=str(number), why="race", expected=expected).version))
    except ConflictError as error:
        answers.put(("conflict", str(error)))


def test_of_two_processes_that_publish_at_once_exactly_one_wins(store: RuleStore) -> None:
    (first,) = published(store, 1900)
    spawned = multiprocessing.get_context("spawn")
    barrier, answers = spawned.Barrier(2), spawned.Queue()
    editors = [
        spawned.Process(target=attempt, args=(store.folder, number, first, barrier, answers)) for number in (1, 2)
    ]
    for editor in editors:
        editor.start()
    found = dict(answers.get(timeout=120) for _ in editors)
    for editor in editors:
        editor.join()
    assert set(found) == {"won", "conflict"}
    assert current(store) == found["won"]
    assert found["won"] in found["conflict"]
    assert len(store.verify()) == 2


def crash(store: RuleStore, number: int, after: int) -> int:
    """Publish in a process that ends on the spot at its synchronisation number `after` + 1."""
    head = store.head()
    arguments = [store.folder, text(number), head.version if head else "", after]
    return subprocess.run([sys.executable, "-c", PUBLISH, *map(str, arguments)], check=False).returncode


@pytest.mark.parametrize("before", [(), (1950,)], ids=["first", "second"])
@pytest.mark.parametrize("after", range(NUM_SYNCHRONISED))
def test_a_crash_at_any_step_leaves_the_old_version_or_the_new_one(
    store: RuleStore, before: tuple[int, ...], after: int
) -> None:
    versions = published(store, *before)
    assert crash(store, 1960, after) == 9
    entries = RuleStore(store.folder).verify()
    written = after >= NUM_SYNCHRONISED // 2
    wanted = [*versions, RuleSet.parse(text(1960)).hash] if written else versions
    assert [entry.version for entry in entries] == wanted
    head = store.head()
    assert (head.version if head else None) == (wanted[-1] if wanted else None)
    published(store, 1970)
    assert len(store.verify()) == len(wanted) + 1


def test_a_publish_that_does_not_crash_is_as_long_as_the_steps_above(store: RuleStore) -> None:
    assert crash(store, 1960, NUM_SYNCHRONISED) == 0
    assert len(store.verify()) == 1


@pytest.mark.parametrize("part", [0.01, 0.5, 1.0])
def test_a_line_that_was_cut_off_was_never_published(store: RuleStore, part: float) -> None:
    versions = published(store, 1950, 1960)
    log = store.folder / LOG
    whole, line = log.read_bytes(), store.history()[1].line
    log.write_bytes(whole + line[: max(1, int(part * len(line)))])
    assert [entry.version for entry in store.verify()] == versions
    assert log.read_bytes() == whole


STEPS = st.lists(st.tuples(st.sampled_from(["publish", "rollback", "to"]), st.integers(0, 4)), max_size=12)


@settings(deadline=None, max_examples=60)
@given(STEPS)
def test_whatever_is_done_verifies_and_history_is_what_was_done(steps: list[tuple[str, int]]) -> None:
    with TemporaryDirectory() as folder:
        done: list[tuple[str, str]] = []
        for action, number in steps:
            store, version = RuleStore(folder), RuleSet.parse(text(number)).hash
            last = done[-1][1] if done else None
            try:
                if action == "publish":
                    store.publish(text(number), who="ann", why="x", expected=last)
                else:
                    version = store.rollback(version if action == "to" else None, who="bob", why="y").version
            except ConfigError:
                assert (
                    action == "rollback"
                    or version == last
                    or (action == "to" and version not in {name for _, name in done})
                )
                continue
            done.append(("publish" if action == "publish" else "rollback", version))
        entries = RuleStore(folder).verify()
        assert [(entry.action, entry.version) for entry in entries] == done
        assert all(after.parent == before.version for before, after in pairwise(entries))
        assert [RuleStore(folder).read(version) for _, version in done] == [
            next(text(number) for number in range(5) if RuleSet.parse(text(number)).hash == version)
            for _, version in done
        ]
