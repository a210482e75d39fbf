"""Training of the two towers.

Shapes: B windows, L history, P = L + 1 positions, M positions that ask, T targets of each, N items, Q validation queries.
"""

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from torch import Tensor

from recsys.contracts import PAD
from recsys.errors import ConfigError, check_ranges
from recsys.features.encode import DAY, Arrays, ItemTable
from recsys.features.spec import FeatureSpec
from recsys.nn.blocks import Batch
from recsys.nn.softmax import softmax_loss
from recsys.retrieval.two_tower import TowerEnsemble, TwoTower
from recsys.training.examples import Sequences, Windows, encode_log, encode_users, sequences, windows
from recsys.training.footprint import FULL, SAMPLED
from recsys.training.loop import Fitting, Loop, bucket_batches, index_batches
from recsys.training.members import side_by_side
from recsys.training.prepare import Prepared
from recsys.training.resident import Resident
from recsys.training.watched import RECALL_AT, STEP, Watched

MEMBER_SEEDS = 1_000
"""between the seeds of two members, so that those of two runs are not the same"""
ASKING = 8
"""positions of a set that ask in a step: each is told all the rest, so more of them say little more"""


@dataclass(frozen=True, kw_only=True)
class RetrievalExamples:
    """What the towers learn from."""

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
    ordered: bool
    """histories are sequences, to be gone on with; else sets, to be completed"""

    @staticmethod
    def of(prepared: Prepared, spec: FeatureSpec, known: np.ndarray) -> "RetrievalExamples":
        """All of the known rows of the log, [R] bool."""
        dataset, replay = prepared.dataset, prepared.replay
        events = sequences(replay, known)
        positives = replay.positives[events.rows]
        return RetrievalExamples(
            sequences=events,
            windows=windows(events, positives, spec.history_length),
            positives=positives,
            timestamps=replay.seconds[events.rows],
            profile=encode_users(spec, dataset, replay.names),
            context=encode_log(spec.context, dataset, replay.seconds),
            ordered=prepared.split.ordered,
        )


