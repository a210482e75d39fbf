"""`python -m recsys recommend` on the trained world."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from recsys.policy.exposure.exposure_file import ShareFile


def test_one_user_gets_a_table_with_titles_and_reasons(
    trained: Any, typed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    user = trained.dataset.interactions["user"][-1]
    assert typed("recommend", "--bundle", trained.bundle.path, "--user", user, "--k", 5) == 0
    printed = capsys.readouterr().out
    titles = [title for title in trained.dataset.items["title"] if title in printed]
    assert f"user {user}" in printed
    assert len(titles) >= 5
    assert all(word in printed for word in ("utility", "click", "buy", "from", "rules", trained.bundle.fingerprint))


def test_a_stranger_is_answered_and_told_so(trained: Any, typed: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert typed("recommend", "--bundle", trained.bundle.path, "--user", "nobody") == 0
    assert "degraded: history:empty" in capsys.readouterr().out


def test_all_users_are_written_as_parquet(trained: Any, typed: Any, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "slates.parquet"
    assert typed("recommend", "--bundle", trained.bundle.path, "--out", out, "--k", 7) == 0
    slates = pl.read_parquet(out)
    assert [file.name for file in out.parent.iterdir()] == [out.name]
    assert slates.schema == {
        "user": pl.String,
        "position": pl.Int64,
        "item": pl.String,
        "utility": pl.Float64,
        "sources": pl.List(pl.String),
        "rules": pl.List(pl.String),
        **{f"p_{name}": pl.Float64 for name in ("click", "like", "share", "buy")},
        "degraded": pl.List(pl.String),
        "bundle": pl.String,
        "rules_hash": pl.String,
    }
    assert set(slates["user"]) == set(trained.dataset.users["user"])
    assert set(slates["position"]) == set(range(7))
    assert slates.select("user", "item").is_unique().all()
    assert slates.join(trained.dataset.interactions, on=["user", "item"], how="semi").is_empty()
    assert set(slates["bundle"]) == {trained.bundle.fingerprint}


def test_what_was_shown_to_everybody_may_come_from_the_folder_that_is_served(
    trained: Any, typed: Any, tmp_path: Path
) -> None:
    (tmp_path / "rules.yaml").write_text("rules: [{name: even, exposure: item, least: 0, most: 0.1, strength: 30}]")
    assert typed("rules", "publish", tmp_path / "rules.yaml", "--store", tmp_path / "rules", "--why", "x") == 0
    asked = ("recommend", "--bundle", trained.bundle.path, "--store", tmp_path / "rules", "--k", 3)
    exposure = ("--exposure", tmp_path / "exposure")

    def shown(name: str, *more: object) -> pl.DataFrame:
        assert typed(*asked, *more, "--out", tmp_path / name) == 0
        return pl.read_parquet(tmp_path / name).select("user", "item")

    before = shown("before.parquet")
    assert shown("nothing.parquet", *exposure).equals(before)
    ShareFile(tmp_path / "exposure").write({f"item={item}": 0.9 for item in before["item"].unique()})
    after = shown("after.parquet", *exposure)
    assert after.height == before.height
    assert after.join(before, on=["user", "item"]).height < before.height / 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--user", "u1"], "is no bundle: it has no manifest.json; give the folder that train.py printed"),
        ([], "give either --user for one user or --out for all of them"),
        (["--user", "u1", "--out", "x.parquet"], "give either --user for one user or --out for all of them"),
    ],
)
def test_a_mistake_ends_with_2_and_one_sentence(
    typed: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert typed("recommend", "--bundle", tmp_path / "nothing", *arguments) == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1
    assert sentence in stderr


def test_a_log_that_is_gone_is_named(
    trained: Any, typed: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "data.yaml"
    assert typed("recommend", "--bundle", trained.bundle.path, "--user", "u1", "--data", gone) == 2
    assert f"{gone}: the description cannot be read" in capsys.readouterr().err
