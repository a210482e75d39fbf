"""Poison: what lies in TEST reaches nothing that was fitted, what lies in VALIDATION only what is chosen there."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from omegaconf import DictConfig
from safetensors.numpy import save

import train
from recsys.data.dataset import DESCRIPTION_FILE, Dataset
from recsys.data.sources.synthetic import Synthetic
from recsys.data.sources.tables import Tables
from recsys.data.splits import TEST, VALIDATION, GlobalTime, LeaveOneOut, Splitter
from recsys.training.cascade import train_cascade
from recsys.training.prepare import prepare

ABOUT_THE_RUN = {"config.yaml", "lineage.json", "manifest.json", "metrics.json"}
"""the files of a bundle that tell of the run and its test; all others are the model"""
PROTOCOLS: dict[str, Splitter] = {
    "global_time": GlobalTime(rank=0.2, validation=0.1, test=0.2, cuts=1),
    "leave_one_out": LeaveOneOut(min_events=5),
}

Configure = Callable[[str, str], DictConfig]


def poisoned(dataset: Dataset, chosen: np.ndarray) -> Dataset:
    """The chosen events meet other items, with other actions; who, when, and the catalogue stay.

    The target action stays too: it says to which period of leave-one-out an event belongs.
    """
    ids, described = dataset.items["item"], dataset.description
    other = pl.col("item").replace_strict(ids, np.roll(ids.to_numpy(), 17))
    actions = [name for name in described.actions if name != described.target]
    changed = [other, *(1 - pl.col(name) for name in actions)]
    frame, hit = dataset.interactions, pl.Series(chosen)
    return replace(
        dataset,
        interactions=frame.with_columns(
            pl.when(hit).then(new).otherwise(pl.col(name)).alias(name)
            for name, new in zip(("item", *actions), changed, strict=True)
        ),
    )


@pytest.fixture(scope="module", params=PROTOCOLS)
def protocol(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For each protocol one log as it was, one poisoned in TEST and one in VALIDATION."""
    folder = tmp_path_factory.mktemp("worlds")
    dataset = Synthetic(users=120, items=80, events=4000, seed=0).load()
    for name, protocol in PROTOCOLS.items():
        periods = protocol.splits(dataset)[-1].periods
        dataset.save(folder / name / "original")
        for poison, period in (("test", TEST), ("validation", VALIDATION)):
            poisoned(dataset, periods == period).save(folder / name / poison)
    return folder


@pytest.fixture(scope="module")
def configure(
    worlds: Path, composed: Any, tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> Configure:
    def configure(protocol: str, world: str) -> DictConfig:
        description = worlds / protocol / world / DESCRIPTION_FILE
        kept = [one for one in tiny if not one.startswith("data.")]
        return composed(
            tmp_path_factory.mktemp(f"{protocol}-{world}-"),
            *kept,
            f"protocol={protocol}",
            "data=tables",
            f"data.description={description}",
        )

    return configure


def models(config: DictConfig) -> dict[str, Any]:
    """What a bundle keeps of the models, without the graphs, which are drawn from it."""
    experiment, folder = train.build(config), Path(config.run_dir)
    dataset = experiment.data.load()
    prepared = prepare(dataset, experiment.protocol.splits(dataset)[-1], experiment.features, experiment.content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cascade = train_cascade(
            prepared, experiment.knobs, folder=folder, seed=experiment.seed, loggers=[], say=lambda _: None
        )
    candidates, arrays = cascade.retrieve.sources.to_documents()
    cascade.retrieve.sources.index.write(folder / "index.faiss")  # type: ignore[union-attr]
    return {
        "spec": cascade.spec.to_documents(),
        "candidates": (candidates, save({name: np.ascontiguousarray(array) for name, array in arrays.items()})),
        "item_table": save(cascade.retrieve.items.encoded),
        "item_vectors": cascade.item_vectors.tobytes(),
        "index": (folder / "index.faiss").read_bytes(),
        "towers": weights(cascade.towers),
        "ranker": weights(cascade.ranker),
        "calibrator": weights(cascade.calibrator),
    }


def weights(module: torch.nn.Module) -> bytes:
    return save({name: tensor.contiguous().numpy() for name, tensor in module.state_dict().items()})


def differing(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    assert one.keys() == other.keys()
    return {name for name in one if one[name] != other[name]}


@pytest.mark.parametrize("world", ["test", "validation"])
def test_the_poison_is_where_it_should_be_and_nowhere_else(worlds: Path, protocol: str, world: str) -> None:
    original, altered = (
        Tables(description=str(worlds / protocol / name / DESCRIPTION_FILE)).load() for name in ("original", world)
    )
    periods = PROTOCOLS[protocol].splits(original)[-1].periods
    chosen = periods == {"test": TEST, "validation": VALIDATION}[world]
    assert chosen.sum() > 50
    for column in ("item", "like", "share", "buy"):
        same = (altered.interactions[column] == original.interactions[column]).to_numpy()
        assert (same == ~chosen).all()
    assert altered.items.equals(original.items)
    assert (PROTOCOLS[protocol].splits(altered)[-1].periods == periods).all()


def test_altered_test_targets_leave_every_model_file_as_it_was(configure: Configure, run: Any) -> None:
    (before, original), (after, altered) = (run(configure("global_time", world)) for world in ("original", "test"))
    files = {file.name: file.read_bytes() for file in original.path.iterdir()}
    others = {file.name: file.read_bytes() for file in altered.path.iterdir()}
    assert differing(files, others) == ABOUT_THE_RUN
    assert {"weights.safetensors", "ranker.onnx", "user_tower.onnx", "index.faiss", "items.arrow"} <= files.keys()
    assert before.targets_sha256 != after.targets_sha256
    assert before.rows != after.rows


def test_what_test_and_validation_may_change(configure: Configure, protocol: str) -> None:
    """With one epoch the ranker has no epoch to choose, so that only the calibration looks at VALIDATION."""
    original, test, validation = (models(configure(protocol, world)) for world in ("original", "test", "validation"))
    assert differing(original, test) == set()
    assert differing(original, validation) == {"calibrator"}
