"""Training of the two towers.

Shapes: B windows, L history, P = L + 1 positions, M targets of a batch, N items, Q validation queries.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from torch import Tensor

from recsys.contracts import PAD
from recsys.errors import ConfigError, check_ranges
from recsys.evaluation.metrics import Targets, hits, recall
from recsys.features.encode import DAY, Arrays, ItemTable
from recsys.features.spec import FeatureSpec
from recsys.nn.losses import full_softmax, sampled_softmax
from recsys.retrieval.two_tower import TwoTower
from recsys.training.examples import Sequences, Windows
from recsys.training.loop import Fitting, Loop, index_batches
from recsys.training.resident import Resident

RECALL_AT = 100


@dataclass(frozen=True, kw_only=True)
class Watched:
    """Later queries of Q users, for early stopping."""

    queries: Arrays
    """request tensors"""
    seen: list[np.ndarray]
    """catalogue rows that each has met before"""
    targets: Targets


@dataclass(frozen=True, kw_only=True)
class RetrievalExamples:
    """What the towers learn from and are watched on."""

    sequences: Sequences
    windows: Windows
    positives: np.ndarray
    """[M] bool, remembered events that may be predicted"""
    timestamps: np.ndarray
    """[M] unix seconds of the remembered events, NaN where there is no time"""
    profile: Arrays
    """[U, ...] by user code"""
    context: Arrays
    """[R, ...] by row of the log"""
    watched: Watched


class RetrievalTask(pl.LightningModule):
    """Softmax over items at every position of a window; all tensors live on the device."""

    def __init__(self, towers: TwoTower, items: ItemTable, examples: RetrievalExamples, knobs: "RetrievalTraining"):
        super().__init__()
        self.towers = towers
        self.knobs = knobs
        self.num_items = len(items)
        self.examples = examples
        events, windows = examples.sequences, examples.windows
        counts = np.bincount(events.items, minlength=self.num_items)
        self.items = Resident(items.encoded)
        self.profile = Resident(examples.profile)
        self.context = Resident({name: part[events.rows] for name, part in examples.context.items()})
        self.events = Resident(
            {
                "item": _with_pad(events.items, self.num_items),
                "labels": _with_pad(events.labels, 0),
                "gap": _with_pad(events.gaps, 0),
                "user": events.users,
                "weight": knobs.weights(examples.timestamps),
                "positive": examples.positives,
                "newest": np.repeat(events.offsets[1:] - 1, np.diff(events.offsets)),
            }
        )
        self.windows = Resident({"events": windows.events, "targets": windows.targets})
        self.popularity = Resident({"share": (counts / counts.sum()).astype(np.float32)})

    def training_step(self, indices: Tensor) -> Tensor:
        window = self.windows.rows(indices)
        events, asked = window["events"], window["targets"] != PAD
        batch = {
            **self.items.join("history", self.events["item"][events]),
            "history_labels": self.events["labels"][events],
            "history_gaps": self.events["gap"][events],
        }
        following = window["targets"][asked]
        request = {
            **self.profile.join("profile", self.events["user"][following]),
            **self.context.join("context", following),
        }
        target = self._ahead(following)
        users = self.towers.head(self.towers.histories(batch)[asked], request)
        weights = self.events["weight"][target]
        loss = (weights * self._loss(users, self.events["item"][target])).sum() / weights.sum().clamp(min=1e-9)
        self.log("retrieval/loss", loss, prog_bar=True)
        return loss

    def _ahead(self, following: Tensor) -> Tensor:
        """[M] the next event of each position -> a positive among its next `lookahead` ones, drawn at random."""
        if self.knobs.lookahead == 1:
            return following
        room = (self.events["newest"][following] - following + 1).clamp(max=self.knobs.lookahead)
        drawn = following + (torch.rand(following.shape, device=following.device) * room).long()
        return torch.where(self.events["positive"][drawn], drawn, following)

    def _loss(self, users: Tensor, targets: Tensor) -> Tensor:
        if not self.knobs.negatives:
            return full_softmax(users, self.catalogue_vectors(), targets, temperature=self.knobs.temperature)
        uniform = torch.randint(self.num_items, (self.knobs.negatives,), device=targets.device)
        sample = torch.cat([uniform, targets])
        share = self.popularity["share"]
        log_expected = torch.log(self.knobs.negatives / self.num_items + len(targets) * share)
        vectors = self.towers.items(self.items.join("item", sample))
        return sampled_softmax(
            users,
            vectors[len(uniform) :],
            vectors,
            duplicates=targets[:, None] == sample,
            log_expected=log_expected[targets],
            log_expected_negatives=log_expected[sample],
            temperature=self.knobs.temperature,
        )

    def catalogue_vectors(self) -> Tensor:
        """[N, D] of the whole catalogue."""
        return self.towers.items(self.items.join("item", slice(self.num_items)))

    def validation_step(self, _: Tensor) -> None:
        watched = self.examples.watched
        queries = {name: torch.from_numpy(array).to(self.device) for name, array in watched.queries.items()}
        scores = (self.towers.users(queries) @ self.catalogue_vectors().T).float().cpu()
        for query, rows in enumerate(watched.seen):
            scores[query, rows] = -torch.inf
        k = min(RECALL_AT, self.num_items)
        found = hits(scores.topk(k, dim=1).indices.numpy(), watched.targets)
        self.log(MONITOR, float(recall(found, watched.targets.num_targets, k).mean()), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.knobs.optimiser(self.parameters())


MONITOR = f"retrieval/recall@{RECALL_AT}"


@dataclass(frozen=True, kw_only=True)
class RetrievalTraining(Fitting):
    """The knobs of the towers and of their training; an example is a window of events."""

    dim: int
    """length of the vectors, a multiple of num_heads"""
    num_blocks: int
    num_heads: int
    dropout: float
    id_dropout: float
    temperature: float
    """divides the cosine before the softmax"""
    negatives: int
    """uniform negatives shared by a batch, beside its own positives; 0 is the full softmax"""
    lookahead: int
    """a position learns to predict one of the next `lookahead` events, drawn anew each time (PinnerFormer, Pancha et al.
    2022); 1 is the next event, more fits a slate that is judged by all that follows"""
    half_life_days: float | None
    """an event so much older than the newest counts half as a target; None weighs all alike"""

    group = "retrieval"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(
            self.group,
            dim=(self.dim, 1, 4_096),
            num_blocks=(self.num_blocks, 0, 48),
            num_heads=(self.num_heads, 1, 64),
            dropout=(self.dropout, 0.0, 0.95),
            id_dropout=(self.id_dropout, 0.0, 0.95),
            temperature=(self.temperature, 1e-3, 10.0),
            negatives=(self.negatives, 0, 10_000_000),
            lookahead=(self.lookahead, 1, 100_000),
            half_life_days=(1.0 if self.half_life_days is None else self.half_life_days, 1e-3, 1e6),
        )
        if self.dim % self.num_heads:
            raise ConfigError(f"retrieval.dim is {self.dim}, not a multiple of retrieval.num_heads {self.num_heads}")

    def weights(self, timestamps: np.ndarray) -> np.ndarray:
        """[M] float32, how much each event counts as a target; all alike where there is no time."""
        if self.half_life_days is None:
            return np.ones(len(timestamps), dtype=np.float32)
        age = np.nan_to_num(timestamps.max() - timestamps) / DAY
        return np.exp2(-age / self.half_life_days).astype(np.float32)

    def towers(self, spec: FeatureSpec) -> TwoTower:
        return TwoTower(
            spec=spec,
            dim=self.dim,
            num_blocks=self.num_blocks,
            num_heads=self.num_heads,
            dropout=self.dropout,
            id_dropout=self.id_dropout,
        )

    def fit(
        self,
        spec: FeatureSpec,
        items: ItemTable,
        examples: RetrievalExamples,
        *,
        loop: Loop,
        folder: Path,
        epochs: int | None,
        seed: int,
        loggers: list[Logger],
    ) -> tuple[TwoTower, np.ndarray, int]:
        """Train the towers: for `epochs`, or with early stopping when that is None.

        Returns the towers on the CPU, the item vectors [N, D] and the number of epochs.
        """
        pl.seed_everything(seed, verbose=False)
        task = RetrievalTask(self.towers(spec), items, examples, self)
        trained = loop.fit(
            task,
            train=index_batches(len(examples.windows.events), self.batch_size, seed),
            valid=index_batches(1, 1, seed) if epochs is None else None,
            folder=folder,
            epochs=epochs or self.epochs,
            patience=self.patience,
            monitor=MONITOR if epochs is None else None,
            loggers=loggers,
        )
        task = task.cpu().eval()
        with torch.no_grad():
            return task.towers, task.catalogue_vectors().numpy(), trained


def _with_pad(array: np.ndarray, value: float) -> np.ndarray:
    """One more row at the end, which PAD (-1) selects."""
    return np.concatenate([array, np.full_like(array[:1], value)])
