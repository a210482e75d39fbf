"""Exact top-k on a torch device: bfloat16 scores of tiles, of which only group maxima are kept, then float32 scores.

The same two passes and the same floor as recsys.index.int8, for all queries at once. A bfloat16 score is off by at
most BF16_ERROR ||q|| ||x||: query, item and result are each rounded by 2^-8, sums of products are kept in float32.
Large catalogues on a CUDA device go through recsys.index.gpu.triton_scan; queries that it is not certain of are searched
again here. Only recsys.index.gpu imports torch, when ExactIndex.to is called.

Shapes: B queries, N items, D dim, K results, G groups of consecutive rows, P pairs of a query and a group or row.
"""

from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from recsys.contracts import PAD
from recsys.index.gpu.torch_scores import MAX_QUERIES, UNDERFLOW, folded_products, norm_bounds
from recsys.index.scores import allowed_rows, check_k, check_vectors

if TYPE_CHECKING:
    from recsys.index.gpu.triton_scan import TritonScan

BF16_ERROR = 2.0**-6
TILE_ROWS = 131_072
"""items scored at once, a multiple of GROUP_ROWS"""
GROUP_ROWS = 64
GROUP_BATCH = 16_384
"""groups whose rows are scored again at once"""
MIN_SCAN_ITEMS = 200_000
"""catalogues of at least this size use the kernels: below, compiling them costs more than they save"""


