"""The two passes of the exact index as Triton kernels: every bfloat16 vector is read once, no score is written.

A sample of the tiles gives a floor that the k best are not below. The scan then keeps, of all groups of rows, those whose
best upper bound reaches it, and the rows of the best groups are scored again. So few rows remain that their float32 scores
cost nothing. With q' and x' the rounded vectors, a bfloat16 score is off by at most ||q - q'|| ||x|| + ||q'|| ||x - x'||
(Cauchy-Schwarz), both distances being known, plus SUM_ERROR D ||q'|| ||x|| for the sum in float32: half of the bound that
holds for any vectors.

The capacities of the buffers suit rows in random order; where one overflows, `certain` is False for the query, and the
caller has to search it the slower way. On a CUDA device one call is one CUDA graph.

Shapes: B queries (padded), N rows (padded to whole tiles), D dim (padded), K results, P kept groups, F rows found.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from recsys.errors import ConfigError
from recsys.index.gpu import torch_scores
from recsys.index.gpu.torch_scores import MAX_QUERIES, folded_products, norm_bounds

SUM_ERROR = 2.0**-21
UNDERFLOW = tl.constexpr(torch_scores.UNDERFLOW)
TILE, GROUP = 128, 32
"""rows of a matrix product, and rows that are kept or dropped together"""
DISTANCE_CHUNK = 1_000_000
"""rows whose distances are computed together"""
SAMPLE_STRIDE = 16
"""every SAMPLE_STRIDE-th tile is sampled"""
MAX_RESULTS = 1_024
"""results of a query"""
MAX_PLANS = 8
"""plans in memory; the oldest is dropped"""
QUERY_BUCKETS = (64, 128, 256, 512, MAX_QUERIES)
"""sizes to which a batch of queries is padded, so that few graphs are captured; larger batches are split"""

Kernel = Any
ScanResult = tuple[np.ndarray, np.ndarray, np.ndarray]


@triton.jit
def _scan(
    queries,
    coarse,
    max_norms,
    max_distances,
    allowed,
    margins,
    floors,
    kept,
    groups,
    counts,
    num_tiles,
    stride,
    CAPACITY: tl.constexpr,
    DIM: tl.constexpr,
    QUERIES: tl.constexpr,
    TILE: tl.constexpr,
    GROUP: tl.constexpr,
    SAMPLE: tl.constexpr,
    ALL_ALLOWED: tl.constexpr,
    STAGES: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """Write bounds of tiles or of groups for queries [B, D] over rows [N, D], one block of queries a program.

    SAMPLE: kept [B, CAPACITY] becomes the best lower bound of every sampled tile. Else kept and groups become the upper
    bounds and the numbers of the groups that reach floors [B], counts [B] their number.
    """
    # neighbouring programs hold other queries for the same tile, so that memory is read once and L2 by the others
    query_ids = tl.program_id(0) % BLOCKS * QUERIES + tl.arange(0, QUERIES)
    dims = tl.arange(0, DIM)
    query_vectors = tl.load(queries + query_ids[:, None] * DIM + dims[None, :])
    margin, length = tl.load(margins + 2 * query_ids), tl.load(margins + 2 * query_ids + 1)
    floor = tl.load(floors + query_ids)
    parts: tl.constexpr = TILE // GROUP
    # one counter a query, addressed by all groups of a tile: the atomics return distinct slots
    counters = counts + query_ids[:, None] + tl.zeros((1, parts), tl.int32)
    start = query_ids[:, None].to(tl.int64) * CAPACITY
    for number in tl.range(tl.program_id(0) // BLOCKS, num_tiles, tl.num_programs(0) // BLOCKS, num_stages=STAGES):
        tile = number * stride
        rows = tile.to(tl.int64) * TILE + tl.arange(0, TILE)
        items = tl.load(coarse + rows[:, None] * DIM + dims[None, :])
        # bounds of the tile, not of each row: a row's own bound costs a load, and few tiles survive
        error = margin * tl.load(max_norms + tile) + length * tl.load(max_distances + tile) + UNDERFLOW
        scores = tl.dot(query_vectors, tl.trans(items))
        if not ALL_ALLOWED:
            scores = tl.where(tl.load(allowed + rows)[None, :] != 0, scores, float("-inf"))
        if SAMPLE:
            tl.store(kept + query_ids.to(tl.int64) * CAPACITY + number, tl.max(scores, 1) - error)
        else:
            upper = tl.max(tl.reshape(scores, (QUERIES, parts, GROUP)), 2) + error[:, None]
            hit = upper >= floor[:, None]
            # order among groups does not matter, only that slots differ; an overflow is seen in the counter
            slot = tl.atomic_add(counters, 1, mask=hit, sem="relaxed")
            fits = hit & (slot < CAPACITY)
            tl.store(kept + start + slot, upper, mask=fits)
            tl.store(groups + start + slot, tile * parts + tl.arange(0, parts)[None, :], mask=fits)


@triton.jit
def _rescore(
    queries,
    coarse,
    norms,
    distances,
    allowed,
    margins,
    floors,
    kept,
    groups,
    found,
    counts,
    CAPACITY: tl.constexpr,
    DIM: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Write into found [B, CAPACITY] the rows of kept groups [B, P] whose own upper bound reaches floors [B]."""
    query, pair = tl.program_id(0), tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    floor = tl.load(floors + query)
    # most pairs of a batch are empty or too low: a program without work ends at once
    if tl.load(kept + pair) >= floor:
        dims = tl.arange(0, DIM)
        rows = tl.load(groups + pair).to(tl.int64) * GROUP + tl.arange(0, GROUP)
        items = tl.load(coarse + rows[:, None] * DIM + dims[None, :]).to(tl.float32)
        query_vectors = tl.load(queries + query * DIM + dims).to(tl.float32)
        margin, length = tl.load(margins + 2 * query), tl.load(margins + 2 * query + 1)
        error = margin * tl.load(norms + rows) + length * tl.load(distances + rows) + UNDERFLOW
        upper = tl.sum(items * query_vectors[None, :], 1) + error
        hit = (upper >= floor) & (tl.load(allowed + rows) != 0)
        slot = tl.atomic_add(counts + query + tl.zeros((GROUP,), tl.int32), 1, mask=hit, sem="relaxed")
        tl.store(found + query * CAPACITY + slot, rows, mask=hit & (slot < CAPACITY))


