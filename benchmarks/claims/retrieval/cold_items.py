"""Items that nobody has met: our towers beside content k-nearest neighbours, and what it costs warm items.

MovieTweetings 100K, 5-core, global time split: a fifth of the items, drawn by a hash of the id, is withheld from
training and from histories altogether and met again in the test period only. Everything is chosen in the validation
period with each of the other fifths withheld in turn, since one of them may hold the one film that everybody sees: the
neighbours' knobs, the share of dropped ids, the epochs. Users with a history
are asked once, when the period begins; a target loses every tie. The same towers with id_dropout=0 and nothing beside
them stand for a model without the mechanism.

"towers" are the dense part alone, "promise" is the source `promising` alone: one list for everybody. "towers + promise"
is what a retrieval stage makes of both: the scores of cold items are joined by their promise, and shifted so that cold
items have a set share of all first places, whatever level their scores came out of training with; the shift looks at who
asks, never at what is right. The promise's knobs, weight and share are chosen on validation too. Writes
benchmarks/results/cold_items.json.

Shapes: B questions, N items of the catalogue.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from rich import box
from rich.table import Table

from benchmarks.lib.cold_content import ContentNeighbours
from benchmarks.lib.cold_world import DRAWS, K, World, load
from benchmarks.lib.result_file import ROOT, Figure, console, print_figures, write_result
from recsys.candidates.candidate_source import TrainingInteractions
from recsys.candidates.cold_start import ColdItemPopularityModel
from recsys.data.splits import TEST, VALIDATION
from recsys.errors import exit_on_error
from recsys.evaluation.intervals import paired_bootstrap
from recsys.index import ExactIndex
from recsys.training.retrieval import RetrievalExamples, RetrievalTrainerConfig
from recsys.training.trainer import Trainer
from recsys.training.validation_queries import ValidationQueries

OVERRIDES = ("features.max_values=8", "retrieval.epochs=14", "trainer.progress=false")
ID_DROPOUTS = (0.1, 0.2, 0.3)
HALF_LIVES = (10.0, 30.0, 100.0)
REGULARISATIONS = (1.0, 10.0, 100.0)
WEIGHTS = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0)
SHARES = (0.02, 0.01, 0.005, 0.0)
MOST_LOST = 0.005
"""share of the warm recall that cold items may cost on validation, half of the goal"""
SEEDS = (0, 1, 2)
COLD, COLD_IN_ALL, WARM = "cold among cold", "cold among all", "warm among all"
OURS, TOWERS, WITHOUT, PROMISE, PEER = (
    "towers + promise",
    "towers",
    "towers, no id dropout",
    "promise",
    "content-kNN",
)
GOAL = 1.25

Worlds = Sequence[World]
"""alike but for the items that are withheld"""
Recalls = dict[str, np.ndarray]
"""COLD, COLD_IN_ALL, WARM -> [b] recall@K of the users who have such a target"""
Found = dict[str, list[Recalls]]
"""system -> one for every seed"""


@dataclass(frozen=True, kw_only=True)
class Towers:
    """The towers to train, and for how long: None while the epochs are still to be chosen."""

    knobs: RetrievalTrainerConfig
    loop: Trainer
    epochs: int | None = None

    def fit(self, world: World, seed: int) -> tuple[np.ndarray, int]:
        """Scores [B, N] of the catalogue, and the epochs that they were trained for."""
        spec, items = world.prepared.spec(world.known)
        validation = ValidationQueries.of(world.questions, spec, items)
        with TemporaryDirectory() as folder:
            towers, vectors, epochs = self.knobs.fit(
                spec,
                items,
                RetrievalExamples.of(world.prepared, spec, world.known),
                validation if self.epochs is None else None,
                trainer=self.loop,
                folder=Path(folder) / "towers",
                epochs=self.epochs,
                seed=seed,
                loggers=[],
            )
        batches = ({name: torch.from_numpy(array) for name, array in batch.items()} for batch in validation.batches())
        with torch.no_grad():
            users = np.concatenate([towers.users(batch).numpy() for batch in batches])
        return users @ vectors.T, epochs


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What validation has decided."""

    neighbours: dict[str, ContentNeighbours]
    """for every kind of question its own"""
    towers: Towers
    without: Towers
    promising: ColdItemPopularityModel
    weight: float
    """of the promise among the cold items"""
    share: float
    """of all first K places that cold items have"""

    def joined(self, world: World, scores: np.ndarray) -> np.ndarray:
        """Scores [B, N] of the towers with promise and level for the cold items."""
        return levelled(world, scores + np.float32(self.weight) * promise(world, self.promising), self.share)

    @property
    def knobs(self) -> dict[str, Any]:
        towers = {"id_dropout": self.towers.knobs.id_dropout, "epochs": self.towers.epochs}
        promising = {name: getattr(self.promising, name) for name in ("half_life_days", "regularisation")}
        return {
            PEER: {kind: asdict(one) for kind, one in self.neighbours.items()},
            TOWERS: towers,
            PROMISE: promising,
            OURS: {**towers, **promising, "weight": self.weight, "share": self.share},
            WITHOUT: {"epochs": self.without.epochs},
        }


