"""RecTools' SASRec as a peer: the same events to learn from, the same questions to answer.

Shapes: B questions, N items of the catalogue, L length of a session.
"""

from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from rectools.models.nn.transformers.lightning import TransformerLightningModule

from recsys.replay.evaluation_queries import EvaluationQueries, Scores
from recsys.replay.interactions import Interactions

LENGTH = 20
SETTINGS: dict[str, Any] = {"loss": "softmax", "n_factors": 128, "session_max_len": LENGTH}
"""all else is RecTools' own: 2 blocks, 4 heads, dropout .2, Adam at 1e-3, 128 sessions a step, 32-bit floats"""


def fit(questions: EvaluationQueries, watch: pl.Callback) -> None:
    """Train on what is known when the questions are asked, epoch after epoch, until `watch` ends it."""
    model = SASRecModel(**SETTINGS)
    model._trainer = pl.Trainer(  # the documented way to give it a trainer of one's own
        max_epochs=-1,
        callbacks=[watch],
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model.fit(Dataset.construct(_frame(questions.known)))


def num_examples(outputs: Any, batch: dict[str, torch.Tensor]) -> int:
    """Positions of a step that are asked for the next item."""
    return int((batch["yw"] > 0).sum())


def ndcg_at_10(task: TransformerLightningModule, questions: EvaluationQueries) -> float:
    """Mean over the questions."""
    return float(questions.ndcg_at_10(scores_of(task, questions)).mean())


def scores_of(task: TransformerLightningModule, questions: EvaluationQueries) -> Scores:
    """Scores of the whole catalogue, [B, N]; an item that was never met has -inf."""
    network = task.torch_model
    ids = _ids(task, questions.num_items)
    items, known = network.item_model.get_all_embeddings(), np.flatnonzero(ids)

    def scores(batch: slice) -> np.ndarray:
        users = network.encode_sessions({"x": torch.from_numpy(_sessions(questions, batch, ids))}, items)[:, -1]
        found = np.full((len(users), len(ids)), -np.inf, dtype=np.float32)
        found[:, known] = (users @ items[ids[known]].T).numpy()
        return found

    return scores


def _ids(task: TransformerLightningModule, num_items: int) -> np.ndarray:
    """[N] RecTools' number of every catalogue row, 0 (its padding) for one that was never met."""
    numbers = {row: number for number, row in enumerate(task.item_external_ids)}
    return np.array([numbers.get(row, 0) for row in range(num_items)], dtype=np.int64)


def _sessions(questions: EvaluationQueries, batch: slice, ids: np.ndarray) -> np.ndarray:
    """[B, L] the newest last, 0 before."""
    histories = questions.histories.batch(batch)
    sessions = np.zeros((len(histories), LENGTH), dtype=np.int64)
    for row, (start, stop) in enumerate(zip(histories.indptr[:-1], histories.indptr[1:], strict=True)):
        met = ids[histories.items[start:stop]]
        kept = met[met > 0][-LENGTH:]
        sessions[row, LENGTH - len(kept) :] = kept
    return sessions


def _frame(known: Interactions) -> pd.DataFrame:
    """The events as RecTools reads them; days only order those of a user."""
    return pd.DataFrame(
        {
            Columns.User: known.users,
            Columns.Item: known.items,
            Columns.Weight: 1.0,
            Columns.Datetime: pd.to_datetime(known.timestamps, unit="D"),
        }
    )
