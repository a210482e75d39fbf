"""The notebooks run from the first cell to the last, define nothing and are kept without outputs.

They share one folder, so that a run that several of them read is trained by the first one alone.
"""

import ast
import gc
import os
import re
import sys
import warnings
from pathlib import Path

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import nbformat
    from IPython.core.inputtransformer2 import TransformerManager
    from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
FILE = "%%writefile"
"""first word of a cell that is a file of its own"""
LAST = {
    "quickstart": "items stayed",
    "sweep": "pipeline",
    "error_analysis": "utility",
    "embeddings": "rank correlation",
    "own_model": "image/png",
    "click_log": "p_click",
    "calibration_and_value": "categories a slate",
    "off_policy": "refused",
}
"""notebook -> text in the output of its last cell"""


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def by_name(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_name)
def test_a_notebook_is_short_defines_nothing_and_has_no_outputs(path: Path) -> None:
    cells = code(read(path))
    assert 6 <= len(cells) <= 12
    for cell in cells:
        assert cell.outputs == []
        assert cell.execution_count is None
        assert len(cell.source.splitlines()) <= 24 or cell.source.startswith(FILE)
        plain = TransformerManager().transform_cell(cell.source)
        defined = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
        assert not any(isinstance(node, defined) for node in ast.walk(ast.parse(plain)))


def test_the_run_that_notebooks_share_is_trained_by_one_command() -> None:
    sources = ["\n".join(cell.source for cell in code(read(path))) for path in NOTEBOOKS]
    sharing = [source for source in sources if 'folder = root / "runs" / "quickstart"' in source]
    assert len(sharing) == 5
    for pattern in (r'^world = ".*', r"!.*train\.py.*"):
        assert len({match for source in sharing for match in re.findall(pattern, source, re.M)}) == 1


@pytest.fixture(scope="module")
def workspace(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like the repository, so that the runs stay there."""
    folder = tmp_path_factory.mktemp("notebooks")
    for name in ("train.py", "conf"):
        (folder / name).symlink_to(root / name)
    return folder


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_name)
def test_a_notebook_runs(path: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the python of the tests."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("RECSYS_CACHE", str(workspace / "cache"))  # as for people: a sweep trains its towers once
    notebook = read(path)
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(workspace)}}
    ).execute()
    gc.collect()  # the sockets of the kernel, while their warnings are ignored
    printed = "".join(output.get("text", "") for cell in code(notebook) for output in cell.outputs)
    assert "Traceback" not in printed
    assert not re.search(r"^error: ", printed, re.M)
    assert LAST[path.stem] in str(code(notebook)[-1].outputs)
