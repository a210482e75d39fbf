"""The generated tables of models: every choice, its paper and its use, on the page that names them."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "choose-a-model.md"
GROUPS = ("retrieval/user_encoder", "retrieval/loss", "ranking/model", "ranking/pointwise", "ranking/loss")
WITHOUT_PAPER = {"ranking/pointwise=bce"}


@pytest.fixture(scope="module")
def models() -> ModuleType:
    spec = importlib.util.spec_from_file_location("models", ROOT / "docs" / "reference" / "models.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("group", GROUPS)
def test_every_choice_has_a_row_with_its_paper_and_its_use(models: ModuleType, group: str) -> None:
    rows = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in models.table(group).splitlines()[2:]]
    assert [row[0].strip("| `") for row in rows] == [
        f"{group}={file.stem}" for file in sorted((ROOT / "conf" / group).glob("*"))
    ]
    for choice, paper, use, _ in rows:
        assert paper or choice.strip("| `") in WITHOUT_PAPER, choice
        assert not use.startswith("_target_"), f"{choice}: the file begins with no comment that says when to use it"


def test_the_page_names_every_group_and_no_mark_is_left(models: ModuleType) -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert sorted(models.MARK.findall(text)) == sorted(GROUPS)
    shown = models.filled(text)
    assert "<!--" not in shown
    assert "| Kang & McAuley 2018 | to compare with published figures | `num_blocks=2`, `num_heads=1` |" in shown
    assert "| `ranking/model=autoint` | Song et al. 2019 |" in shown
