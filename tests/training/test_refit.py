"""What is served is fitted again on everything, and the figures are those of the fit before the test all the same."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from recsys.bundle import Bundle
from recsys.cli.experiment import build
from recsys.data.dataset import DESCRIPTION_FILE, Dataset, canonical
from recsys.data.sources.synthetic import Synthetic
from recsys.data.splits import LATER, TEST, GlobalTime, LeaveOneOut, Random, Splitter, whole
from recsys.evaluation.report import Report
from recsys.features.spec import RESERVED
from recsys.pipeline import recommend
from recsys.replay.replay import Replay
from recsys.stages import load_stages, popularity_shares
from recsys.training.cascade import CascadeTrainer
from recsys.training.prepare import prepare

NEWCOMER = "a newcomer"
"""an item of the newest 5% of the log alone"""


@dataclass(frozen=True, kw_only=True)
class Fits:
    """One log, trained with and without a refit."""

    dataset: Dataset
    reports: dict[str, Report]
    bundles: dict[str, Bundle]


def with_a_newcomer(dataset: Dataset) -> Dataset:
    """Every other event of the newest 5% is one of the newcomer, which has the columns of another item."""
    events, start = dataset.interactions, int(0.95 * dataset.num_events)
    newest = pl.Series((np.arange(dataset.num_events) >= start) & (np.arange(dataset.num_events) % 2 == 0))
    twin = dataset.items.head(1).with_columns(item=pl.lit(NEWCOMER))
    actions = [pl.when(newest).then(1.0).otherwise(pl.col(name)).alias(name) for name in dataset.description.actions]
    changed = events.with_columns(
        pl.when(newest).then(pl.lit(NEWCOMER)).otherwise(pl.col("item")).alias("item"), *actions
    )
    return replaced(dataset, changed, pl.concat([dataset.items, twin]))


def replaced(dataset: Dataset, interactions: pl.DataFrame, items: pl.DataFrame) -> Dataset:
    return canonical(
        name=dataset.name,
        interactions=interactions,
        items=items,
        users=dataset.users,
        description=dataset.description,
    )


@pytest.fixture(scope="module")
def configure(tmp_path_factory: pytest.TempPathFactory, composed: Any, tiny: tuple[str, ...]) -> Any:
    """One log and one run directory, with and without a refit: none of the checkpoints depends on it."""
    folder = tmp_path_factory.mktemp("refit")
    with_a_newcomer(Synthetic(users=120, items=80, events=4000, seed=0).load()).save(folder / "log")
    kept = [one for one in tiny if not one.startswith(("data.", "refit="))]
    data = ("data=tables", f"data.description={folder / 'log' / DESCRIPTION_FILE}", "evaluation.baselines={}")
    return lambda *options: composed(folder / "run", *kept, *data, *options)


@pytest.fixture(scope="module")
def fits(configure: Any, run: Any) -> Fits:
    config = configure("refit=false")
    reports, bundles = {}, {}
    reports["false"], measured = run(config)
    bundles["false"] = Bundle.open(shutil.copytree(measured.path, Path(config.run_dir) / "measured"))
    reports["true"], bundles["true"] = run(configure())
    return Fits(dataset=build(config).data.load(), reports=reports, bundles=bundles)


def test_the_figures_are_the_same_and_the_report_says_whose_they_are(fits: Fits) -> None:
    refitted, measured = fits.reports["true"], fits.reports["false"]
    assert refitted.rows == measured.rows
    assert refitted.objectives == measured.objectives
    assert refitted.notes == measured.notes
    assert measured.served == "what is served is what the figures are of"
    assert "figures are of the fit before the test period; served is" in refitted.served
    assert f"all {fits.dataset.num_events:,} events" in refitted.served
    assert fits.bundles["true"].document("metrics.json")["served"] == refitted.served


def test_a_newcomer_of_the_test_period_has_its_own_row_and_is_recommended(fits: Fits) -> None:
    row = fits.dataset.items["item"].to_list().index(NEWCOMER)
    ids = {name: bundle.arrays("item_table.safetensors")["ids"][row, 0] for name, bundle in fits.bundles.items()}
    assert ids["false"] < RESERVED <= ids["true"]
    others = fits.bundles["true"].arrays("item_table.safetensors")["ids"][:, 0]
    assert (others == ids["true"]).sum() == 1
    replay = Replay(fits.dataset, whole(fits.dataset))
    queries = [replay.latest(user, float(replay.timestamps.max()), 10) for user in replay.names[:40].tolist()]
    slates = {name: recommend(queries, load_stages(bundle)) for name, bundle in fits.bundles.items()}
    recommended = [sum(NEWCOMER in {one.item for one in slate.items} for slate in slates[name]) for name in slates]
    assert recommended[1] > 10 > recommended[0], "of 40 users, some of whom have interacted with it"


def test_the_bundle_is_of_everything(fits: Fits) -> None:
    row = fits.dataset.items["item"].to_list().index(NEWCOMER)
    shares = {name: popularity_shares(bundle) for name, bundle in fits.bundles.items()}
    assert shares["false"][row] == 0 < shares["true"][row]
    lineage = fits.bundles["true"].document("lineage.json")
    assert lineage["fitted_on_events"] == fits.dataset.num_events
    assert lineage["retrieval"]["served"]["before"] == "LATER"
    before = [one["before"] for one in lineage["retrieval"]["learnt_from"]]
    assert before == ["RANK", "VALIDATION", "TEST"], "the ranker learns from the newest fifth too"
    assert [one["before"] for one in lineage["retrieval"]["calibrated_on"]] == ["TEST"]


def test_what_was_fitted_for_the_refit_is_read_back(fits: Fits, configure: Any) -> None:
    experiment, folder = build(config := configure()), Path(config.run_dir)
    kept = {file: file.stat().st_mtime_ns for file in folder.glob("checkpoints/*/*/trained.pt")}
    assert {"towers_later", "ranker_served"} < {file.parent.name for file in kept}
    (split,) = experiment.protocol.splits(fits.dataset)
    prepared = prepare(fits.dataset, split, experiment.features, experiment.content)
    again = CascadeTrainer(
        prepared=prepared,
        validation=experiment.evaluation.validation(split, prepared.replay),
        config=experiment.cascade,
        folder=folder / "checkpoints" / "split_0_seed_0",
        seed=0,
        loggers=[],
        echo=lambda _: None,
    )
    served = again.refitted(again.cascade())
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    lineage = fits.bundles["true"].document("lineage.json")["retrieval"]
    assert served.retrieval.version.fingerprint == lineage["served"]["fingerprint"]


SPLITTERS: dict[str, Splitter] = {
    "global time": GlobalTime(rank=0.2, validation=0.1, test=0.2, cuts=1, later=0.0, horizon_days=None),
    "windows before the last": GlobalTime(rank=0.2, validation=0.1, test=0.2, cuts=2, later=0.1, horizon_days=None),
    "leave one out": LeaveOneOut(min_events=5),
    "random": Random(rank=0.1, validation=0.1, test=0.2, seed=0),
}


@pytest.fixture(scope="module")
def log() -> Dataset:
    return Synthetic(users=120, items=80, events=4000, seed=0).load()


@pytest.mark.parametrize("name", SPLITTERS)
def test_what_is_served_knows_all_but_what_nobody_may_see(name: str, log: Dataset) -> None:
    split = SPLITTERS[name].splits(log)[-1]
    held_back = (split.periods == LATER) if split.cuts is not None else np.zeros(log.num_events, dtype=bool)
    assert (split.known(LATER) == ~held_back).all()
    assert held_back.any() == (name == "windows before the last")


@pytest.mark.parametrize("name", SPLITTERS)
def test_the_halves_of_the_test_share_nothing_and_lose_nothing(name: str, log: Dataset) -> None:
    split = SPLITTERS[name].splits(log)[-1]
    first, second = split.halves(log)
    asked = [one.periods == TEST for one in (first, second)]
    assert (asked[0] ^ asked[1])[split.periods == TEST].all()
    assert not (asked[0] | asked[1])[split.periods != TEST].any()
    assert 0.3 < asked[0].sum() / (split.periods == TEST).sum() < 0.7
    times, users = (log.interactions[column].to_numpy() for column in ("timestamp", "user"))
    if split.cuts is None:
        assert not set(users[asked[0]]) & set(users[asked[1]])
    else:
        assert times[asked[0]].max() < times[asked[1]].min() == second.cuts[TEST - 1] == first.end(TEST)


def test_a_half_without_a_watched_request_is_not_cut_off(log: Dataset) -> None:
    times = log.interactions["timestamp"].to_numpy()
    by_time = SPLITTERS["global time"]
    assert isinstance(by_time, GlobalTime)
    (split,) = by_time.splits(log)
    assert split.cuts is not None
    days = (times.max() - split.cuts[TEST - 1]) / 86_400
    (long,) = replace(by_time, horizon_days=0.9 * days).splits(log)
    assert long.halves(log) == (long,)
