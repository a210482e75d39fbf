"""Exact top-k on a torch device: bfloat16 scores of tiles, of which only group maxima are kept, then float32 scores.

The same two passes and the same floor as recsys.index.int8, for all queries at once. A bfloat16 score is off by at
most LOSS ||q|| ||x||: query, item and result are each rounded by 2^-8, sums of products are kept in float32.
Large catalogues on a CUDA device go through recsys.index.scan, and come back for what it is not sure of.
Only these two modules of the room import torch; they are imported when ExactIndex.to is called.

Shapes: B queries, N items, D dim, K results, G groups of consecutive rows, P pairs of a query and a group or row.
"""

from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from recsys.contracts import PAD
from recsys.index.scores import check_k, checked, open_rows

if TYPE_CHECKING:
    from recsys.index.scan import Scan

LOSS = 2.0**-6
TINY = 1e-34
TILE = 131_072
"""items scored at once, a multiple of GROUP"""
GROUP = 64
PAIRS = 16_384
"""groups scored again at once"""
LARGEST = 1_024
"""queries that the kernels answer at once"""
SCANNED = 200_000
"""from so many items on the kernels of recsys.index.scan are worth their making"""


class DeviceIndex:
    """Inner product with every item vector that was alive when it was made."""

    def __init__(self, vectors: np.ndarray, alive: np.ndarray, device: str) -> None:
        self.device = torch.device(device)
        self._alive = alive.copy()
        self._all_alive = bool(alive.all())
        self._exact = torch.from_numpy(vectors).to(self.device)
        self._norms = norms(self._exact)
        self._scan = _scan_of(self._exact, self._norms, alive)
        rough = self._exact.to(torch.bfloat16) if self._scan is None else self._scan.rough
        self._rough = rough[: len(vectors), : vectors.shape[1]]
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False

    @torch.inference_mode()
    def search(self, queries: np.ndarray, k: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """As ExactIndex.search."""
        check_k(k)
        k = min(k, len(self._exact))
        queries = checked(queries, self._exact.shape[1])
        is_open = None if allowed is None and self._all_alive else self._open(allowed, len(queries))
        if not len(queries) or not k:
            return np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        if self._scan is not None and self._scan.fits(k) and (is_open is None or len(is_open) == 1):
            return self._scanned(self._scan, queries, k, is_open)
        return self._tiled(queries, k, is_open)

    def _scanned(
        self, scan: "Scan", queries: np.ndarray, k: int, is_open: Tensor | None
    ) -> tuple[np.ndarray, np.ndarray]:
        mask, steps = None if is_open is None else is_open[0], range(0, len(queries), LARGEST)
        parts = [scan.search(queries[start : start + LARGEST], k, mask) for start in steps]
        scores, rows, sure = parts[0] if len(parts) == 1 else map(np.concatenate, zip(*parts, strict=True))
        if not sure.all():
            scores[~sure], rows[~sure] = self._tiled(queries[~sure], k, is_open)
        return scores, rows

    def _tiled(self, queries: np.ndarray, k: int, is_open: Tensor | None) -> tuple[np.ndarray, np.ndarray]:
        asked = torch.from_numpy(queries).to(self.device)
        margin = norms(asked) * LOSS
        lower, upper = self._bounds(asked, margin, is_open)
        reached = upper > -torch.inf
        if lower.shape[1] >= k:
            floor = lower.topk(k, dim=1, sorted=False).values.amin(1)
            reached &= upper >= floor[:, None]
        else:
            floor = torch.full_like(margin, -torch.inf)
        return self._best(asked, *self._collect(asked, margin, floor, reached, is_open), k)

    def _open(self, allowed: np.ndarray | None, num_queries: int) -> Tensor:
        """bool [B, N], or [1, N] where all queries may find the same."""
        shared = allowed is None or np.asarray(allowed).ndim == 1
        mask = open_rows(allowed, self._alive, 1 if shared else num_queries)
        return torch.from_numpy(mask.copy()).to(self.device)

    def _bounds(self, asked: Tensor, margin: Tensor, is_open: Tensor | None) -> tuple[Tensor, Tensor]:
        """The best lower and upper bound of every group [B, G]."""
        rough, lower, upper = asked.to(torch.bfloat16), [], []
        for start in range(0, len(self._rough), TILE):
            tile = slice(start, start + TILE)
            scores = (rough @ self._rough[tile].T).float()
            if is_open is not None:
                scores.masked_fill_(~is_open[:, tile], -torch.inf)
            spread = torch.addcmul(torch.full_like(scores[:1], TINY), margin[:, None], self._norms[tile])
            lower.append(_group_max(scores - spread))
            upper.append(_group_max(scores.add_(spread)))
        return torch.cat(lower, dim=1), torch.cat(upper, dim=1)

    def _collect(
        self, asked: Tensor, margin: Tensor, floor: Tensor, reached: Tensor, is_open: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Queries [P] and rows [P], both rising, of all whose upper bound is not below the query's floor."""
        found_queries, found_rows = [], []
        rough, last = asked.to(torch.bfloat16), len(self._rough) - 1
        for queries, groups in zip(*(one.split(PAIRS) for one in reached.nonzero(as_tuple=True)), strict=True):
            rows = groups[:, None] * GROUP + torch.arange(GROUP, device=self.device)
            inside, rows = rows <= last, rows.clamp(max=last)
            scores = (self._rough[rows] @ rough[queries, :, None]).squeeze(-1).float()
            scores += margin[queries, None] * self._norms[rows] + TINY
            inside &= scores >= floor[queries, None]
            if is_open is not None:
                inside &= is_open[queries[:, None] if len(is_open) > 1 else 0, rows]
            found_queries.append(queries[:, None].expand_as(rows)[inside])
            found_rows.append(rows[inside])
        empty = torch.empty(0, dtype=torch.int64, device=self.device)
        return torch.cat([empty, *found_queries]), torch.cat([empty, *found_rows])

    def _best(self, asked: Tensor, queries: Tensor, rows: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k best of each query's pairs, by folded scores."""
        parts = zip(queries.split(TILE), rows.split(TILE), strict=True)
        scores = torch.cat([folded(asked[own], self._exact[part]) for own, part in parts])
        order = scores.argsort(descending=True, stable=True)
        order = order[queries[order].argsort(stable=True)]
        counts = torch.bincount(queries, minlength=len(asked))
        places = torch.arange(len(order), device=self.device) - (counts.cumsum(0) - counts)[queries]
        kept = places < k
        best = torch.full((len(asked), k), -torch.inf, device=self.device)
        found = torch.full((len(asked), k), PAD, dtype=torch.int64, device=self.device)
        best[queries[kept], places[kept]] = scores[order[kept]]
        found[queries[kept], places[kept]] = rows[order[kept]]
        return best.cpu().numpy(), found.cpu().numpy()


def _scan_of(vectors: Tensor, norms: Tensor, alive: np.ndarray) -> "Scan | None":
    """The kernels' own copy of a catalogue that is worth it, where there is Triton and room for their tiles."""
    if vectors.device.type != "cuda" or len(vectors) < SCANNED or find_spec("triton") is None:
        return None
    from recsys.index.scan import Scan, shapes_of

    if shapes_of(vectors.device, vectors.shape[1]) is None:
        return None
    return Scan(vectors, norms, torch.from_numpy(alive))


def norms(vectors: Tensor) -> Tensor:
    """Not below the norms of vectors [., D], nor, times LOSS, below those of numbers that a device takes for zero."""
    return torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float64).float() * (1 + 1e-6) + TINY


def _group_max(bounds: Tensor) -> Tensor:
    """[B, T] -> [B, ceil(T / GROUP)]."""
    short = -bounds.shape[1] % GROUP
    if short:
        bounds = torch.nn.functional.pad(bounds, (0, short), value=-torch.inf)
    return bounds.unflatten(1, (-1, GROUP)).amax(-1)


def folded(queries: Tensor, vectors: Tensor) -> Tensor:
    """recsys.index.scores.inner_products for [P, D] and [P, D]."""
    products = queries * vectors
    while (width := products.shape[1]) > 1:
        half = (width + 1) // 2
        products[:, : width - half] += products[:, half:]
        products = products[:, :half]
    return products[:, 0]