class DeviceIndex:
    """Exact search over a copy of an ExactIndex on a device; later additions and removals do not reach it."""

    def __init__(self, vectors: np.ndarray, alive: np.ndarray, device: str) -> None:
        self.device = torch.device(device)
        self._alive = alive.copy()
        self._all_alive = bool(alive.all())
        self._exact = torch.from_numpy(vectors).to(self.device)
        self._norms = norm_bounds(self._exact)
        self._scan = _make_scan(self._exact, self._norms, alive)
        coarse = self._exact.to(torch.bfloat16) if self._scan is None else self._scan.coarse
        self._coarse = coarse[: len(vectors), : vectors.shape[1]]
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False

    @torch.inference_mode()
    def search(self, queries: np.ndarray, k: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """As ExactIndex.search."""
        check_k(k)
        k = min(k, len(self._exact))
        queries = check_vectors(queries, self._exact.shape[1])
        allowed_mask = None if allowed is None and self._all_alive else self._allowed_mask(allowed, len(queries))
        if not len(queries) or not k:
            return np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        if self._scan is not None and self._scan.supports(k) and (allowed_mask is None or len(allowed_mask) == 1):
            return self._scan_search(self._scan, queries, k, allowed_mask)
        return self._tiled_search(queries, k, allowed_mask)

    def _scan_search(
        self, scan: "TritonScan", queries: np.ndarray, k: int, allowed_mask: Tensor | None
    ) -> tuple[np.ndarray, np.ndarray]:
        mask, steps = None if allowed_mask is None else allowed_mask[0], range(0, len(queries), MAX_QUERIES)
        parts = [scan.search(queries[start : start + MAX_QUERIES], k, mask) for start in steps]
        scores, rows, certain = parts[0] if len(parts) == 1 else map(np.concatenate, zip(*parts, strict=True))
        if not certain.all():
            scores[~certain], rows[~certain] = self._tiled_search(queries[~certain], k, allowed_mask)
        return scores, rows

    def _tiled_search(self, queries: np.ndarray, k: int, allowed_mask: Tensor | None) -> tuple[np.ndarray, np.ndarray]:
        query_vectors = torch.from_numpy(queries).to(self.device)
        margin = norm_bounds(query_vectors) * BF16_ERROR
        lower, upper = self._bounds(query_vectors, margin, allowed_mask)
        reached = upper > -torch.inf
        if lower.shape[1] >= k:
            floor = lower.topk(k, dim=1, sorted=False).values.amin(1)
            reached &= upper >= floor[:, None]
        else:
            floor = torch.full_like(margin, -torch.inf)
        return self._best(query_vectors, *self._collect(query_vectors, margin, floor, reached, allowed_mask), k)

    def _allowed_mask(self, allowed: np.ndarray | None, num_queries: int) -> Tensor:
        """bool [B, N], or [1, N] where all queries share a mask."""
        shared = allowed is None or np.asarray(allowed).ndim == 1
        mask = allowed_rows(allowed, self._alive, 1 if shared else num_queries)
        return torch.from_numpy(mask.copy()).to(self.device)

    def _bounds(self, query_vectors: Tensor, margin: Tensor, allowed_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The best lower and upper bound of every group [B, G]."""
        coarse, lower, upper = query_vectors.to(self._coarse.dtype), [], []
        for start in range(0, len(self._coarse), TILE_ROWS):
            tile = slice(start, start + TILE_ROWS)
            scores = (coarse @ self._coarse[tile].T).float()
            if allowed_mask is not None:
                scores.masked_fill_(~allowed_mask[:, tile], -torch.inf)
            error = torch.addcmul(torch.full_like(scores[:1], UNDERFLOW), margin[:, None], self._norms[tile])
            lower.append(_group_max(scores - error))
            upper.append(_group_max(scores.add_(error)))
        return torch.cat(lower, dim=1), torch.cat(upper, dim=1)

    def _collect(
        self, query_vectors: Tensor, margin: Tensor, floor: Tensor, reached: Tensor, allowed_mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Queries [P] and rows [P], ascending, of all pairs whose upper bound reaches the query's floor."""
        found_queries, found_rows = [], []
        coarse, last = query_vectors.to(self._coarse.dtype), len(self._coarse) - 1
        for queries, groups in zip(*(one.split(GROUP_BATCH) for one in reached.nonzero(as_tuple=True)), strict=True):
            rows = groups[:, None] * GROUP_ROWS + torch.arange(GROUP_ROWS, device=self.device)
            inside, rows = rows <= last, rows.clamp(max=last)
            scores = (self._coarse[rows] @ coarse[queries, :, None]).squeeze(-1).float()
            scores += margin[queries, None] * self._norms[rows] + UNDERFLOW
            inside &= scores >= floor[queries, None]
            if allowed_mask is not None:
                inside &= allowed_mask[queries[:, None] if len(allowed_mask) > 1 else 0, rows]
            found_queries.append(queries[:, None].expand_as(rows)[inside])
            found_rows.append(rows[inside])
        empty = torch.empty(0, dtype=torch.int64, device=self.device)
        return torch.cat([empty, *found_queries]), torch.cat([empty, *found_rows])

    def _best(self, query_vectors: Tensor, queries: Tensor, rows: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k best of each query's pairs, by folded scores."""
        parts = zip(queries.split(TILE_ROWS), rows.split(TILE_ROWS), strict=True)
        scores = torch.cat([folded_products(query_vectors[own], self._exact[part]) for own, part in parts])
        order = scores.argsort(descending=True, stable=True)
        order = order[queries[order].argsort(stable=True)]
        counts = torch.bincount(queries, minlength=len(query_vectors))
        ranks = torch.arange(len(order), device=self.device) - (counts.cumsum(0) - counts)[queries]
        kept = ranks < k
        best = torch.full((len(query_vectors), k), -torch.inf, device=self.device)
        found = torch.full((len(query_vectors), k), PAD, dtype=torch.int64, device=self.device)
        best[queries[kept], ranks[kept]] = scores[order[kept]]
        found[queries[kept], ranks[kept]] = rows[order[kept]]
        return best.cpu().numpy(), found.cpu().numpy()


def free_bytes(device: str) -> int | None:
    """Return the free memory of a CUDA device; None for the CPU. RuntimeError where it cannot be reached."""
    if torch.device(device).type != "cuda":
        return None
    if not torch.cuda.is_available():
        raise RuntimeError("there is no CUDA device, or torch was built without CUDA")
    free, _ = torch.cuda.mem_get_info(device)
    return int(free)


def _make_scan(vectors: Tensor, norms: Tensor, alive: np.ndarray) -> "TritonScan | None":
    """Copy a large catalogue for the kernels; None without CUDA, without Triton or without shared memory for a tile."""
    if vectors.device.type != "cuda" or len(vectors) < MIN_SCAN_ITEMS or find_spec("triton") is None:
        return None
    from recsys.index.gpu.triton_scan import TritonScan, launch_shapes

    if launch_shapes(vectors.device, vectors.shape[1]) is None:
        return None
    return TritonScan(vectors, norms, torch.from_numpy(alive))


def _group_max(bounds: Tensor) -> Tensor:
    """[B, T] -> [B, ceil(T / GROUP)]."""
    short = -bounds.shape[1] % GROUP_ROWS
    if short:
        bounds = torch.nn.functional.pad(bounds, (0, short), value=-torch.inf)
    return bounds.unflatten(1, (-1, GROUP_ROWS)).amax(-1)
