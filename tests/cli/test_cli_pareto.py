"""`python -m recsys pareto`: from what a bundle remembers to a table and a picture."""

from pathlib import Path
from typing import Any

import pytest

from recsys.bundle import Bundle, write_bundle
from recsys.cli.pareto import GRID, sweep_weight
from recsys.errors import ConfigError
from recsys.evaluation.pareto import OUTCOMES

VALUE = {"formula": "click + like_weight * like", "weights": {"like_weight": 2.0}}


@pytest.fixture
def bundle(trained: Any, tmp_path: Path) -> Bundle:
    """What the trained bundle remembers, under a formula with a weight."""
    old: Bundle = trained.bundle
    with write_bundle(tmp_path / "bundle", old.spec_fingerprint) as draft:
        for name in ("spec.json", "vocabularies.json"):
            draft.write_document(name, old.document(name))
        draft.write_document("policy.yaml", {**old.document("policy.yaml"), "value": VALUE})
        draft.write_arrays(OUTCOMES, old.arrays(OUTCOMES))
    return Bundle.open(tmp_path / "bundle")


def test_every_value_is_weighed_and_the_served_one_is_marked(bundle: Bundle) -> None:
    points = sweep_weight(bundle, "like_weight", ("click", "like"))
    assert [point["weight"] for point in points] == sorted({*GRID, 2.0})
    assert [point["weight"] for point in points if point["served"]] == [2.0]
    assert all(0 < one <= 1 for point in points for one in point["worth"])
    assert any(point["front"] for point in points)


@pytest.mark.parametrize(
    ("weight", "objectives", "message"),
    [
        ("like_wait", ("click", "like"), "the value formula has no weight 'like_wait'; did you mean 'like_weight'"),
        ("like_weight", ("click", "lick"), "the bundle has no objective 'lick'; did you mean"),
    ],
)
def test_unknown_names_are_named(bundle: Bundle, weight: str, objectives: tuple[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sweep_weight(bundle, weight, objectives)


def test_a_formula_without_weights_says_so(trained: Any) -> None:
    with pytest.raises(ConfigError, match=r"has no named weights; give policy\.value\.formula"):
        sweep_weight(trained.bundle, "like_weight", ("click", "like"))


def test_the_command_prints_a_table_and_writes_a_picture(
    bundle: Bundle, tmp_path: Path, typed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "front.png"
    arguments = ["pareto", "--bundle", bundle.path, "--weight", "like_weight", "--objectives", "click", "like"]
    assert typed(*arguments, "--out", out) == 0
    assert [file.name for file in out.parent.iterdir()] == [out.name]
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("NDCG@10 by like_weight", "served", str(out)))


def test_a_bundle_without_a_ranker_says_so(trained: Any, tmp_path: Path) -> None:
    with write_bundle(tmp_path / "bundle", trained.bundle.spec_fingerprint) as draft:
        draft.write_document("policy.yaml", trained.bundle.document("policy.yaml"))
    with pytest.raises(ConfigError, match="it has no ranker or is older"):
        sweep_weight(Bundle.open(tmp_path / "bundle"), "like_weight", ("click", "like"))
