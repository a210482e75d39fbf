"""Poison: what lies in TEST reaches nothing that was fitted, what lies in VALIDATION only what is chosen there.

Unless the protocol is strict, VALIDATION is also what the served towers learn from, once all has been chosen.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from safetensors.numpy import save

from recsys.cli.experiment import build
from recsys.data.dataset import DESCRIPTION_FILE, Dataset
from recsys.data.sources.synthetic import Synthetic
from recsys.data.sources.tables import Tables
from recsys.data.splits import LATER, RANK, TEST, VALIDATION, GlobalTime, LeaveOneOut, Random, Splitter
from recsys.training.cascade import CascadeTrainer, TrainedRetrieval
from recsys.training.prepare import prepare
from recsys.training.sweeps import OVERRIDES_FILE, compare_jobs
from recsys.training.trainer import FINISHED_FILE

pytestmark = pytest.mark.slow

ABOUT_THE_RUN = {"config.yaml", "lineage.json", "manifest.json", "metrics.json", "user_seed.arrow"}
ABOUT_THE_RUN |= {"reference.json", "reference.safetensors"}
"""the files of a bundle that tell of the run, its test and its users until now; all others are the model"""
PROTOCOLS: dict[str, Splitter] = {
    "global_time": GlobalTime(rank=0.2, validation=0.1, test=0.2, cuts=1, later=0.0, horizon_days=None),
    "leave_one_out": LeaveOneOut(min_events=5),
    "random": Random(rank=0.1, validation=0.1, test=0.2, seed=0),
}
PERIODS = {"rank": RANK, "validation": VALIDATION, "test": TEST}
SERVED = {"spec", "item_table", "item_vectors", "index", "sources", "towers"}
"""fitted on all that is known when TEST is asked"""
JUDGED = {"choices", "ranker", "calibrator", "posterior"}
"""chosen on VALIDATION, or trained on candidates that were chosen there; one epoch leaves none of it to choose"""
CHOICES = {"weight", "place_weight", "new_user_weight", "new_user_place_weight", "decay"}
"""of a source, among what a bundle keeps of it"""
MUST_AND_MAY = {
    ("test", False): (set(), set()),
    ("test", True): (set(), set()),
    ("validation", False): ({"towers", "sources", "ranker", "calibrator"}, SERVED | JUDGED),
    ("validation", True): ({"calibrator"}, JUDGED),
    ("rank", False): ({"towers", "towers asked in validation"}, SERVED | JUDGED | {"towers asked in validation"}),
    ("rank", True): ({"towers", "towers asked in validation"}, SERVED | JUDGED | {"towers asked in validation"}),
}
"""(poisoned period, strict) -> what has to change, so that the poison is seen to work, and all that may"""

OTHER_OPERATORS = {
    "item_item": ("together_5",),
    "following": ("next_3_50", "next_6_25", "next_6_0", "next_12_0"),
    "linear": ("ease_50", "ease_800", "ease_near", "cosine_5", "cosine_20"),
}
"""left out, so that VALIDATION has no operator to choose: a source then may not change by it at all"""
ONE_VALUE = ("factors.grid.confidence=[20.0]", "popular.grid.days=[30.0]")
"""for the same reason"""
Configure = Callable[[str, str], DictConfig]


def poisoned(dataset: Dataset, chosen: np.ndarray, protocol: str) -> Dataset:
    """The chosen events meet other items, with other actions; who, when, and the catalogue stay.

    What says to which period an event belongs stays too: the target action of leave-one-out, the item of the random split.
    """
    hit, ids = pl.Series(chosen), dataset.items["item"]
    changed = {name: 1 - pl.col(name) for name in dataset.description.actions}
    if protocol == "leave_one_out":
        del changed[dataset.description.target]
    if protocol != "random":
        changed["item"] = pl.col("item").replace_strict(ids, np.roll(ids.to_numpy(), 17))
    altered = [pl.when(hit).then(new).otherwise(pl.col(name)).alias(name) for name, new in changed.items()]
    return replace(dataset, interactions=dataset.interactions.with_columns(altered))


@pytest.fixture(scope="module", params=PROTOCOLS)
def protocol(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For each protocol one log as it was, and one poisoned in each of its later periods."""
    folder = tmp_path_factory.mktemp("worlds")
    dataset = Synthetic(users=120, items=80, events=4000, seed=0).load()
    for name, protocol in PROTOCOLS.items():
        periods = protocol.splits(dataset)[-1].periods
        dataset.save(folder / name / "original")
        for poison, period in PERIODS.items():
            poisoned(dataset, periods == period, name).save(folder / name / poison)
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
            *(f"candidates.sources.{one}" for one in ONE_VALUE),
            *(
                f"candidates.sources.{source}.grid.operator.{name}=null"
                for source, names in OTHER_OPERATORS.items()
                for name in names
            ),
        )

    return configure


