"""A file of sequences has no time: the whole cascade trains on it, and no number of it is taken for seconds."""

from typing import Any

import numpy as np
import pytest
from omegaconf import DictConfig

from recsys.cli.experiment import build
from recsys.contracts import Event, Query
from recsys.data.splits import VALIDATION
from recsys.features.batches import RequestBatch
from recsys.pipeline import recommend
from recsys.stages import load_stages
from recsys.training.prepare import Prepared, prepare

USERS, ITEMS = 150, 40


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, composed: Any, tiny: tuple[str, ...]) -> DictConfig:
    """Users walk along a circle of items, every item has its neighbourhood as attributes."""
    folder, rng = tmp_path_factory.mktemp("timeless"), np.random.default_rng(0)
    walks = (rng.integers(ITEMS) + np.cumsum(rng.integers(1, 4, rng.integers(6, 12))) for _ in range(USERS))
    lines = [f"u{user} {' '.join(f'i{step % ITEMS}' for step in walk)}" for user, walk in enumerate(walks)]
    (folder / "walks.txt").write_text("\n".join(lines) + "\n")
    attributes = ", ".join(f'"i{item}": [{item // 5}, {item % 3}]' for item in range(ITEMS))
    (folder / "walks_item2attributes.json").write_text(f"{{{attributes}}}")
    kept = [one for one in tiny if not one.startswith("data.")]
    return composed(
        folder / "run",
        *kept,
        "data=sequence",
        f"data.path={folder / 'walks.txt'}",
        "protocol=leave_one_out",
        "features.leave_out=[]",
    )


@pytest.fixture(scope="module")
def prepared(config: DictConfig) -> Prepared:
    experiment = build(config)
    dataset = experiment.data.load()
    return prepare(dataset, experiment.protocol.splits(dataset)[-1], experiment.features, experiment.content)


def test_no_feature_reads_a_clock(prepared: Prepared, config: DictConfig) -> None:
    spec, items = prepared.spec(prepared.split.known(VALIDATION))
    assert not spec.clock
    assert spec.context.widths == {}
    assert not [tensor.name for tensor in RequestBatch.specs(spec.sizes) if tensor.name.startswith("context")]
    assert items.encoded["ids"].shape == (ITEMS + 1, 3), "the item and its two attributes"
    weights = build(config).cascade.retrieval.weights(prepared.replay.seconds)
    assert config.retrieval.half_life_days is not None
    assert (weights == 1).all()


def test_the_cascade_trains_and_answers_whatever_the_clock_says(config: DictConfig, run: Any) -> None:
    report, bundle = run(config)
    assert report.protocol.startswith("walks, leave one out split, nothing fitted on validation or test")
    assert "recent_popularity is left out: the events have no timestamps" in report.notes
    assert report.users == USERS
    assert "order: user, there is no time" in report.notes[0]
    stages = load_stages(bundle)
    histories = ([0.0, 1.0, 2.0], [1.6e9, 1.7e9, 1.8e9])
    slates = [recommend([asked(times)], stages)[0] for times in histories]
    assert slates[0] == slates[1]
    assert len(slates[0].items) == 10


def asked(times: list[float]) -> Query:
    events = (Event(user="u", item=f"i{place}", timestamp=time) for place, time in enumerate(times))
    return Query(user="u", now=times[-1], history=tuple(events))