def promise(world: World, promising: ColdItemPopularityModel) -> np.ndarray:
    """[1, N] float32, of the withheld items, at most 1; 0 for all others."""
    spec, items = world.prepared.spec(world.known)
    replay, positives = world.prepared.replay, world.known & world.prepared.replay.positives
    known = TrainingInteractions(
        users=replay.users[positives],
        items=replay.items[positives],
        timestamps=replay.seconds[positives],
        table=items,
        spec=spec,
        index=ExactIndex(np.zeros((len(items), 1))),
        ordered=True,
    )
    listed, scores = promising.fit(known), np.zeros((1, len(items)), dtype=np.float32)
    assert listed is not None
    scores[0, listed.rows] = listed.scores
    return scores * world.cold


def levelled(world: World, scores: np.ndarray, share: float) -> np.ndarray:
    """Scores [B, N] with one number added to all cold items, so that they have `share` of the first K places at most."""
    shown = np.where(world.questions.removed.toarray() > 0, -np.inf, scores)
    warm = np.where(world.cold, -np.inf, shown)
    bar = np.partition(warm, -K, axis=1)[:, -K]  # what the last place takes where no cold item is listed
    needed = np.sort((bar[:, None] - shown[:, world.cold]).ravel())  # the more is added, the more pass it
    return scores + np.float32(needed[round(share * K * len(scores))] - 1e-6) * world.cold


def recalls(world: World, scores: np.ndarray) -> Recalls:
    return {
        COLD: world.recall(scores, world.cold, among=world.cold),
        COLD_IN_ALL: world.recall(scores, world.cold),
        WARM: world.recall(scores, world.warm),
    }


def means(found: Recalls) -> dict[str, float]:
    return {kind: round(float(values.mean()), 4) for kind, values in found.items()}


def choose(worlds: Worlds, config: Any) -> Chosen:
    neighbours = choose_neighbours(worlds)
    without, _, floor = train(worlds, config, 0.0)
    tried = [train(worlds, config, share) for share in ID_DROPOUTS]
    towers, scores, _ = max(tried, key=lambda one: one[2][COLD] + one[2][WARM])
    promising = choose_promise(worlds)
    promises = [promise(world, promising) for world in worlds]
    weight = max(WEIGHTS, key=lambda one: average(worlds, beside(scores, promises, one))[COLD])
    for share in SHARES:
        chosen = Chosen(
            neighbours=neighbours, towers=towers, without=without, promising=promising, weight=weight, share=share
        )
        found = average(worlds, [chosen.joined(*one) for one in zip(worlds, scores, strict=True)])
        console.print(f"  {OURS}, weight {weight}, share {share}: {found}", style="dim")
        if found[WARM] >= (1 - MOST_LOST) * floor[WARM]:
            break
    return chosen


