"""Embedding tables whose rows are spread over the processes of a fit, each with the Adagrad state of its own rows.

Row r is of process r mod P. A lookup sends each process the distinct rows that it owns, and gets their vectors back; gradients
go the other way (model parallelism of tables as in DLRM's training, Naumov et al. 2019, Mudigere et al. 2022). Checkpoints hold
whole tables, so they are read by any number of processes.

Shapes: N rows, D dim, P processes, R distinct rows of a lookup.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from recsys.nn.sparse_embedding import ADAGRAD_STATE, RowWiseAdagradEmbedding


class ShardedTable(RowWiseAdagradEmbedding):
    """The rows of a table that one process owns; looks up all rows, in which every process takes part."""

    def __init__(self, whole: RowWiseAdagradEmbedding) -> None:
        number, self.num_processes = dist.get_rank(), dist.get_world_size()
        own = whole.weight.detach()[number :: self.num_processes].clone()
        super().__init__(len(own), whole.embedding_dim, padding_idx=None, weight=own)
        self.num_rows, self.number, self.missing = whole.num_embeddings, number, whole.padding_idx
        self.squares = whole.squares[number :: self.num_processes].clone()

    def forward(self, ids: Tensor) -> Tensor:
        rows, index = torch.unique(ids, return_inverse=True)
        order = torch.argsort(rows % self.num_processes, stable=True)
        ordered = rows[order]
        sent = torch.bincount(ordered % self.num_processes, minlength=self.num_processes)
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent)
        parts = received.tolist(), sent.tolist()
        looked = super().forward(exchanged(ordered, *parts) // self.num_processes)
        if looked.requires_grad:
            looked.register_hook(self._averaged)
        vectors = Exchange.apply(looked, parts[1], parts[0])
        present = (ordered != self.missing).unsqueeze(1)
        found: Tensor = torch.where(present, vectors, 0.0)[torch.argsort(order)[index]]
        return found

    def _averaged(self, gradient: Tensor) -> Tensor:
        """Losses are means over processes, as those of the parameters that all of them have."""
        return gradient / self.num_processes

    def whole(self) -> RowWiseAdagradEmbedding:
        """Return the whole table, on every process; all of them take part."""
        assert self.missing is not None
        weight = self._gathered(self.weight)
        table = RowWiseAdagradEmbedding(self.num_rows, self.embedding_dim, padding_idx=self.missing, weight=weight)
        table.squares = self._gathered(self.squares)
        return table

    def _gathered(self, own: Tensor) -> Tensor:
        """Rows of this process [n, ...] -> those of all [N, ...]."""
        most = -(-self.num_rows // self.num_processes)
        padded = torch.cat([own.detach(), own.new_zeros((most - len(own), *own.shape[1:]))])
        parts = [torch.empty_like(padded) for _ in range(self.num_processes)]
        dist.all_gather(parts, padded)
        return torch.stack(parts, dim=1).flatten(0, 1)[: self.num_rows]

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        destination[prefix + "weight"] = self._gathered(self.weight)
        destination[prefix + ADAGRAD_STATE] = self._gathered(self.squares)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in (prefix + "weight", prefix + ADAGRAD_STATE):
            state_dict[name] = state_dict[name][self.number :: self.num_processes]
        super()._load_from_state_dict(state_dict, prefix, *args)


class Exchange(torch.autograd.Function):
    """Send parts of a tensor to all processes and receive theirs; gradients take the way back."""

    @staticmethod
    def forward(context: Any, given: Tensor, received: Sequence[int], sent: Sequence[int]) -> Tensor:
        context.parts = sent, received
        return exchanged(given, received, sent)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return exchanged(gradient.contiguous(), *context.parts), None, None


def exchanged(given: Tensor, received: Sequence[int], sent: Sequence[int]) -> Tensor:
    """Send `sent[p]` rows of [n, ...] to each process p in order -> the `received[p]` rows of each."""
    found = given.new_empty((sum(received), *given.shape[1:]))
    dist.all_to_all_single(found, given.contiguous(), list(received), list(sent))
    return found


def shard_tables(module: nn.Module) -> None:
    """Spread the large tables of a module over the processes."""
    _replace(module, RowWiseAdagradEmbedding, ShardedTable)


def join_tables(module: nn.Module) -> None:
    """Make its tables whole again, on every process."""
    _replace(module, ShardedTable, ShardedTable.whole)


def _replace(module: nn.Module, kind: type[nn.Module], made: Any) -> None:
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is kind:
                setattr(parent, name, made(child))
