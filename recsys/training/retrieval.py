"""Training of the two towers.

Shapes: B windows, L history, P = L + 1 positions, M positions with targets, T targets of each, N items, Q validation queries.
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

from recsys.cache.stage_cache import NO_CACHE, StageCache
from recsys.contracts import PAD
from recsys.errors import ConfigError, check_ranges
from recsys.features.encode import DAY, ItemTable
from recsys.features.history import EventSequences
from recsys.features.spec import FeatureSpec
from recsys.nn import parallel
from recsys.nn.blocks import Batch
from recsys.retrieval.interests import best_cosines, nearest_interests
from recsys.retrieval.loss import RetrievalLoss
from recsys.retrieval.two_tower import TowerEnsemble, TwoTower
from recsys.retrieval.user_encoder import UserEncoderFactory
from recsys.tensors import Arrays
from recsys.training.batches import index_batches, length_bucket_batches
from recsys.training.device_tensors import DeviceTensors
from recsys.training.ensemble import train_members
from recsys.training.examples import (
    HistoryWindows,
    encode_log,
    encode_users,
    event_sequences,
    history_windows,
)
from recsys.training.fit_logger import of_fit
from recsys.training.footprint import FULL_SOFTMAX_ITEMS, SAMPLED_NEGATIVES
from recsys.training.prepare import Prepared
from recsys.training.trainer import FINISHED_FILE, OptimConfig, Trainer
from recsys.training.validation_queries import QUERY_BATCH, RECALL_AT, ValidationQueries

MEMBER_SEED_STRIDE = 1_000
"""between the seeds of two members, so that those of two runs are not the same"""
LEAST_BATCH = 128
"""positions of a step of the smallest logs"""
SET_POSITIONS = 8
"""positions of a set with targets in a step: each predicts the whole rest of the set, so more of them add little"""

MAX_SEARCHES = 64
"""combinations of the members' interests, at most: each is one search of the index"""


@dataclass(frozen=True, kw_only=True)
class RetrievalExamples:
    """Training data of the towers."""

    sequences: EventSequences
    windows: HistoryWindows
    positives: np.ndarray
    """[M] bool, events that may be targets"""
    profile: Arrays
    """[U, ...] by user code"""
    context: Arrays
    """[R, ...] by row of the log"""
    ordered: bool
    """histories are sequences, whose next events are predicted; else sets, which are completed"""

    @staticmethod
    def of(prepared: Prepared, spec: FeatureSpec, known: np.ndarray) -> "RetrievalExamples":
        """Build from the rows `known` of the log, [R] bool."""
        dataset, replay = prepared.dataset, prepared.replay
        events = event_sequences(replay, known)
        positives = replay.positives[events.rows]
        return RetrievalExamples(
            sequences=events,
            windows=history_windows(events, positives, spec.history_length),
            positives=positives,
            profile=encode_users(spec, dataset, replay.names),
            context=encode_log(spec.context, dataset, replay.seconds),
            ordered=prepared.split.ordered,
        )