@dataclass(frozen=True, kw_only=True)
class LaunchShape:
    """Tile and launch parameters of the scan kernel."""

    queries: int
    warps: int
    stages: int
    programs: int
    """per multiprocessor"""


RESERVED_SHARED_BYTES = 16_384
"""shared memory that is left to everything but tiles"""
SMALL_BATCH = LaunchShape(queries=64, warps=4, stages=4, programs=1)
LARGE_BATCH = LaunchShape(queries=128, warps=8, stages=2, programs=2)


def fit_stages(shape: LaunchShape, dim: int, shared_bytes: int) -> LaunchShape | None:
    """Return the shape with as many stages as shared memory allows; None where not one fits."""
    stages = (shared_bytes - RESERVED_SHARED_BYTES - 2 * shape.queries * dim) // (2 * TILE * dim)
    return replace(shape, stages=min(shape.stages, stages)) if stages > 0 else None


def launch_shapes(device: torch.device, dim: int) -> tuple[LaunchShape, LaunchShape] | None:
    """Launch shapes for small and for large batches of vectors of length dim; None where shared memory is too small."""
    shared = 2**20
    if device.type == "cuda":
        shared = getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", 0)
    few, many = (fit_stages(shape, padded_dim(dim), shared) for shape in (SMALL_BATCH, LARGE_BATCH))
    return (few, many) if few and many else None


def padded_dim(dim: int) -> int:
    return max(16, triton.next_power_of_2(dim))


