"""The ranker as a module that Lightning trains: losses on batches of requests, and NDCG of the target after each epoch.

Shapes: B requests, C candidates, T objectives, E epochs.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from recsys.contracts import PAD
from recsys.errors import ConfigError
from recsys.features.encode import ItemTable
from recsys.metrics import reordered_ndcg
from recsys.nn import parallel
from recsys.ranking.losses import masked_bce
from recsys.ranking.model import RankerModel
from recsys.ranking.objective_chain import Parents
from recsys.ranking.uncertainty import information
from recsys.training.balance import Balance
from recsys.training.device_tensors import DeviceTensors
from recsys.training.ranking_examples import RankingExamples, tensors
from recsys.training.trainer import write_finished

if TYPE_CHECKING:
    from recsys.training.ranking import RankerTrainerConfig

MONITORED = {"ndcg@10": "ranking/ndcg@10", "likelihood": "ranking/likelihood"}
"""values of ranking.watch -> metric as it is logged"""
MAX_SURVEYED = 4_000
"""training requests, at most, from which the posterior's information and the calibrator's intercept are estimated"""
SCORING_BATCH = 64
"""requests scored without gradients at once, at least"""
SCORING_CELLS = 12_800
"""candidates scored without gradients at once, where requests have few"""


@dataclass(frozen=True, kw_only=True)
class LikeliestEpoch:
    """Epoch of the highest likelihood of all labels on the validation, which is not always that of the best order."""

    number: int
    """from 1; 0 before any"""
    likelihood: float
    weights: dict[str, Tensor]
    """of the ranker"""

    def to_tensors(self) -> dict[str, Tensor]:
        """Return tensors as checkpoints hold them."""
        figures = torch.tensor([self.number, self.likelihood], dtype=torch.float64)
        return {"likeliest": figures, **{f"likeliest.{name}": one for name, one in self.weights.items()}}

    @staticmethod
    def from_tensors(state: dict[str, Tensor]) -> "LikeliestEpoch":
        """Read what `to_tensors` wrote; an older checkpoint knows no such epoch."""
        number, likelihood = state["likeliest"].tolist() if "likeliest" in state else (0, -math.inf)
        weights = {name.removeprefix("likeliest."): one for name, one in state.items() if name.startswith("likeliest.")}
        return LikeliestEpoch(number=int(number), likelihood=likelihood, weights=weights)


class RankingTask(pl.LightningModule):
    """Pointwise loss of every objective and a listwise term on the retrieval target."""

    def __init__(
        self,
        ranker: RankerModel,
        items: ItemTable,
        target: int,
        config: "RankerTrainerConfig",
        *,
        balance: Balance | None = None,
    ) -> None:
        """balance: None for a task that only predicts"""
        super().__init__()
        self.balance = balance
        self.ranker = ranker
        self.target = target
        self.config = config
        self.items = DeviceTensors(items.encoded)
        self.train_batch: dict[str, Tensor] = {}
        self.valid_batch: dict[str, Tensor] = {}
        self.judged = torch.empty(0, dtype=torch.bool)
        """[B] of the validation requests: `RankingExamples.judged`"""
        self.validated = torch.empty(0, 0)
        """[E, B'] `ndcg_of_requests` of every validation so far"""
        self.likeliest = LikeliestEpoch(number=0, likelihood=-math.inf, weights={})

    def get_extra_state(self) -> dict[str, Tensor]:
        return {"validated": self.validated, **self.likeliest.to_tensors()}

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        """Restore what checkpoints hold; the best one is older than the last and may not take its validations away."""
        if len(state["validated"]) > len(self.validated):
            self.validated, self.likeliest = state["validated"], LikeliestEpoch.from_tensors(state)

    def set_examples(self, train: RankingExamples, valid: RankingExamples) -> None:
        """Set training and validation examples; they move to the device when training starts."""
        self.train_batch, self.valid_batch = tensors(train), tensors(valid)
        self.judged = torch.from_numpy(valid.judged)
        rows = self.train_batch["candidate_rows"]
        present = rows != PAD
        self.ranker.fit_scores(self.train_batch["candidate_scores"][present])
        if "ids" in dict(self.items.named_buffers()):
            labels, weights = self.train_batch["labels"][present], self.train_batch.get("candidate_weights")
            weights = None if weights is None else weights[present]
            self.ranker.fit_values(self.items["ids"], rows[present], labels, weights)

    def on_fit_start(self) -> None:
        for batch in (self.train_batch, self.valid_batch):
            batch.update({name: tensor.to(self.device) for name, tensor in batch.items()})

    def joined(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {**batch, **self.items.join("candidate", batch["candidate_rows"])}

    def fit_directly(
        self, file: Path, train: RankingExamples, valid: RankingExamples, rounds: int | None, seed: int
    ) -> None:
        """Write the finished task into `file`, from which `Trainer.fit` reads it back, where the ranker fits itself."""
        if file.is_file():
            return
        if rounds := self.ranker.fit(self.batches(train), self.batches(valid), rounds=rounds, seed=seed):
            write_finished(self, file, rounds)

    def batches(self, examples: RankingExamples) -> Iterator[dict[str, Tensor]]:
        """Joined batches of examples in their order."""
        for start in range(0, len(examples), SCORING_BATCH):
            yield self.joined(tensors(examples.at(np.arange(start, min(start + SCORING_BATCH, len(examples))))))

    def logits(self, batch: dict[str, Tensor]) -> Tensor:
        return self.ranker(self.joined(batch))

    def training_step(self, indices: Tensor) -> dict[str, Tensor | int]:
        batch = {name: tensor[indices] for name, tensor in self.train_batch.items()}
        logits, labels, mask = self.logits(batch), batch["labels"], batch["candidate_rows"] != PAD
        pointwise = self.config.pointwise(logits, labels.clamp(0, 1), mask * batch.get("candidate_weights", 1))
        listwise = self.config.loss(logits[..., self.target], labels[..., self.target].clamp(0, 1), mask)
        assert self.balance is not None
        loss = self.balance(pointwise, self.ranker.shared) + self.config.listwise_weight * listwise
        self.log_dict({"ranking/pointwise": pointwise.sum(), "ranking/listwise": listwise}, prog_bar=True)
        return {"loss": loss, "examples": len(indices)}

    def validation_step(self, _: Tensor) -> None:
        logits, labels = self.all_logits(self.valid_batch), self.valid_batch["labels"]
        loss = masked_bce(logits, labels.clamp(0, 1), self.valid_batch["candidate_rows"] != PAD).sum()
        served = self.ndcg_of_requests(None if "candidate_positions" in self.valid_batch else logits)
        self.validated = torch.cat([self._validated_on(len(served)), torch.from_numpy(served).float()[None]])
        mean = float(served.mean()) if len(served) else 0.0
        # the same everywhere: all processes give their rows of large tables to a state, or none
        likelihood = float(-parallel.from_first(loss))
        if labels.shape[-1] > 1 and likelihood > self.likeliest.likelihood:
            weights = {name: one.detach().cpu().clone() for name, one in self.ranker.state_dict().items()}
            self.likeliest = LikeliestEpoch(number=self.current_epoch + 1, likelihood=likelihood, weights=weights)
        self.log_dict({MONITORED["ndcg@10"]: mean, MONITORED["likelihood"]: -loss}, prog_bar=True)

    def ndcg_of_requests(self, logits: Tensor | None = None) -> np.ndarray:
        """Return NDCG@10 of the target for the judged requests that reached it, as served: without position bias.

        logits: of the validation requests, [B, C, T]; computed unless given
        """
        batch = {name: one.to(self.device) for name, one in without_positions(self.valid_batch).items()}
        if logits is None:
            training = self.training
            logits = self.eval().all_logits(batch)
            self.train(training)
        labels = batch["labels"][..., self.target].masked_fill(batch["candidate_rows"] == PAD, torch.nan)
        judged = self.judged.to(labels.device)
        return reordered_ndcg(labels[judged].cpu().numpy(), logits[judged][..., self.target].cpu().numpy(), 10)

    def _validated_on(self, num: int) -> Tensor:
        """`validated` [E, num]; ConfigError where a checkpoint holds validations of other requests."""
        if len(self.validated) and self.validated.shape[1] != num:
            raise ConfigError(
                f"the checkpoint of the ranker was validated on {self.validated.shape[1]} requests, there are {num} now, as of "
                "another version of the code or of the data; train in a new folder, or remove this one"
            )
        return self.validated.reshape(len(self.validated), num)

    def keep_order(self, epochs: int) -> int:
        """Give the target the order of retrieval, and the other objectives their likeliest epoch; return the epochs learnt.

        epochs: that were learnt; they stay where no epoch was validated. 0 without another objective.
        """
        if self.likeliest.number:
            self.ranker.load_state_dict(self.likeliest.weights)
            epochs = self.likeliest.number
        self.ranker.order_by_retrieval(self.target)
        return epochs if self.valid_batch["labels"].shape[-1] > 1 else 0

    def all_validated(self) -> np.ndarray:
        """[E, B'] `ndcg_of_requests` of every validation; of the fitted ranker alone where it fits itself."""
        own = self.ndcg_of_requests()
        return self._validated_on(len(own)).numpy() if len(self.validated) else own[None]

    def all_logits(self, batch: dict[str, Tensor]) -> Tensor:
        """[B, C, T], without gradients and in steps."""
        return scored(self.logits, batch)

    def requests(self, batch: dict[str, Tensor]) -> Tensor:
        """Features of the requests that read no candidate, [B, F]."""
        return scored(self.ranker.request, batch)

    @torch.no_grad()
    def information(self, examples: RankingExamples, parents: Parents) -> Tensor:
        """Fisher information of examples on the last layer, [T, E, E] float64, see `recsys.ranking.uncertainty`."""
        drawn, parts = surveyed(len(examples)), []
        for rows in np.split(drawn, range(SCORING_BATCH, len(drawn), SCORING_BATCH)):
            batch = tensors(examples.at(rows))
            joined = self.joined(batch)
            logits, features = self.ranker.last_layer(joined, self.ranker.request(joined))
            present = batch["candidate_rows"] != PAD
            known = present[present].unsqueeze(-1) & ~batch["labels"][present].isnan()
            parts.append(information(logits[present], [one[present] for one in features()], known, parents))
        return torch.stack(parts).sum(0) * len(examples) / len(drawn)

    def configure_optimizers(self) -> Any:
        return self.config.configure_optimizers(self)


def without_positions(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """A batch whose candidates all count as at the first position, as they are served."""
    return {name: one for name, one in batch.items() if name != "candidate_positions"}


def surveyed(num: int) -> np.ndarray:
    """Indices of MAX_SURVEYED requests at most, always the same ones."""
    return np.sort(np.random.default_rng(0).permutation(num)[:MAX_SURVEYED])


@torch.no_grad()
def scored(score: Callable[[dict[str, Tensor]], Tensor], batch: dict[str, Tensor]) -> Tensor:
    """score(batch) [B, ...] without gradients, float32, in steps of some requests."""
    num_requests, num_candidates = batch["candidate_rows"].shape
    step = max(SCORING_BATCH, SCORING_CELLS // max(1, num_candidates))
    return torch.cat(
        [
            score({name: one[start : start + step] for name, one in batch.items()})
            for start in range(0, num_requests, step)
        ]
    ).float()
