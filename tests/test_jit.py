"""What is compiled and kept is never older than what it calls."""

import subprocess
import sys
from pathlib import Path

import pytest

from recsys.jit import CACHE_PREFIX, cache_folder

CALLEE = "from kept.jit import compiled\n\n\n@compiled()\ndef number():\n    return {}\n"
CALLER = """from kept.callee import number
from kept.jit import compiled


@compiled()
def doubled():
    return 2 * number()
"""


@pytest.fixture
def package(root: Path, tmp_path: Path) -> Path:
    """A package of two compiled functions, one of which calls the other, beside one of none."""
    folder = tmp_path / "kept"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "jit.py").write_text((root / "recsys" / "jit.py").read_text())
    (folder / "callee.py").write_text(CALLEE.format(3))
    (folder / "caller.py").write_text(CALLER)
    (folder / "plain.py").write_text("x = 1\n")
    return folder


def said(package: Path) -> str:
    """What the caller gives in a process of its own."""
    command = [sys.executable, "-c", "from kept.caller import doubled; print(doubled())"]
    return subprocess.run(command, cwd=package.parent, capture_output=True, text=True, check=True).stdout.strip()


def test_a_caller_is_compiled_again_when_what_it_calls_has_changed(package: Path) -> None:
    assert said(package) == "6"
    first = cache_folder(package)
    assert list(first.rglob("*.nbi"))
    (package / "callee.py").write_text(CALLEE.format(4))
    assert said(package) == "8"
    assert [one.name for one in (package / "__pycache__").glob(f"{CACHE_PREFIX}*")] == [cache_folder(package).name]
    assert not first.exists()


def test_only_files_with_compiled_functions_count(package: Path) -> None:
    before = cache_folder(package)
    (package / "plain.py").write_text("x = 2\n")
    assert cache_folder(package) == before
    (package / "caller.py").write_text(CALLER.replace("2 *", "3 *"))
    assert cache_folder(package) != before
