"""Items that nobody has met: our towers beside content k-nearest neighbours, and what being able to costs warm items.

MovieTweetings 100K, 5-core, global time split: a fifth of the items, drawn by a hash of the id, is withheld from
training and from histories altogether and met again in the test period only. Everything is chosen in the validation
period with another fifth withheld: the neighbours' knobs, the share of dropped ids, the epochs. Users with a history
are asked once, when the period begins; a target loses every tie. The same towers with id_dropout=0 stand for a model
without the mechanism. Writes benchmarks/results/cold_items.json.

Shapes: B questions, N items of the catalogue, S seeds.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from cold_content import ContentNeighbours
from cold_world import K, World, load
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from result_file import ROOT, Figure, write_result
from rich import box
from rich.console import Console
from rich.table import Table

from recsys.data.splits import TEST, VALIDATION
from recsys.errors import exit_on_error
from recsys.evaluation.intervals import paired_bootstrap
from recsys.training.loop import Loop
from recsys.training.retrieval import RetrievalExamples, RetrievalTraining
from recsys.training.watched import Watched

OVERRIDES = ("data=tables", "data.description=none", "features.max_values=8", "retrieval.epochs=14")
ID_DROPOUTS = (0.1, 0.2, 0.3)
SEEDS = (0, 1, 2)
COLD, COLD_IN_ALL, WARM = "cold among cold", "cold among all", "warm among all"

Recalls = dict[str, np.ndarray]
"""COLD, COLD_IN_ALL, WARM -> [b] recall@K of the users who have such a target"""

console = Console()


@dataclass(frozen=True, kw_only=True)
class Towers:
    """The towers to train, and for how long: None while the epochs are still to be chosen."""

    knobs: RetrievalTraining
    loop: Loop
    epochs: int | None = None

    def fit(self, world: World, seed: int) -> tuple[np.ndarray, int]:
        """Scores [B, N] of the catalogue, and the epochs that they were trained for."""
        spec, items = world.prepared.spec(world.known)
        watched = Watched.of(world.questions, spec, items)
        with TemporaryDirectory() as folder:
            towers, vectors, epochs = self.knobs.fit(
                spec,
                items,
                RetrievalExamples.of(world.prepared, spec, world.known),
                watched if self.epochs is None else None,
                loop=self.loop,
                folder=Path(folder) / "towers",
                epochs=self.epochs,
                seed=seed,
                loggers=[],
            )
        batches = ({name: torch.from_numpy(array) for name, array in batch.items()} for batch in watched.batches())
        with torch.no_grad():
            users = np.concatenate([towers.users(batch).numpy() for batch in batches])
        return users @ vectors.T, epochs

    def chosen(self, world: World) -> "tuple[Towers, float]":
        """With the best epochs, and what they are worth: recall of cold items among them + recall of warm ones."""
        scores, epochs = self.fit(world, SEEDS[0])
        found = recalls(world, scores)
        console.print(f"  id_dropout {self.knobs.id_dropout}: {epochs} epochs, {means(found)}", style="dim")
        return replace(self, epochs=epochs), float(found[COLD].mean() + found[WARM].mean())


def recalls(world: World, scores: np.ndarray) -> Recalls:
    return {
        COLD: world.recall(scores, world.cold, among=world.cold),
        COLD_IN_ALL: world.recall(scores, world.cold),
        WARM: world.recall(scores, world.warm),
    }


def means(found: Recalls) -> dict[str, float]:
    return {name: round(float(values.mean()), 4) for name, values in found.items()}


def choose_neighbours(world: World, kind: str) -> ContentNeighbours:
    """The knobs with the best mean recall of one kind."""
    dataset = world.prepared.dataset
    return max(
        ContentNeighbours.grid(), key=lambda one: recalls(world, one.scores(dataset, world.questions))[kind].mean()
    )


def choose_towers(world: World, config: Any) -> tuple[Towers, Towers]:
    """Those that drop ids, and the same without; each with the epochs that suit it."""
    knobs, loop = (instantiate(config[name], _convert_="all") for name in ("retrieval", "trainer"))
    every = [
        Towers(knobs=replace(knobs, id_dropout=share), loop=loop).chosen(world) for share in (0.0, *ID_DROPOUTS)
    ]
    return max(every[1:], key=lambda one: one[1])[0], every[0][0]


def measure(world: World, systems: Mapping[str, Any]) -> dict[str, list[Recalls]]:
    """One for every seed; neighbours have no seed."""
    found: dict[str, list[Recalls]] = {}
    for name, system in systems.items():
        if isinstance(system, ContentNeighbours):
            found[name] = [recalls(world, system.scores(world.prepared.dataset, world.questions))]
        else:
            found[name] = [recalls(world, system.fit(world, seed)[0]) for seed in SEEDS]
        console.print(f"  {name}: {[means(one) for one in found[name]]}", style="dim")
    return found