class TritonScan:
    """Vectors [N, D] on a device, rounded and padded for the kernels."""

    def __init__(self, vectors: Tensor, lengths: Tensor, alive: Tensor) -> None:
        """lengths: [N] float32 upper bounds of the norms; alive: [N] bool, other rows are never found.

        ConfigError where a tile does not fit into the shared memory.
        """
        num, dim = vectors.shape
        self.device = vectors.device
        self.vectors = vectors
        shapes = launch_shapes(self.device, dim)
        if shapes is None:
            raise ConfigError(
                f"index: no tile of vectors of {dim} numbers fits into the shared memory of {self.device}"
            )
        self.shapes = shapes
        self.num_tiles = -(-num // TILE)
        self.dim = padded_dim(dim)
        self.type = (
            torch.bfloat16 if self.device.type == "cuda" else torch.float32
        )  # Triton's interpreter has no bfloat16
        self.coarse = torch.zeros(self.num_tiles * TILE, self.dim, dtype=self.type, device=self.device)
        self.coarse[:num, :dim] = vectors.to(torch.bfloat16)
        self.norms, self.distances = torch.zeros(2, len(self.coarse), device=self.device)
        self.norms[:num] = lengths
        for start in range(0, num, DISTANCE_CHUNK):
            part = slice(start, min(start + DISTANCE_CHUNK, num))
            self.distances[part] = norm_bounds(vectors[part] - self.coarse[part, :dim].float())
        self.max_norms, self.max_distances = (one.view(-1, TILE).amax(1) for one in (self.norms, self.distances))
        self.alive = torch.zeros(len(self.coarse), dtype=torch.int8, device=self.device)
        self.alive[:num] = alive
        self.all_alive = bool(self.alive.all())
        self.allowed = self.alive.clone()
        self._lock = Lock()
        self._plans: dict[tuple[int, int, bool], ScanPlan] = {}

    def supports(self, k: int) -> bool:
        """Whether the sample of tiles can give a floor for k results, and k is small enough for the buffers."""
        return 8 * k <= self.num_tiles and k <= MAX_RESULTS

    def search(self, queries: np.ndarray, k: int, mask: Tensor | None) -> ScanResult:
        """Search at most QUERY_BUCKETS[-1] queries [B, D], checked, in a catalogue of at least 8 k tiles.

        mask: bool [N], the only rows that may be found. Returns scores [B, K], rows [B, K] and certain [B]; results of a
        query that is not certain may be wrong.
        """
        size = next(size for size in QUERY_BUCKETS if size >= len(queries))
        key = (size, k, mask is None and self.all_alive)
        with self._lock:
            plan = self._plan(key)
            if mask is None:
                return plan.search(queries)
            self.allowed[: len(mask)].mul_(mask)
            try:
                return plan.search(queries)
            finally:
                self.allowed.copy_(self.alive)

    def _plan(self, key: tuple[int, int, bool]) -> "ScanPlan":
        if key not in self._plans:
            while len(self._plans) >= MAX_PLANS:
                del self._plans[next(iter(self._plans))]
            with device_context(self.device):
                self._plans[key] = ScanPlan(self, *key)
        return self._plans[key]


class ScanPlan:
    """Buffers of a search of `size` queries, and its CUDA graph."""

    def __init__(self, scan: TritonScan, size: int, k: int, all_allowed: bool) -> None:
        self.scan = scan
        self.k = k
        self.all_allowed = all_allowed
        self.shape = scan.shapes[0] if size <= SMALL_BATCH.queries else scan.shapes[1]
        # four times as many sampled tiles as results, so that the floor is close to the k-th score
        self.stride = min(SAMPLE_STRIDE, scan.num_tiles // (4 * k))
        self.num_sampled = scan.num_tiles // self.stride
        # a floor from every stride-th tile lets about k * stride groups pass; 2.5 times that for chance
        self.capacity = max(1_024, triton.next_power_of_2(5 * k * self.stride // 2))
        # k groups at least hold the results; the rest is room for groups whose bound is higher than their rows
        self.pairs = min(self.capacity, 2 * k + 56)
        pinned: dict[str, Any] = {"pin_memory": scan.device.type == "cuda"}
        dim = scan.vectors.shape[1]
        self.host_input = torch.zeros(size, dim + 1, **pinned)
        self.host_output = (
            torch.empty(size, k, **pinned),
            torch.empty(size, k, dtype=torch.int64, **pinned),
            torch.empty(size, dtype=torch.bool, **pinned),
        )
        own: dict[str, Any] = {"device": scan.device}
        self.device_input = torch.zeros(size, dim + 1, **own)
        self.sample = torch.empty(size, self.num_sampled, **own)
        self.queries = torch.zeros(size, scan.dim, dtype=scan.type, **own)
        self.kept = torch.empty(size, self.capacity, **own)
        self.groups = torch.zeros(size, self.capacity, dtype=torch.int32, **own)
        self.found = torch.zeros(size, self.pairs, dtype=torch.int64, **own)
        self.counts = torch.zeros(2, size, dtype=torch.int32, **own)
        self.columns = torch.arange(self.pairs, **own)
        self.replay = self._captured() if scan.device.type == "cuda" else self.launch

    def search(self, queries: np.ndarray) -> ScanResult:
        num, host_input = len(queries), self.host_input.numpy()
        host_input[:num, :-1], host_input[:num, -1], host_input[num:, -1] = queries, 1, 0
        with device_context(self.scan.device):
            self.replay()
            if self.scan.device.type == "cuda":
                torch.cuda.current_stream().synchronize()
        scores, rows, certain = (one[:num].numpy().copy() for one in self.host_output)
        return scores, rows, certain

    def launch(self) -> None:
        """Enqueue one search, from `host_input` to `host_output`; every tensor has a fixed address, as a graph needs it."""
        self.device_input.copy_(self.host_input, non_blocking=True)
        query_vectors, is_query = self.device_input[:, :-1], self.device_input[:, -1]
        rounded = query_vectors.to(torch.bfloat16)
        self.queries[:, : query_vectors.shape[1]] = rounded
        length = norm_bounds(rounded)
        margins = torch.stack(
            [norm_bounds(query_vectors - rounded.float()) + SUM_ERROR * self.scan.dim * length, length], dim=1
        )
        self.counts.zero_()
        self._scan(margins, is_query, self.sample, sample=True)
        floors = self.sample.topk(self.k, dim=1, sorted=False).values.amin(1)
        floors.masked_fill_(is_query == 0, torch.inf)
        self.kept.fill_(-torch.inf)
        self._scan(margins, floors, self.kept, sample=False)
        kept, columns = self.kept.topk(self.pairs, dim=1, sorted=False)
        groups = self.groups.gather(1, columns)
        tiles = groups // (TILE // GROUP)
        error = (
            margins[:, :1] * self.scan.max_norms[tiles]
            + margins[:, 1:] * self.scan.max_distances[tiles]
            + UNDERFLOW.value
        )
        # an upper bound minus twice the error is a lower bound of the same group, and a better floor than the sample's
        lower = kept - 2 * error * (1 + 1e-6)
        floors = torch.maximum(floors, lower.topk(self.k, dim=1, sorted=False).values.amin(1))
        self._rescore(margins, floors, kept.contiguous(), groups)
        complete = (self.counts[0] <= self.pairs) | (kept.amin(1) < floors)
        certain = (self.counts[0] <= self.capacity) & complete & (self.counts[1] <= self.pairs) & floors.isfinite()
        for own, made in zip(self.host_output, (*self._best(query_vectors), certain), strict=True):
            own.copy_(made, non_blocking=True)

    def _scan(self, margins: Tensor, floors: Tensor, kept: Tensor, *, sample: bool) -> None:
        scan, blocks = self.scan, len(self.queries) // self.shape.queries
        num_tiles = self.num_sampled if sample else scan.num_tiles
        programs = max(1, min(num_tiles, self.shape.programs * _multiprocessors(scan.device) // blocks)) * blocks
        kernel: Kernel = _scan
        kernel[(programs,)](
            self.queries,
            scan.coarse,
            scan.max_norms,
            scan.max_distances,
            scan.allowed,
            margins,
            floors,
            kept,
            self.groups,
            self.counts[0],
            num_tiles,
            self.stride if sample else 1,
            CAPACITY=kept.shape[1],
            DIM=scan.dim,
            QUERIES=self.shape.queries,
            TILE=TILE,
            GROUP=GROUP,
            SAMPLE=sample,
            ALL_ALLOWED=self.all_allowed,
            STAGES=self.shape.stages,
            BLOCKS=blocks,
            num_warps=self.shape.warps,
        )

    def _rescore(self, margins: Tensor, floors: Tensor, kept: Tensor, groups: Tensor) -> None:
        kernel: Kernel = _rescore
        scan = self.scan
        kernel[tuple(kept.shape)](
            self.queries,
            scan.coarse,
            scan.norms,
            scan.distances,
            scan.allowed,
            margins,
            floors,
            kept,
            groups,
            self.found,
            self.counts[1],
            CAPACITY=self.pairs,
            DIM=scan.dim,
            GROUP=GROUP,
            num_warps=1,
        )

    def _best(self, query_vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and rows [B, K] of the best rows found."""
        valid = self.columns < self.counts[1][:, None]
        rows = torch.where(valid, self.found, 0)
        items = self.scan.vectors[rows.flatten()]
        scores = folded_products(query_vectors.repeat_interleave(self.pairs, 0), items).view(rows.shape)
        packed = torch.where(valid, _packed(scores, rows), torch.iinfo(torch.int64).min)
        return _unpacked(packed.topk(self.k, dim=1).values)

    def _captured(self) -> Callable[[], None]:
        stream = torch.cuda.Stream(self.scan.device)
        stream.wait_stream(torch.cuda.current_stream(self.scan.device))
        with torch.cuda.stream(stream):
            self.launch()
        # a warm-up outside of the graph compiles the kernels: compilation cannot be captured
        torch.cuda.current_stream(self.scan.device).wait_stream(stream)
        torch.cuda.synchronize(self.scan.device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self.launch()
        return graph.replay


def _packed(scores: Tensor, rows: Tensor) -> Tensor:
    """Pack score and row into one int64, larger for a better score and, among ties, for a lower row."""
    # + 0.0 turns -0.0 into 0.0; flipping 31 bits of negative floats makes their bit patterns rise with the value
    bits = (scores + 0.0).contiguous().view(torch.int32).long()
    rising = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return (rising << 32) | (0xFFFFFFFF - rows)


def _unpacked(packed: Tensor) -> tuple[Tensor, Tensor]:
    rising = packed >> 32
    bits = torch.where(rising < 0, rising ^ 0x7FFFFFFF, rising)
    return bits.to(torch.int32).view(torch.float32), 0xFFFFFFFF - (packed & 0xFFFFFFFF)


def device_context(device: torch.device) -> AbstractContextManager[None]:
    """Context in which kernels are launched on the device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2