class RetrievalTask(pl.LightningModule):
    """Prediction of the targets at every position of a window; all tensors live on the device."""

    def __init__(
        self,
        towers: TwoTower,
        items: ItemTable,
        examples: RetrievalExamples,
        validation: ValidationQueries | None,
        config: "RetrievalTrainerConfig",
    ) -> None:
        super().__init__()
        self.towers = towers
        self.config = config
        self.num_items = len(items)
        self.num_negatives = config.negatives_of(self.num_items)
        self.ordered = examples.ordered
        self.validation = validation
        events, windows = examples.sequences, examples.windows
        counts = np.bincount(events.items, minlength=self.num_items)
        self.items = DeviceTensors(items.encoded)
        self.profile = DeviceTensors(examples.profile)
        self.context = DeviceTensors({name: part[events.rows] for name, part in examples.context.items()})
        self.events = DeviceTensors(
            {
                "item": _with_pad(events.items, self.num_items),
                "labels": _with_pad(events.labels, 0),
                "gap": _with_pad(events.gaps, 0),
                "user": events.users,
                "weight": config.weights(events.timestamps),
                "positive": examples.positives,
                "newest": np.repeat(events.offsets[1:] - 1, np.diff(events.offsets)),
            }
        )
        self.windows = DeviceTensors({"events": windows.events, "targets": windows.targets})
        self.popularity = DeviceTensors({"share": counts / counts.sum()})
        self.negatives = DeviceTensors({"item": np.flatnonzero(counts)})

    def training_step(self, indices: Tensor) -> dict[str, Tensor | int]:
        window = without_padding_columns(**self.windows.rows(indices))
        step = self._next_events(window) if self.ordered else self._rest_of_the_set(window)
        items, targets = self.events["item"][step.events], self.events["item"][step.targets]
        drawn = parallel.gathered(step.targets[step.weights > 0])
        sample = self._sample(self.events["item"][drawn])
        rows, index = torch.unique(torch.cat([sample, items.flatten()]), return_inverse=True)
        encoded = self.towers.item_encoder(self.items.join("item", rows), "item")
        histories = self.towers.histories(
            encoded[index[sample.shape[0] :]].unflatten(0, items.shape),
            items != self.num_items,
            self.events["labels"][step.events],
            self.events["gap"][step.events],
        )
        request = {
            **self.profile.join("profile", self.events["user"][step.following]),
            **self.context.join("context", step.following),
        }
        users = self.towers.head(histories[step.positions], request)
        vectors = self.towers.vectors(encoded[index[: sample.shape[0]]])
        sampled = torch.searchsorted(sample, targets).clamp(max=sample.shape[0] - 1)
        trained, sampled, weights = nearest_interests(users, vectors, sampled, step.weights)
        loss = self.config.loss(trained, vectors, sampled, weights, self._log_chance(sample, drawn))
        self.log("retrieval/loss", loss, prog_bar=True)
        return {"loss": loss, "examples": users.shape[0]}

    def _next_events(self, window: Batch) -> "StepBatch":
        """Give each position the next event as target, and with decaying weights those after it."""
        positions = window["targets"] != PAD
        following = window["targets"][positions]
        steps = torch.arange(self.config.lookahead, device=following.device)
        ahead = torch.minimum(following[:, None] + steps, self.events["newest"][following][:, None])
        counted = (following[:, None] + steps == ahead) & self.events["positive"][ahead]
        weights = counted * self.config.lookahead_decay**steps
        return self._step_batch(window["events"], positions, following, ahead, weights)

    def _rest_of_the_set(self, window: Batch) -> "StepBatch":
        """Shuffle each set and give some positions all events behind them as targets, with equal weights."""
        drawn = shuffled_rows(torch.cat([window["events"], window["targets"][:, -1:]], dim=1))
        numbers = torch.arange(drawn.shape[1], device=drawn.device)
        remaining = (numbers >= numbers[:, None]) & (drawn != PAD)[:, None] & self.events["positive"][drawn][:, None]
        reached = torch.cat([torch.ones_like(drawn[:, :1], dtype=torch.bool), drawn[:, :-1] != PAD], dim=1)
        positions = sample_positions(reached & remaining.any(-1), SET_POSITIONS)
        following = torch.where(drawn == PAD, drawn[:, -1:], drawn)[positions]
        ahead = drawn[:, None].expand(-1, drawn.shape[1], -1)[positions]
        return self._step_batch(drawn[:, :-1], positions, following, ahead, remaining[positions].float())

    def _step_batch(
        self, events: Tensor, positions: Tensor, following: Tensor, targets: Tensor, weights: Tensor
    ) -> "StepBatch":
        shares = weights / weights.sum(-1, keepdim=True)
        return StepBatch(
            events=events,
            positions=positions,
            following=following,
            targets=targets,
            weights=shares * self.events["weight"][targets],
        )

    def _sample(self, targets: Tensor) -> Tensor:
        """Distinct rows of the softmax, ascending: uniform negatives and the targets of all processes, or all items with
        interactions.

        An item without interactions is no negative: the towers would learn that items with the id of unknown ones are wrong.
        """
        items = self.negatives["item"]
        if not self.num_negatives:
            return items
        drawn = parallel.from_first(torch.randint(len(items), (self.num_negatives,), device=targets.device))
        return torch.unique(torch.cat([items[drawn], targets]))

    def _log_chance(self, sample: Tensor, targets: Tensor) -> Tensor | None:
        """Log probability that an item is among the negatives or the target events of a step, [N], for the logQ correction.

        An event that is a target of several positions counts as one draw.
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
        """Rank the catalogue for the validation queries, without removed items, and log MONITOR."""
        assert self.validation is not None
        vectors, rankings = self.catalogue_vectors(), []
        for number, batch in enumerate(self.validation.batches()):
            request = {name: torch.from_numpy(array).to(self.device) for name, array in batch.items()}
            scores = best_cosines(self.towers.users(request), vectors)
            removed = torch.from_numpy(
                self.validation.removed_rows[number * QUERY_BATCH : number * QUERY_BATCH + scores.shape[0]]
            ).to(self.device)
            query, column = torch.nonzero(removed != PAD, as_tuple=True)
            scores[query, removed[query, column]] = -torch.inf
            rankings.append(scores.topk(min(RECALL_AT, self.num_items), dim=1).indices.cpu().numpy())
        self.log(MONITOR, float(self.validation.score(np.concatenate(rankings)).mean()), prog_bar=True)

    def configure_optimizers(self) -> Any:
        return self.config.configure_optimizers(self)


@dataclass(frozen=True, kw_only=True)
class StepBatch:
    """Inputs and targets of one training step, as indices of events."""

    events: Tensor
    """[B, L] inputs, PAD in front"""
    positions: Tensor
    """[B, P] bool, the M positions with targets"""
    following: Tensor
    """[M] event after the position, whose user and context make the request"""
    targets: Tensor
    """[M, T] events"""
    weights: Tensor
    """[M, T], 0 where there is no target"""


def without_padding_columns(events: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Windows [B, L] and [B, P] without the leading columns that are padding in all rows."""
    spare = events.shape[1] - int((events != PAD).sum(1).max())
    return {"events": events[:, spare:], "targets": torch.cat([targets[:, :1], targets[:, spare + 1 :]], dim=1)}


