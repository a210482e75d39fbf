"""`recommend --why` and `--why-not`."""

from typing import Any

import pytest


def test_the_command_prints_them(trained: Any, typed: Any, capsys: pytest.CaptureFixture[str]) -> None:
    user = trained.dataset.interactions["user"][-1]
    assert typed("recommend", "--bundle", trained.bundle.path, "--user", user, "--why") == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("what adds to the utility", "collaborative", "because of"))


def test_the_command_says_why_an_item_is_not_shown(
    trained: Any, typed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    user = trained.dataset.interactions["user"][-1]
    assert typed("recommend", "--bundle", trained.bundle.path, "--user", user, "--why-not", "none such") == 0
    assert "'none such' is not in the catalogue" in capsys.readouterr().out
    assert typed("recommend", "--bundle", "x", "--out", "y", "--why-not", "i1") == 2
    assert "--why-not explain the slate of one user" in capsys.readouterr().err
