"""`python -m recsys rules check` and `dry-run` as people type them."""

import json
from pathlib import Path
from typing import Any

import pytest

from recsys.policy.rules import RuleSet

GOOD = "rules:\n  - {name: dear, bury: 1.01, where: price > 20}\n"
BAD = "rules:\n  - {name: dear, bury: 2, where: prise > 20}\n  - {name: all, must: price < -1}\n"
HARMFUL = (
    "rules:\n  - {name: none-of-the-best, must: price > 25}\nlimits: {value_lost: 0.01, value_lost_by_a_rule: 0.01}\n"
)

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def called(typed: Any, tmp_path: Path) -> Any:
    """Run `rules <command> <text as a file>`; returns its exit code."""

    def called(command: str, text: str, *arguments: object) -> int | str | None:
        (tmp_path / "rules.yaml").write_text(text)
        return typed("rules", command, tmp_path / "rules.yaml", *arguments)

    return called


def test_check_names_line_rule_and_what_to_do(called: Any, trained: Any, tmp_path: Path, capsys: Capture) -> None:
    assert called("check", BAD, "--bundle", trained.bundle.path) == 1
    printed = capsys.readouterr().out
    assert f"{tmp_path}/rules.yaml:2:34 error dear" in printed
    assert "did you mean 'price'?" in printed
    assert "rules.yaml:3:23 error all: no item of the catalogue meets it, so nothing could be shown" in printed
    assert "2 errors, 0 warnings" in printed


def test_check_of_good_rules_says_what_comes_next(called: Any, trained: Any, capsys: Capture) -> None:
    assert called("check", GOOD, "--bundle", trained.bundle.path) == 0
    printed = capsys.readouterr().out
    assert "0 errors, 0 warnings" in printed
    assert "next     python -m recsys rules dry-run" in printed


def test_what_is_no_rule_file_ends_with_one_sentence(called: Any, trained: Any, capsys: Capture) -> None:
    for command, more in (("check", ()), ("dry-run", ("--out", "x"))):
        assert called(command, "rules: [}", "--bundle", trained.bundle.path, *more) == 2
        assert "is not YAML: line 1, column 9" in capsys.readouterr().err


def test_a_dry_run_reports_and_can_be_published(called: Any, trained: Any, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "report"
    assert called("dry-run", GOOD, "--bundle", trained.bundle.path, "--users", 20, "--out", out) == 0
    printed = capsys.readouterr().out
    assert "20 slates" in printed
    assert "none-of-the-best" not in printed
    assert "next     python -m recsys rules publish" in printed
    assert (out / "dry_run.png").read_bytes().startswith(b"\x89PNG")
    document = json.loads((out / "dry_run.json").read_text())
    assert document["num_slates"] == 20
    assert [rule["name"] for rule in document["rules"]] == ["dear"]
    more = ("--store", tmp_path / "store", "--bundle", trained.bundle.path, "--why", "a start")
    assert called("publish", GOOD, *more, "--report", out / "dry_run.json") == 0


def test_rules_that_cost_too_much_are_refused_and_do_not_publish(
    called: Any, trained: Any, tmp_path: Path, capsys: Capture
) -> None:
    out, bundle = tmp_path / "report", ("--bundle", trained.bundle.path)
    assert called("dry-run", HARMFUL, *bundle, "--users", 20, "--out", out) == 1
    printed = capsys.readouterr().out
    assert "refused: the new rules cost" in printed
    assert "limits.value_lost allows 1.0%" in printed
    more = ("--store", tmp_path / "store", *bundle, "--why", "a start")
    assert called("publish", HARMFUL, *more, "--report", out / "dry_run.json") == 2
    assert "its dry run refuses it: the new rules cost" in capsys.readouterr().err
    assert called("publish", GOOD, *more, "--report", out / "dry_run.json") == 2
    assert "is the report of the rules" in capsys.readouterr().err
    assert called("publish", BAD, *more) == 2
    assert "line 2" in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


def test_a_dry_run_compares_with_a_file_or_with_what_a_store_serves(
    called: Any, trained: Any, tmp_path: Path, capsys: Capture
) -> None:
    bundle = ("--bundle", trained.bundle.path)
    more = (*bundle, "--users", 5, "--out", tmp_path / "report")
    (tmp_path / "old.yaml").write_text(GOOD)
    store = ("--store", tmp_path / "store")
    assert called("publish", GOOD, *store, *bundle, "--why", "a start") == 0
    capsys.readouterr()
    hash_ = RuleSet.parse(GOOD).hash
    for before in (("--old", tmp_path / "old.yaml"), store):
        assert called("dry-run", GOOD, *more, *before) == 0
        assert f"rules {hash_} -> {hash_}: 0.0% changed" in capsys.readouterr().out
    assert called("dry-run", GOOD, *more, "--store", tmp_path / "empty") == 0
    assert f"rules {RuleSet.parse(trained.bundle.document('rules.yaml')).hash} -> {hash_}" in capsys.readouterr().out