def beside(scores: Sequence[np.ndarray], promises: Sequence[np.ndarray], weight: float) -> list[np.ndarray]:
    return [own + np.float32(weight) * other for own, other in zip(scores, promises, strict=True)]


def train(worlds: Worlds, config: Any, id_dropout: float) -> tuple[Towers, list[np.ndarray], dict[str, float]]:
    """Towers that know for how many epochs, their scores by world, and what these are worth."""
    knobs, loop = (instantiate(config[name], _convert_="all") for name in ("retrieval", "trainer"))
    towers = Towers(knobs=replace(knobs, id_dropout=id_dropout), loop=loop)
    scores, epochs = zip(*(towers.fit(world, SEEDS[0]) for world in worlds), strict=True)
    found = average(worlds, scores)
    console.print(f"  id_dropout {id_dropout}: {epochs} epochs, {found}", style="dim")
    return replace(towers, epochs=round(np.mean(epochs))), list(scores), found


def average(worlds: Worlds, scores: Sequence[np.ndarray]) -> dict[str, float]:
    """Means over the worlds, each of the same weight however popular its withheld items are."""
    found = [means(recalls(world, one)) for world, one in zip(worlds, scores, strict=True)]
    return {kind: round(float(np.mean([one[kind] for one in found])), 4) for kind in found[0]}


def choose_neighbours(worlds: Worlds) -> dict[str, ContentNeighbours]:
    """The best knobs for every kind of question."""
    tried = [(average(worlds, [_ask(one, world) for world in worlds]), one) for one in ContentNeighbours.grid()]
    best = {kind: max(tried, key=lambda one: one[0][kind]) for kind in (COLD, COLD_IN_ALL, WARM)}
    for kind, (found, knobs) in best.items():
        console.print(f"  {PEER} for {kind}: {found}, {knobs}", style="dim")
    return {kind: knobs for kind, (_, knobs) in best.items()}


def choose_promise(worlds: Worlds) -> ColdItemPopularityModel:
    """The knobs that are best among cold items."""
    grid = [
        ColdItemPopularityModel(
            num=K, weight=1.0, kept=worlds[0].questions.num_items, half_life_days=days, regularisation=penalty
        )
        for days, penalty in product(HALF_LIVES, REGULARISATIONS)
    ]
    tried = [(average(worlds, [alone(world, one) for world in worlds]), one) for one in grid]
    found, best = max(tried, key=lambda one: one[0][COLD])
    console.print(f"  {PROMISE}: {found}, {best.half_life_days} days, {best.regularisation}", style="dim")
    return best


def alone(world: World, promising: ColdItemPopularityModel) -> np.ndarray:
    """Scores [B, N], the same for everybody."""
    return np.repeat(promise(world, promising), len(world.questions), axis=0)


def _ask(neighbours: ContentNeighbours, world: World) -> np.ndarray:
    return neighbours.scores(world.prepared.dataset, world.questions)


def measure(world: World, chosen: Chosen) -> Found:
    scores = {
        name: [towers.fit(world, seed)[0] for seed in SEEDS]
        for name, towers in ((TOWERS, chosen.towers), (WITHOUT, chosen.without))
    }
    scores[OURS] = [chosen.joined(world, one) for one in scores[TOWERS]]
    best = {kind: recalls(world, _ask(one, world))[kind] for kind, one in chosen.neighbours.items()}
    scores[PROMISE] = [alone(world, chosen.promising)]
    return {PEER: [best]} | {name: [recalls(world, one) for one in own] for name, own in scores.items()}


