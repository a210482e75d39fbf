"""`recsys score`: a file in, probabilities out, and its mistakes."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from recsys.click_model import ClickModel

pytestmark = pytest.mark.slow

ROWS = pl.DataFrame(
    {
        "ad": [f"a{number}" for number in range(600)],
        "click": [0, 1, 1] * 200,
        "price": [1.0, 2.0, 3.0, 4.0] * 150,
        "site": ["x", "y", "z"] * 200,
    }
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, composed: Any, run: Any) -> Path:
    folder = tmp_path_factory.mktemp("scored")
    ROWS.write_csv(folder / "clicks.tsv", separator="\t")
    described = {"file": "clicks.tsv", "labels": ["click"], "numbers": {"price": "log"}, "order": "file"}
    document = {"task": "ranking", "impressions": described | {"categories": {"site": "vocabulary"}}}
    (folder / "clicks.yaml").write_text(yaml.safe_dump(document))
    quick = ("recipe=click_log", "logger=csv", "ranking.epochs=1", "trainer.progress=false", "refit=false")
    return run(composed(folder / "run", *quick, f"data.description={folder / 'clicks.yaml'}"))[1].path


def test_a_file_is_scored_with_the_columns_that_are_kept(typed: Any, bundle: Path, tmp_path: Path) -> None:
    rows = ROWS.drop("click")
    rows.write_csv(tmp_path / "new.csv")
    rows.write_csv(tmp_path / "new.tsv", separator="\t")
    expected = ClickModel.load(bundle).score(rows)[:, 0]
    for name in ("new.csv", "new.tsv"):
        out = tmp_path / f"{name}.parquet"
        assert typed("score", "--bundle", bundle, "--rows", tmp_path / name, "--out", out, "--keep", "ad") == 0
        scored = pl.read_parquet(out)
        assert scored.columns == ["ad", "p_click"]
        assert scored["ad"].to_list() == ROWS["ad"].to_list()
        assert scored["p_click"].to_list() == pytest.approx(expected.tolist(), abs=1e-6)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ROWS.drop("site"), "there is no column 'site'"),
        (ROWS.with_columns(price=pl.lit("dear")), "column 'price', row 1: 'dear' is not a finite number"),
        (ROWS.head(0), "has no rows; give at least one"),
    ],
    ids=["column", "value", "empty"],
)
def test_a_file_that_cannot_be_scored_is_one_sentence_and_leaves_nothing(
    typed: Any, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: pl.DataFrame, message: str
) -> None:
    rows.write_csv(tmp_path / "new.csv")
    assert typed("score", "--bundle", bundle, "--rows", tmp_path / "new.csv", "--out", tmp_path / "out.parquet") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["new.csv"]
