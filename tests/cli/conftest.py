"""Commands as people type them, in this process."""

import sys
from typing import Any

import pytest
from rich.console import Console

import recsys.cli.data as data
import recsys.cli.experiments as experiments
import recsys.cli.items as items
import recsys.cli.main as cli
import recsys.cli.rules_check as rules_check
import recsys.cli.versions as versions


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run `python -m recsys <arguments>`; returns its exit code. `width` in columns."""

    def typed(*arguments: object, width: int = 240) -> int | str | None:
        for module in (cli, data, items, versions, rules_check, experiments):
            monkeypatch.setattr(module, "console", Console(width=width))
        monkeypatch.setattr(sys, "argv", ["recsys", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code

    return typed
