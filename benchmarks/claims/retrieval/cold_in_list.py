"""Items that nobody has met, in the list of all items that the default retrieval gives: what they gain and what warm items pay.

MovieTweetings 100K as in `cold_items`: a fifth of the items, drawn by a hash of the id, is withheld from training and from
histories and met again in the test period only. The cascade is trained with its defaults; options of train.py may follow the
command, ~ranking among them. Weights and epochs are chosen on VALIDATION, where none of the withheld items exists. TEST is
read once: the merged list with the positions that are kept for cold items, the same without them, and the ranker's order.
Intervals are bootstraps over users. Writes benchmarks/results/cold_in_list.json.

Shapes: B questions, N items of the catalogue, K positions.
"""

import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir

from benchmarks.lib.cold_world import DRAWS, World, load
from benchmarks.lib.result_file import ROOT, Figure, console, print_figures, write_result
from recsys.candidates.sources import MergedSources
from recsys.cli.experiment import build
from recsys.content.choice import TextChoice
from recsys.data.splits import TEST
from recsys.errors import exit_on_error
from recsys.evaluation.intervals import bootstrap_interval
from recsys.metrics import hits, ndcg, recall
from recsys.pipeline import Stage
from recsys.replay.evaluation_queries import RETRIEVED
from recsys.training.cascade import CascadeTrainer, TrainedCascade
from recsys.training.eager_stages import Reencode, eager_rank, eager_rules
from recsys.training.experiment import Experiment

OVERRIDES = ("features.max_values=8", "trainer.progress=false")
SOURCE = "cold"
KEPT, WITHOUT, PIPELINE = "with kept positions", "without", "pipeline"
COLD, WARM, WARM_NDCG = "cold recall@20", "warm recall@20", "warm ndcg@10"

PerUser = dict[str, np.ndarray]
"""COLD, WARM, WARM_NDCG -> [b] values of the users who have such a target"""


def measures(world: World, rows: np.ndarray) -> PerUser:
    """Measure rankings [B, K] of all items."""
    found = {}
    for name, wanted, metric, k in (
        (COLD, world.cold, recall, 20),
        (WARM, world.warm, recall, 20),
        (WARM_NDCG, world.warm, ndcg, 10),
    ):
        users, targets = world.questions.targets.only(wanted[world.questions.targets.items])
        found[name] = metric(hits(rows[users], targets), targets.num_targets, k)
    return found


def without_cold(sources: MergedSources) -> MergedSources:
    return replace(sources, sources=tuple(one for one in sources.sources if one.name != SOURCE))


def rankings(experiment: Experiment, world: World, folder: Path) -> dict[str, np.ndarray]:
    """Train the retrieval and rank for the questions of the test period."""
    trainer = CascadeTrainer(
        prepared=world.prepared,
        validation=experiment.evaluation.validation(world.prepared.split, world.prepared.replay),
        config=experiment.cascade,
        folder=folder / "split_0",
        seed=experiment.seeds[0],
        loggers=[],
        echo=lambda line: console.print(line, style="dim"),
    )
    trained = trainer.cascade()
    retrieve = replace(trained.by_period[TEST].retrieve, ranked=False)
    stages = {KEPT: retrieve, WITHOUT: replace(retrieve, sources=without_cold(retrieve.sources))}
    found = {name: world.questions.rankings([one], {})[RETRIEVED] for name, one in stages.items()}
    if trained.ranking is not None:
        found[PIPELINE] = ranked(experiment, world, trainer, trained)
    return found


def ranked(experiment: Experiment, world: World, trainer: CascadeTrainer, trained: TrainedCascade) -> np.ndarray:
    """Order the candidates, kept positions included, by ranker and policy."""
    assert trained.ranking is not None
    retrieval, encoding = trained.by_period[TEST], trainer.encoding
    policy = experiment.policy.expand(
        world.prepared.dataset.description.target, world.prepared.dataset.description.means
    )
    last = eager_rules(world.prepared, retrieval, encoding, policy, experiment.rules)
    num_sources = len(retrieval.retrieve.sources.names)
    ranker = eager_rank(trained.ranking, encoding, num_sources, uncertain=False)
    stages: list[Stage] = [retrieval.retrieve, Reencode(encoding=encoding), ranker]
    return world.questions.rankings(stages, {PIPELINE: last})[PIPELINE]


def rows_of(found: Mapping[str, PerUser]) -> Iterator[dict[str, Any]]:
    """One a system and measure, then the paired differences."""
    for system, values in found.items():
        for name, own in values.items():
            yield {"system": system, "measure": name, "users": len(own), **_mean_with_interval(own)}
    for system in (one for one in found if one != WITHOUT):
        for name, own in found[system].items():
            difference = _mean_with_interval(own - found[WITHOUT][name])
            yield {"system": f"{system} - {WITHOUT}", "measure": name, "users": len(own), **difference}


def _mean_with_interval(values: np.ndarray) -> dict[str, Any]:
    ends = bootstrap_interval(values, seed=0)
    return {"mean": round(float(values.mean()), 4), "ci95": [round(end, 4) for end in ends]}


def figures(found: Mapping[str, PerUser]) -> dict[str, Figure]:
    low, _ = bootstrap_interval(found[KEPT][COLD], seed=0)
    change = 100 * (found[KEPT][WARM_NDCG].mean() / found[WITHOUT][WARM_NDCG].mean() - 1)
    return {
        "cold_recall@20_in_list_low": Figure(
            value=round(low, 4), unit="lower end of its 95% interval, among all items", goal=0.0001, better="higher"
        ),
        "warm_ndcg@10_change_percent": Figure(
            value=round(float(change), 2), unit="% of the list without kept positions", goal=-1.0, better="higher"
        ),
    }


def main() -> None:
    start = time.perf_counter()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        experiment = build(compose("train", overrides=[*OVERRIDES, *sys.argv[1:]]))
    with TemporaryDirectory() as folder:
        assert isinstance(experiment, Experiment)
        assert not isinstance(experiment.content, TextChoice), "name one encoder"
        dataset = load(Path(folder))
        split = experiment.protocol.splits(dataset)[0]
        (number,) = DRAWS[TEST]
        world = World.of(dataset, split, TEST, experiment.features, experiment.content, number)
        found = {name: measures(world, rows) for name, rows in rankings(experiment, world, Path(folder)).items()}
    measured, claimed = list(rows_of(found)), figures(found)
    for row in measured:
        console.print(f"{row['system']:32} {row['measure']:16} {row['mean']:.4f}  {row['ci95']}")
    file = write_result("cold_in_list", measured, claimed, time.perf_counter() - start)
    print_figures(claimed)
    console.print(f"\nresult   {file}")


if __name__ == "__main__":
    with exit_on_error():
        main()
