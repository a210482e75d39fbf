"""Items that nobody has met: training neither learns from them nor against them, and says nothing of them by their id."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsys.cli.experiment import build
from recsys.data.splits import VALIDATION
from recsys.features.encode import ItemTable
from recsys.features.spec import FeatureSpec
from recsys.training.prepare import Prepared, prepare
from recsys.training.retrieval import RetrievalExamples, RetrievalTrainerConfig

STRANGER = 7
"""catalogue row"""


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory, composed: Any, tiny: tuple[str, ...]) -> Any:
    return build(composed(tmp_path_factory.mktemp("strangers"), *tiny))


@pytest.fixture(scope="module")
def prepared(experiment: Any) -> Prepared:
    dataset = experiment.data.load()
    return prepare(dataset, experiment.protocol.splits(dataset)[-1], experiment.features, experiment.content)


@pytest.fixture(scope="module")
def known(prepared: Prepared) -> np.ndarray:
    """Rows of the log without those of the stranger."""
    return prepared.split.known(VALIDATION) & (prepared.replay.items != STRANGER)


def vectors(
    knobs: RetrievalTrainerConfig,
    prepared: Prepared,
    known: np.ndarray,
    spec: FeatureSpec,
    items: ItemTable,
    **place: Any,
) -> np.ndarray:
    examples = RetrievalExamples.of(prepared, spec, known)
    return knobs.fit(spec, items, examples, None, epochs=None, seed=0, loggers=[], **place)[1]


def altered(items: ItemTable) -> ItemTable:
    """With other content for the stranger."""
    numbers = items.encoded["numbers"].copy()
    numbers[STRANGER] += 1
    return replace(items, encoded={**items.encoded, "numbers": numbers})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("negatives", [0, 20])
def test_what_a_stranger_is_like_teaches_nothing(
    experiment: Any, prepared: Prepared, known: np.ndarray, tmp_path: Path, negatives: int
) -> None:
    knobs = replace(experiment.cascade.retrieval, negatives=negatives)
    spec, items = prepared.spec(known)
    assert prepared.replay.items[known].max() > STRANGER not in prepared.replay.items[known]
    before, after = (
        vectors(knobs, prepared, known, spec, table, trainer=experiment.cascade.trainer, folder=tmp_path / name)
        for name, table in (("before", items), ("after", altered(items)))
    )
    others = np.arange(len(items)) != STRANGER
    np.testing.assert_array_equal(before[others], after[others])
    assert not np.array_equal(before[STRANGER], after[STRANGER])