def shuffled_rows(events: Tensor) -> Tensor:
    """Each row in a random order, PAD in front."""
    keys = torch.rand(events.shape, device=events.device).masked_fill(events == PAD, -1)
    return events.gather(1, keys.argsort(dim=1))


def sample_positions(positions: Tensor, num: int) -> Tensor:
    """At most `num` True positions of each row [B, P], uniformly without replacement."""
    keys = torch.rand(positions.shape, device=positions.device).masked_fill(~positions, -1)
    drawn = keys.topk(min(num, positions.shape[1]), dim=1).indices
    return torch.zeros_like(positions).scatter(1, drawn, True) & positions


MONITOR = f"retrieval/ndcg@10+recall@{RECALL_AT}"


@dataclass(frozen=True, kw_only=True)
class RetrievalTrainerConfig(OptimConfig):
    """Configuration of the towers and their training; an example is a position with targets, a step has whole windows."""

    dim: int
    """length of the vectors"""
    dropout: float
    id_dropout: float
    user_encoder: UserEncoderFactory
    """builds the encoder of histories: a file of conf/retrieval/user_encoder"""
    loss: RetrievalLoss
    """a file of conf/retrieval/loss"""
    negatives: int | None
    """uniform negatives shared by a step, beside its own targets; 0 takes all items; None does so up to
    FULL_SOFTMAX_ITEMS items, and takes SAMPLED_NEGATIVES beyond"""
    lookahead: int
    """a position predicts the next `lookahead` events (PinnerFormer, Pancha et al. 2022); 1 is the next event, more suits
    a slate that is evaluated by all following events; sets are always completed"""
    lookahead_decay: float
    """weight of an event relative to the one before it, above 0 to 1"""
    members: int
    """ensemble of two-tower models that differ in their seed, with vectors of members * dim"""
    half_life_days: float | None
    """age before the newest event at which an event has half the weight as a target; None weighs all equally"""
    least_steps: int
    """steps of an epoch: a log too small for so many of `batch_size` positions gets smaller ones, of LEAST_BATCH at least,
    since a few hundred steps teach no catalogue"""

    group = "retrieval"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(
            self.group,
            dim=(self.dim, 1, 4_096),
            dropout=(self.dropout, 0.0, 0.95),
            id_dropout=(self.id_dropout, 0.0, 0.95),
            negatives=(self.negatives or 0, 0, 10_000_000),
            lookahead=(self.lookahead, 1, 1_000),
            lookahead_decay=(self.lookahead_decay, 1e-6, 1.0),
            members=(self.members, 1, 64),
            half_life_days=(1.0 if self.half_life_days is None else self.half_life_days, 1e-3, 1e6),
            least_steps=(self.least_steps, 1, 1_000_000),
        )
        with torch.device("meta"):  # without memory or random numbers: a wrong key fails before the data are read
            interests = self.user_encoder(dim=self.dim, length=1, dropout=self.dropout).interests
        if (searches := interests**self.members) > MAX_SEARCHES:
            raise ConfigError(
                f"retrieval.members {self.members} with {interests} interests each search the index {searches} times a query, "
                f"{MAX_SEARCHES} times are allowed; give fewer of either"
            )

    def negatives_of(self, num_items: int) -> int:
        """Uniform negatives of a step for a catalogue, 0 for the full softmax."""
        if self.negatives is not None:
            return self.negatives
        return 0 if num_items <= FULL_SOFTMAX_ITEMS else SAMPLED_NEGATIVES

    def batch_size_of(self, positions: int) -> int:
        """Positions of a step, for a log with so many of them."""
        return min(self.batch_size, max(LEAST_BATCH, positions // self.least_steps))

    def weights(self, timestamps: np.ndarray) -> np.ndarray:
        """[M] float32, weight of each event as a target; 1 where there are no timestamps."""
        if self.half_life_days is None:
            return np.ones(len(timestamps), dtype=np.float32)
        age = np.nan_to_num(timestamps.max() - timestamps) / DAY
        return np.exp2(-age / self.half_life_days).astype(np.float32)

    def towers(self, spec: FeatureSpec) -> TwoTower:
        return TwoTower(
            spec=spec,
            dim=self.dim,
            dropout=self.dropout,
            id_dropout=self.id_dropout,
            user_encoder=self.user_encoder,
        )

    def fit(
        self,
        spec: FeatureSpec,
        items: ItemTable,
        examples: RetrievalExamples,
        validation: ValidationQueries | None,
        *,
        trainer: Trainer,
        folder: Path,
        epochs: int | None,
        seed: int,
        loggers: list[Logger],
        cache: StageCache = NO_CACHE,
    ) -> tuple[TowerEnsemble, np.ndarray, int]:
        """Train the towers for `epochs`, or with early stopping on the validation queries.

        Returns the towers on the CPU, the item vectors [N, members * D] and the number of epochs, a mean over members.
        """
        limited = self.for_examples(int(examples.windows.sizes.sum()), epochs)
        member = partial(
            limited._member, spec, items, examples, validation, cache=cache, folder=folder, epochs=epochs, seed=seed
        )
        train = partial(member, trainer=trainer, loggers=loggers)
        train_in_worker = partial(member, trainer=trainer.without_progress(), loggers=[])
        cores = None if trainer.accelerator == "cpu" and trainer.num_processes == 1 else 1
        towers, vectors, epochs_of = zip(*train_members(train, train_in_worker, self.members, cores), strict=True)
        joined = np.concatenate(vectors, axis=1) / np.float32(math.sqrt(self.members))
        return TowerEnsemble(towers), joined, round(float(np.mean(epochs_of)))

    def _member(
        self,
        spec: FeatureSpec,
        items: ItemTable,
        examples: RetrievalExamples,
        validation: ValidationQueries | None,
        number: int,
        *,
        trainer: Trainer,
        folder: Path,
        epochs: int | None,
        seed: int,
        loggers: list[Logger],
        cache: StageCache,
    ) -> tuple[TwoTower, np.ndarray, int]:
        """Train one member, or read it back: its towers, its item vectors [N, D] and its epochs."""
        own_seed = seed + MEMBER_SEED_STRIDE * number
        folder = folder.with_name(f"{folder.name}_{number + 1}") if number else folder
        pl.seed_everything(own_seed, verbose=False)
        sizes = examples.windows.sizes
        batches = length_bucket_batches(sizes, self.batch_size_of(int(sizes.sum())), own_seed)
        task = RetrievalTask(self.towers(spec), items, examples, validation, self)
        inputs = {
            "task": RetrievalTask,
            "config": self,
            "trainer": trainer.settings,
            "seed": own_seed,
            "epochs": epochs,
        }
        data = {"spec": spec, "items": items, "examples": examples, "validation": validation}
        with cache.file("towers", folder / FINISHED_FILE, **inputs, **data):
            trained = trainer.fit(
                task,
                train=batches,
                valid=index_batches(1, 1, own_seed) if validation else None,
                folder=folder,
                epochs=epochs or self.epochs,
                patience=self.patience,
                monitor=MONITOR if validation else None,
                loggers=of_fit(loggers, f"member_{number + 1}") if number else loggers,
            )
        task = task.cpu().eval()
        with torch.no_grad():
            return task.towers, task.catalogue_vectors().numpy(), trained


def _with_pad(array: np.ndarray, value: float) -> np.ndarray:
    """Append one row of `value`, which PAD (-1) selects."""
    return np.concatenate([array, np.full_like(array[:1], value)])