class RetrievalTask(pl.LightningModule):
    """Softmax over items at every position of a window; all tensors live on the device."""

    def __init__(
        self,
        towers: TwoTower,
        items: ItemTable,
        examples: RetrievalExamples,
        watched: Watched | None,
        knobs: "RetrievalTraining",
        *,
        steps: int,
    ) -> None:
        """steps: after so many the learning rate is down to nothing"""
        super().__init__()
        self.steps = steps
        self.towers = towers
        self.knobs = knobs
        self.num_items = len(items)
        self.num_negatives = knobs.negatives_of(self.num_items)
        self.ordered = examples.ordered
        self.watched = watched
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
        self.popularity = Resident({"share": counts / counts.sum()})
        self.negatives = Resident({"item": np.flatnonzero(counts)})

    def training_step(self, indices: Tensor) -> dict[str, Tensor | int]:
        window = trimmed(**self.windows.rows(indices))
        asked = self._next_events(window) if self.ordered else self._rest_of_the_set(window)
        met, wanted = self.events["item"][asked.events], self.events["item"][asked.targets]
        sample = self._sample(wanted[asked.weights > 0])
        rows, place = torch.unique(torch.cat([sample, met.flatten()]), return_inverse=True)
        encoded = self.towers.item_encoder(self.items.join("item", rows), "item")
        histories = self.towers.histories(
            encoded[place[sample.shape[0] :]].unflatten(0, met.shape),
            met != self.num_items,
            self.events["labels"][asked.events],
            self.events["gap"][asked.events],
        )
        request = {
            **self.profile.join("profile", self.events["user"][asked.following]),
            **self.context.join("context", asked.following),
        }
        users = self.towers.head(histories[asked.positions], request)
        loss = softmax_loss(
            users,
            self.towers.vectors(encoded[place[: sample.shape[0]]]),
            torch.searchsorted(sample, wanted).clamp(max=sample.shape[0] - 1),
            asked.weights,
            temperature=self.knobs.temperature,
            log_expected=self._log_chance(sample, asked.targets[asked.weights > 0]),
        )
        self.log("retrieval/loss", loss, prog_bar=True)
        return {"loss": loss, "examples": users.shape[0]}

    def _next_events(self, window: Batch) -> "Asked":
        """Each position asks for the next event and, weighing less and less, for those after it."""
        positions = window["targets"] != PAD
        following = window["targets"][positions]
        steps = torch.arange(self.knobs.lookahead, device=following.device)
        ahead = torch.minimum(following[:, None] + steps, self.events["newest"][following][:, None])
        counted = (following[:, None] + steps == ahead) & self.events["positive"][ahead]
        weights = counted * self.knobs.lookahead_decay**steps
        return self._asked(window["events"], positions, following, ahead, weights)

    def _rest_of_the_set(self, window: Batch) -> "Asked":
        """In a random order, some positions ask for all events that have not come yet, alike."""
        drawn = shuffled(torch.cat([window["events"], window["targets"][:, -1:]], dim=1))
        places = torch.arange(drawn.shape[1], device=drawn.device)
        remaining = (places >= places[:, None]) & (drawn != PAD)[:, None] & self.events["positive"][drawn][:, None]
        reached = torch.cat([torch.ones_like(drawn[:, :1], dtype=torch.bool), drawn[:, :-1] != PAD], dim=1)
        positions = some(reached & remaining.any(-1), ASKING)
        following = torch.where(drawn == PAD, drawn[:, -1:], drawn)[positions]
        ahead = drawn[:, None].expand(-1, drawn.shape[1], -1)[positions]
        return self._asked(drawn[:, :-1], positions, following, ahead, remaining[positions].float())

    def _asked(self, events: Tensor, positions: Tensor, following: Tensor, targets: Tensor, weights: Tensor) -> "Asked":
        shares = weights / weights.sum(-1, keepdim=True)
        return Asked(
            events=events,
            positions=positions,
            following=following,
            targets=targets,
            weights=shares * self.events["weight"][targets],
        )

    def _sample(self, targets: Tensor) -> Tensor:
        """Rows to tell the targets from, each once, ascending: uniform ones and the targets, or all that were met.

        An item that nobody has met is no negative: it would be learnt that items without an id of their own are wrong.
        """
        met = self.negatives["item"]
        if not self.num_negatives:
            return met
        drawn = torch.randint(len(met), (self.num_negatives,), device=targets.device)
        return torch.unique(torch.cat([met[drawn], targets]))

    def _log_chance(self, sample: Tensor, targets: Tensor) -> Tensor | None:
        """Log of the chance that an item is among the uniform negatives or the target events of a step, [N].

        An event that several positions ask for is one draw.
        """
        if not self.num_negatives:
            return None
        popular = self.popularity["share"][sample]
        uniform = torch.full_like(popular, 1 / len(self.negatives["item"]))
        missed = targets.unique().shape[0] * torch.log1p(-popular) + self.num_negatives * torch.log1p(-uniform)
        return torch.log(-torch.expm1(missed)).float()

    def catalogue_vectors(self) -> Tensor:
        """[N, D] of the whole catalogue."""
        return self.towers.items(self.items.join("item", slice(self.num_items)))

    def validation_step(self, _: Tensor) -> None:
        """The best `RECALL_AT` of the catalogue, without what may not be shown."""
        assert self.watched is not None
        vectors, rankings = self.catalogue_vectors(), []
        for number, batch in enumerate(self.watched.batches()):
            request = {name: torch.from_numpy(array).to(self.device) for name, array in batch.items()}
            scores = self.towers.users(request) @ vectors.T
            removed = torch.from_numpy(self.watched.removed_rows[number * STEP : number * STEP + scores.shape[0]]).to(
                self.device
            )
            query, place = torch.nonzero(removed != PAD, as_tuple=True)
            scores[query, removed[query, place]] = -torch.inf
            rankings.append(scores.topk(min(RECALL_AT, self.num_items), dim=1).indices.cpu().numpy())
        self.log(MONITOR, self.watched.judge(np.concatenate(rankings)), prog_bar=True)

    def configure_optimizers(self) -> Any:
        return self.knobs.optimisation(self, self.steps)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What one step learns from."""

    events: Tensor
    """[B, L] inputs, PAD before"""
    positions: Tensor
    """[B, P] bool, M of them ask"""
    following: Tensor
    """[M] event whose moment a position asks at"""
    targets: Tensor
    """[M, T] events"""
    weights: Tensor
    """[M, T], 0 where there is no target"""


def trimmed(events: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Windows [B, L] and [B, P] without the columns in front that are padding in all of them."""
    spare = events.shape[1] - int((events != PAD).sum(1).max())
    return {"events": events[:, spare:], "targets": torch.cat([targets[:, :1], targets[:, spare + 1 :]], dim=1)}


def shuffled(events: Tensor) -> Tensor:
    """Each row in a random order, PAD before."""
    keys = torch.rand(events.shape, device=events.device).masked_fill(events == PAD, -1)
    return events.gather(1, keys.argsort(dim=1))