def models(config: DictConfig) -> dict[str, Any]:
    """All that was fitted, without the graphs, which are drawn from it."""
    experiment, folder = build(config), Path(config.run_dir)
    dataset = experiment.data.load()
    split = experiment.protocol.splits(dataset)[-1]
    prepared = prepare(dataset, split, experiment.features, experiment.content)
    run = CascadeTrainer(
        prepared=prepared,
        validation=experiment.evaluation.validation(split, prepared.replay),
        config=experiment.cascade,
        folder=folder,
        seed=0,
        loggers=[],
        echo=lambda _: None,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cascade = run.cascade()
    assert cascade.ranking is not None
    return {
        **served(cascade.retrieval, folder),
        "ranker": weights(cascade.ranking.ranker.state_dict()),
        "calibrator": weights(cascade.ranking.calibrator.state_dict()),
        "posterior": weights(cascade.ranking.posterior.state_dict()),
        **{f"towers asked in {period}": checkpoint(folder / f"towers_{period}") for period in ("rank", "validation")},
    }


def served(trained: TrainedRetrieval, folder: Path) -> dict[str, Any]:
    sources = trained.retrieve.sources
    document, arrays = sources.to_documents()
    sources.index.write(folder / "index.faiss")  # type: ignore[union-attr]
    fitted = [{key: value for key, value in one.items() if key not in CHOICES} for one in document["sources"]]
    return {
        "spec": trained.retrieve.spec.to_documents(),
        "item_table": save(trained.retrieve.items.encoded),
        "item_vectors": trained.item_vectors.tobytes(),
        "index": (folder / "index.faiss").read_bytes(),
        "sources": (fitted, save({name: np.ascontiguousarray(array) for name, array in arrays.items()})),
        "towers": weights(trained.towers.state_dict()),
        "choices": (sources.chosen, trained.epochs),
    }


def checkpoint(folder: Path) -> bytes:
    return weights(torch.load(folder / FINISHED_FILE, weights_only=True)["state_dict"])


def weights(state: Mapping[str, torch.Tensor]) -> bytes:
    return save({name: tensor.contiguous().numpy() for name, tensor in state.items()})


def differing(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    assert one.keys() == other.keys()
    return {name for name in one if one[name] != other[name]}


@pytest.mark.parametrize("world", PERIODS)
def test_the_poison_is_where_it_should_be_and_nowhere_else(worlds: Path, protocol: str, world: str) -> None:
    original, altered = (
        Tables(description=str(worlds / protocol / name / DESCRIPTION_FILE)).load() for name in ("original", world)
    )
    periods = PROTOCOLS[protocol].splits(original)[-1].periods
    chosen = periods == PERIODS[world]
    assert chosen.sum() > 50
    kept = {"leave_one_out": {"click"}, "random": {"item"}}.get(protocol, set())
    for column in {"item", "click", "like", "share", "buy"} - kept:
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


def test_what_comes_later_than_the_test_changes_neither_files_nor_figures(
    composed: Any, tiny: tuple[str, ...], run: Any, tmp_path: Path
) -> None:
    dataset = Synthetic(users=120, items=80, events=4000, seed=0).load()
    later = replace(PROTOCOLS["global_time"], later=0.2).splits(dataset)[-1].periods == LATER  # type: ignore[type-var]
    assert later.sum() > 500
    reports, bundles = [], []
    for name, world in (("original", dataset), ("later", poisoned(dataset, later, "global_time"))):
        world.save(tmp_path / name)
        kept = [one for one in tiny if not one.startswith("data.")]
        data = ["data=tables", f"data.description={tmp_path / name / DESCRIPTION_FILE}"]
        report, bundle = run(composed(tmp_path / f"{name} run", *kept, "protocol.later=0.2", *data))
        reports.append((report.rows, report.targets_sha256))
        bundles.append({file.name: file.read_bytes() for file in bundle.path.iterdir()})
    assert reports[0] == reports[1]
    assert differing(*bundles) <= ABOUT_THE_RUN


def test_the_choice_between_configurations_knows_nothing_of_the_test(configure: Configure, tmp_path: Path) -> None:
    chosen = {}
    for world in ("original", "test", "validation"):
        for number, dim in enumerate((8, 16)):
            config = configure("global_time", world)
            config.retrieval.dim, config.run_dir = dim, str(tmp_path / world / str(number))
            resolved: Any = OmegaConf.to_container(config, resolve=True)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                build(config).validate(Path(config.run_dir), resolved, echo=lambda _: None)
            overrides = tmp_path / world / str(number) / OVERRIDES_FILE
            overrides.parent.mkdir()
            overrides.write_text(f"[retrieval.dim={dim}]")
        chosen[world] = compare_jobs(tmp_path / world).to_document()
    assert chosen["test"] == chosen["original"]
    assert chosen["validation"] != chosen["original"]
    assert chosen["original"]["best"] in ("retrieval.dim=8", "retrieval.dim=16")


@pytest.fixture(scope="module")
def original(configure: Configure, protocol: str) -> dict[str, Any]:
    return models(configure(protocol, "original"))


@pytest.mark.parametrize("world", PERIODS)
def test_a_period_changes_only_what_may_know_it(
    configure: Configure, protocol: str, world: str, original: dict[str, Any]
) -> None:
    must, may = MUST_AND_MAY[world, protocol == "leave_one_out"]
    changed = differing(original, models(configure(protocol, world)))
    assert must <= changed <= may
