"""What a description and a configuration promise together, held by a whole run or refused before anything is trained."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import DictConfig

from recsys.data.dataset import DESCRIPTION_FILE
from recsys.data.sources.synthetic import Synthetic
from recsys.errors import ConfigError, DataError
from recsys.evaluation.report import COSTS

GRADED = {"click": "click", "taste": {"grade": "click + like", "levels": [1, 2]}}


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic world, whose likes are the better grade of a click."""
    folder = tmp_path_factory.mktemp("graded")
    Synthetic(users=120, items=80, events=4_000, seed=0).load().save(folder)
    file = folder / DESCRIPTION_FILE
    document = yaml.safe_load(file.read_text()) | {"objectives": GRADED, "target": "taste"}
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    return file


@pytest.fixture(scope="module")
def configure(described: Path, composed: Any, tiny: tuple[str, ...]) -> Any:
    def configure(folder: Path, *overrides: str) -> DictConfig:
        kept = [one for one in tiny if not one.startswith(("data.", "recipe="))]
        return composed(
            folder, *kept, "data=tables", f"data.description={described}", "evaluation.baselines={}", *overrides
        )

    return configure


def test_a_grade_is_served_as_chances_that_a_formula_reads_as_a_mean(configure: Any, run: Any, tmp_path: Path) -> None:
    formula = ['policy.value.formula="click + weight * taste"', "+policy.value.weights.weight=2"]
    report, bundle = run(configure(tmp_path, *formula, "protocol.horizon_days=1.5"))
    value = bundle.document("policy.yaml")["value"]
    assert value["formula"] == "click + weight * (1 * taste_from_1 + 1 * taste_from_2)"
    assert bundle.document("spec.json")["target"] == "taste_from_1"
    assert {"click", "taste_from_1", "taste_from_2"} >= report.objectives.keys() > set()
    told = [note for note in report.notes if note.startswith("probabilities")]
    assert len(told) == 1
    assert "of what is reached within 1.5 days" in told[0]


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["protocol.horizon_days=1000"], DataError, r"period RANK .* shorter protocol\.horizon_days"),
        (['policy.value.formula="click + tase"'], ConfigError, r"value\.formula.*'tase'"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_trained(
    configure: Any, run: Any, tmp_path: Path, overrides: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(configure(tmp_path, *overrides))
    assert not list(tmp_path.glob("checkpoints/*/towers*"))
    assert not (tmp_path / "bundle").exists()


def test_under_a_random_split_the_report_says_what_a_chance_means(configure: Any, run: Any, tmp_path: Path) -> None:
    report, _ = run(configure(tmp_path, "protocol=random"))
    (told,) = (note for note in report.notes if note.startswith("probabilities"))
    assert "of what is reached in a random 0." in told
    assert report.cost.keys() == COSTS.keys()
    assert min(report.cost.values()) > 0
