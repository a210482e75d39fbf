"""`python -m recsys rules` as people type it."""

import json
from pathlib import Path
from typing import Any

import pytest

from recsys.policy.rules import RuleSet
from recsys.policy.rules.audit import LOG
from recsys.policy.rules.store import RuleStore

OLD = "# for a start\nrules:\n  - {name: cheap, must: 'not price < 5'}\n"
NEW = "rules:\n  - {name: cheap, must: 'not price < 6'}\n  - {name: dear, must: 'not price > 90'}\n"
OLD_VERSION, NEW_VERSION = (RuleSet.parse(text).hash for text in (OLD, NEW))

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "old.yaml").write_text(OLD)
    (tmp_path / "new.yaml").write_text(NEW)
    return tmp_path


@pytest.fixture
def called(folder: Path, typed: Any) -> Any:
    """Run `rules <command>` on the store of the folder."""

    def called(command: str, *arguments: object) -> int | str | None:
        return typed("rules", command, *arguments, "--store", folder / "rules")

    return called


@pytest.fixture
def store(folder: Path, called: Any, capsys: Capture) -> RuleStore:
    """The old rules by ann, the new ones by bob on top of them."""
    assert called("publish", folder / "old.yaml", "--who", "ann", "--why", "a start") == 0
    assert called("publish", folder / "new.yaml", "--who", "bob", "--why", "dear, too", "--from", OLD_VERSION[:6]) == 0
    capsys.readouterr()
    return RuleStore(folder / "rules")


def test_publish_says_the_version_and_what_to_type_to_undo_it(folder: Path, called: Any, capsys: Capture) -> None:
    assert called("publish", folder / "old.yaml", "--who", "ann", "--why", "a start") == 0
    printed = capsys.readouterr().out
    assert f"{OLD_VERSION} serves, entry 1" in printed
    assert "against no catalogue" in printed
    assert f"next     python -m recsys rules history --store {folder / 'rules'}" in printed
    assert called("publish", folder / "new.yaml", "--why", "x", "--from", OLD_VERSION) == 0
    assert "next     python -m recsys rules rollback" in capsys.readouterr().out


def test_whoever_publishes_is_named_by_login(
    folder: Path, called: Any, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "dora")
    assert called("publish", folder / "old.yaml", "--why", "a start") == 0
    assert RuleStore(folder / "rules").history()[0].who == "dora"


def test_rules_that_do_not_fit_the_catalogue_are_not_published(
    trained: Any, folder: Path, called: Any, capsys: Capture
) -> None:
    (folder / "typo.yaml").write_text("rules: [{name: a, must: 'not prise < 5'}]")
    bundle = ("--bundle", trained.bundle.path)
    assert called("publish", folder / "typo.yaml", "--why", "x", *bundle) == 2
    assert "rule 'a', must" in capsys.readouterr().err
    assert not (folder / "rules").exists()
    assert called("publish", folder / "old.yaml", "--why", "x", *bundle) == 0
    assert f"fits {trained.bundle.path}" in capsys.readouterr().out


def test_history_marks_what_serves_newest_first(store: RuleStore, called: Any, capsys: Capture) -> None:
    assert called("history") == 0
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines() if line.rstrip().endswith(" no")]
    assert [row[0] for row in rows] == ["*", OLD_VERSION]
    assert rows[0][1] == NEW_VERSION
    assert "dear, too" in printed
    assert f"next     python -m recsys rules diff {OLD_VERSION} {NEW_VERSION}" in printed


def test_an_attached_report_is_kept_and_marked(folder: Path, called: Any, capsys: Capture) -> None:
    report = {"new": OLD_VERSION, "slates_changed": 0.5}
    (folder / "report.json").write_text(json.dumps(report))
    assert called("publish", folder / "old.yaml", "--why", "x", "--report", folder / "report.json") == 0
    assert RuleStore(folder / "rules").report(OLD_VERSION) == report
    assert called("history") == 0
    assert capsys.readouterr().out.count(" yes") == 1


