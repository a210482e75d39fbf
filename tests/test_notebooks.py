"""The notebooks run from the first cell to the last, define nothing and are kept without outputs."""

import ast
import gc
import os
import sys
import warnings
from pathlib import Path

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import nbformat
    from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_short_defines_nothing_and_has_no_outputs(path: Path) -> None:
    cells = code(read(path))
    assert 6 <= len(cells) <= 8
    for cell in cells:
        assert cell.outputs == []
        assert cell.execution_count is None
        assert len(cell.source.splitlines()) <= 20
        lines = "\n".join(line for line in cell.source.splitlines() if not line.startswith("!"))
        defined = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
        assert not any(isinstance(node, defined) for node in ast.walk(ast.parse(lines)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder that looks like the repository, so that its runs stay there; with the python of the tests."""
    for name in ("train.py", "conf"):
        (tmp_path / name).symlink_to(root / name)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    notebook = read(path)
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    gc.collect()  # the sockets of the kernel, while their warnings are ignored
    printed = "".join(output.get("text", "") for cell in code(notebook) for output in cell.outputs)
    assert "Traceback" not in printed
    assert "items stayed" in str(code(notebook)[-1].outputs)
    assert (tmp_path / "runs" / "quickstart" / "bundle" / "manifest.json").is_file()