def some(places: Tensor, num: int) -> Tensor:
    """At most `num` True places of each row [B, P], drawn."""
    keys = torch.rand(places.shape, device=places.device).masked_fill(~places, -1)
    drawn = keys.topk(min(num, places.shape[1]), dim=1).indices
    return torch.zeros_like(places).scatter(1, drawn, True) & places


MONITOR = f"retrieval/ndcg@10+recall@{RECALL_AT}"


@dataclass(frozen=True, kw_only=True)
class RetrievalTraining(Fitting):
    """The knobs of the towers and of their training; an example is a position that asks, a step has whole windows."""

    dim: int
    """length of the vectors, a multiple of num_heads"""
    num_blocks: int
    num_heads: int
    dropout: float
    id_dropout: float
    temperature: float
    """divides the cosine before the softmax"""
    negatives: int | None
    """uniform negatives shared by a step, beside its own targets; 0 is the full softmax; None is that up to FULL items, and
    SAMPLED negatives beyond"""
    lookahead: int
    """a position learns to predict the next `lookahead` events (PinnerFormer, Pancha et al. 2022); 1 is the next event,
    more fits a slate that is judged by all that follows; sets are always completed"""
    lookahead_decay: float
    """weight of an event relative to the one before it, above 0 to 1"""
    members: int
    """pairs of towers, alike but for their seed, that become one with vectors of members * dim"""
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
            negatives=(self.negatives or 0, 0, 10_000_000),
            lookahead=(self.lookahead, 1, 1_000),
            lookahead_decay=(self.lookahead_decay, 1e-6, 1.0),
            members=(self.members, 1, 64),
            half_life_days=(1.0 if self.half_life_days is None else self.half_life_days, 1e-3, 1e6),
        )
        if self.dim % self.num_heads:
            raise ConfigError(f"retrieval.dim is {self.dim}, not a multiple of retrieval.num_heads {self.num_heads}")

    def negatives_of(self, num_items: int) -> int:
        """Uniform negatives of a step for a catalogue, 0 for the full softmax."""
        if self.negatives is not None:
            return self.negatives
        return 0 if num_items <= FULL else SAMPLED

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
        watched: Watched | None,
        *,
        loop: Loop,
        folder: Path,
        epochs: int | None,
        seed: int,
        loggers: list[Logger],
    ) -> tuple[TowerEnsemble, np.ndarray, int]:
        """Train the towers: for `epochs`, or until they get no better on what is `watched`.

        Returns the towers on the CPU, the item vectors [N, members * D] and the number of epochs, a mean over members.
        """
        member = partial(self._member, spec, items, examples, watched, folder=folder, epochs=epochs, seed=seed)
        train = partial(member, loop=loop, loggers=loggers)
        quietly = partial(member, loop=loop.quiet(), loggers=[])
        cores = None if loop.accelerator == "cpu" else 1
        towers, vectors, epochs_of = zip(*side_by_side(train, quietly, self.members, cores), strict=True)
        joined = np.concatenate(vectors, axis=1) / np.float32(math.sqrt(self.members))
        return TowerEnsemble(towers), joined, round(float(np.mean(epochs_of)))

    def _member(
        self,
        spec: FeatureSpec,
        items: ItemTable,
        examples: RetrievalExamples,
        watched: Watched | None,
        number: int,
        *,
        loop: Loop,
        folder: Path,
        epochs: int | None,
        seed: int,
        loggers: list[Logger],
    ) -> tuple[TwoTower, np.ndarray, int]:
        """One pair of towers, its item vectors [N, D] and its epochs; read back where it was trained before."""
        own_seed = seed + MEMBER_SEEDS * number
        pl.seed_everything(own_seed, verbose=False)
        batches = bucket_batches(examples.windows.sizes, self.batch_size, own_seed)
        task = RetrievalTask(self.towers(spec), items, examples, watched, self, steps=self.epochs * len(batches))
        trained = loop.fit(
            task,
            train=batches,
            valid=index_batches(1, 1, own_seed) if watched else None,
            folder=folder.with_name(f"{folder.name}_{number + 1}") if number else folder,
            epochs=epochs or self.epochs,
            patience=self.patience,
            monitor=MONITOR if watched else None,
            loggers=loggers,
        )
        task = task.cpu().eval()
        with torch.no_grad():
            return task.towers, task.catalogue_vectors().numpy(), trained


def _with_pad(array: np.ndarray, value: float) -> np.ndarray:
    """One more row at the end, which PAD (-1) selects."""
    return np.concatenate([array, np.full_like(array[:1], value)])