def rows(found: Found, knobs: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One for every system and kind of question: the mean over users and seeds."""
    for system, seeds in found.items():
        for kind in (COLD, COLD_IN_ALL, WARM):
            values = [float(one[kind].mean()) for one in seeds]
            yield {
                "system": system,
                "question": kind,
                f"recall@{K}": round(float(np.mean(values)), 4),
                "seeds": [round(one, 4) for one in values],
                "users": len(seeds[0][kind]),
                "knobs": knobs[system],
            }


def difference(found: Found, system: str, other: str, kind: str) -> dict[str, Any]:
    """System - other of every user's mean over seeds, with the paired 95% interval over users."""
    a, b = (np.mean([one[kind] for one in found[name]], axis=0) for name in (system, other))
    mean, *ends = paired_bootstrap(a, b, seed=0)
    named = {"system": f"{system} - {other}", "question": kind}
    return {**named, f"recall@{K}": round(mean, 4), "ci95": [round(end, 4) for end in ends]}


def figures(found: Found) -> dict[str, Figure]:
    def ratio(system: str, other: str, kind: str) -> float:
        a, b = (np.mean([one[kind].mean() for one in found[name]]) for name in (system, other))
        return float(a / b)

    times = f"times its recall@{K}"
    change = 100 * (ratio(OURS, WITHOUT, WARM) - 1)
    return {
        f"cold_recall@{K}_over_content_knn": Figure(
            value=round(ratio(OURS, PEER, COLD), 3), unit=f"{times}, among cold items", goal=GOAL, better="higher"
        ),
        f"cold_recall@{K}_in_all_over_content_knn": Figure(
            value=round(ratio(OURS, PEER, COLD_IN_ALL), 3), unit=f"{times}, among all items", goal=GOAL, better="higher"
        ),
        f"warm_recall@{K}_change_percent": Figure(
            value=round(change, 2), unit=f"% of the recall@{K} without id dropout", goal=-1.0, better="higher"
        ),
    }


def table(rows: Sequence[dict[str, Any]]) -> Table:
    shown = Table(title=f"Recall@{K} of the targets", box=box.SIMPLE_HEAD, title_justify="left")
    for heading in ("question", "system", f"recall@{K}", "seeds", "95% interval", "users"):
        shown.add_column(heading, justify="left" if heading in ("question", "system") else "right")
    for one in sorted(rows, key=lambda row: row["question"]):
        seeds, ends = one.get("seeds", ()), one.get("ci95", ())
        cells = (
            f"{one[f'recall@{K}']:.4f}",
            " ".join(f"{x:.4f}" for x in seeds),
            " to ".join(f"{x:.4f}" for x in ends),
        )
        shown.add_row(one["question"], one["system"], *cells, str(one.get("users", "")))
    return shown


def main() -> None:
    start = time.perf_counter()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", overrides=list(OVERRIDES))
    part = {name: instantiate(config[name], _convert_="all") for name in ("protocol", "features", "content")}
    with TemporaryDirectory() as folder:
        dataset = load(Path(folder))
    split = part["protocol"].splits(dataset)[0]
    console.rule("validation", align="left")
    chosen = choose(
        [
            World.of(dataset, split, VALIDATION, part["features"], part["content"], number)
            for number in DRAWS[VALIDATION]
        ],
        config,
    )
    console.rule("test", align="left")
    (number,) = DRAWS[TEST]
    found = measure(World.of(dataset, split, TEST, part["features"], part["content"], number), chosen)
    measured = list(rows(found, chosen.knobs))
    measured += [difference(found, OURS, PEER, COLD), difference(found, OURS, TOWERS, COLD)]
    measured += [difference(found, OURS, WITHOUT, WARM)]
    claimed = figures(found)
    file = write_result("cold_items", measured, claimed, time.perf_counter() - start)
    console.print(table(measured))
    print_figures(claimed)
    console.print(f"\nresult   {file}")
    console.print(
        "next     python train.py data=tables data.description=my.yaml retrieval.id_dropout=0.2", style="bold"
    )


if __name__ == "__main__":
    with exit_on_error():
        main()