@pytest.mark.parametrize("report", [{}, {"new": NEW_VERSION}, {"new": None}])
def test_a_report_of_other_rules_is_refused(folder: Path, called: Any, capsys: Capture, report: dict[str, Any]) -> None:
    (folder / "report.json").write_text(json.dumps(report))
    assert called("publish", folder / "old.yaml", "--why", "x", "--report", folder / "report.json") == 2
    assert "dry-run them again" in capsys.readouterr().err
    assert not (folder / "rules").exists()


def test_show_prints_the_text_as_it_was_written_and_nothing_else(
    store: RuleStore, called: Any, capsys: Capture
) -> None:
    assert called("show") == 0
    assert capsys.readouterr().out == NEW
    assert called("show", OLD_VERSION[:4]) == 0
    printed = capsys.readouterr()
    assert printed.out == OLD
    assert f"publish rules.yaml --from {NEW_VERSION}" in printed.err


def test_diff_names_rules_and_shows_lines(store: RuleStore, called: Any, capsys: Capture) -> None:
    assert called("diff", OLD_VERSION) == 0
    printed = capsys.readouterr().out
    assert "added    dear" in printed
    assert "changed  cheap" in printed
    assert "-# for a start" in printed
    assert called("diff", OLD_VERSION, OLD_VERSION) == 0
    assert "same     nothing differs but layout" in capsys.readouterr().out


def test_rollback_lets_the_version_before_serve_again(store: RuleStore, called: Any, capsys: Capture) -> None:
    assert called("rollback", "--who", "cid", "--why", "sold nothing") == 0
    assert f"{OLD_VERSION} serves again, entry 3; it took the place of {NEW_VERSION}" in capsys.readouterr().out
    assert called("rollback", "--to", NEW_VERSION[:5], "--who", "cid", "--why", "it was the weather") == 0
    assert [entry.version for entry in store.history()[2:]] == [OLD_VERSION, NEW_VERSION]


def test_verify_tells_a_whole_log_from_an_altered_one(store: RuleStore, called: Any, capsys: Capture) -> None:
    assert called("verify") == 0
    assert f"whole    2 entries; the last is {store.history()[1].sha256}" in capsys.readouterr().out
    log = store.folder / LOG
    log.write_bytes(log.read_bytes().replace(b"ann", b"eve"))
    assert called("verify") == 2
    assert "log.jsonl, line 1 was altered" in capsys.readouterr().err


def test_an_empty_store_is_no_mistake_of_history_and_verify(called: Any, capsys: Capture) -> None:
    assert called("history") == called("verify") == 0
    assert capsys.readouterr().out.count("nothing was published in") == 2


def test_the_later_of_two_editors_is_told_who_was_first(
    store: RuleStore, folder: Path, called: Any, capsys: Capture
) -> None:
    (folder / "new.yaml").write_text("rules: []")
    assert called("publish", folder / "new.yaml", "--why", "x", "--from", OLD_VERSION) == 2
    assert f"bob made {NEW_VERSION} serve" in capsys.readouterr().err
    assert len(store.history()) == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("publish", "gone.yaml", "--why", "x"), "the rule file gone.yaml cannot be read"),
        (("publish", "{folder}/old.yaml", "--why", " "), "why is ' '; write one line"),
        (("publish", "{folder}/old.yaml", "--why", "x", "--report", "{folder}/old.yaml"), "cannot be read as JSON"),
        (("publish", "{folder}/old.yaml", "--why", "x", "--report", "{folder}/list.json"), "is a list; give a JSON"),
        (("show",), "nothing was published in"),
        (("diff", "abc"), "nothing was published in"),
        (("rollback", "--why", "x"), "there is nothing to go back to: nothing was published yet"),
    ],
)
def test_a_mistake_ends_with_2_and_one_sentence(
    folder: Path, called: Any, capsys: Capture, arguments: tuple[str, ...], sentence: str
) -> None:
    (folder / "list.json").write_text("[]")
    assert called(*(one.format(folder=folder) for one in arguments)) == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1
    assert sentence in stderr


def test_recommend_reads_the_store(trained: Any, folder: Path, called: Any, typed: Any, capsys: Capture) -> None:
    assert called("publish", folder / "old.yaml", "--why", "x") == 0
    capsys.readouterr()
    store = ("--store", folder / "rules")
    assert typed("recommend", "--bundle", trained.bundle.path, "--user", "nobody", *store) == 0
    assert OLD_VERSION in capsys.readouterr().out
