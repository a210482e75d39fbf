"""The two passes of the exact index as Triton kernels: every bfloat16 vector is read once, no score is written.

A sample of the tiles gives a floor that the k best are not below. The scan then keeps, of all groups of rows, those whose
best upper bound reaches it, and the rows of the best groups are scored again. What is left is so little that float32 scores
of it cost nothing. For what q' and x' are after rounding, a rough score is off by at most ||q - q'|| ||x|| + ||q'|| ||x - x'||
(Cauchy and Schwarz), both distances being known, and SUMMED D ||q'|| ||x|| for the sum in float32: half of what holds for
any vectors.

The capacities below fit data whose rows are in no particular order; where one overflows, `sure` says so, and the caller
has to ask the slower way. On a CUDA device one call is one graph.

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
from recsys.index import device
from recsys.index.device import folded, norms

SUMMED = 2.0**-21
TINY = tl.constexpr(device.TINY)
TILE, GROUP = 128, 32
"""rows that are scored, and rows that are kept or not, together"""
CHUNK = 1_000_000
"""rows whose distances are computed together"""
EVERY = 16
"""one in so many tiles is sampled"""
MOST = 1_024
"""results"""
PLANS = 8
"""kept; the oldest is forgotten"""
BATCHES = (64, 128, 256, 512, device.LARGEST)
"""to which the number of queries is padded; more of them are split"""

Kernel = Any
Answer = tuple[np.ndarray, np.ndarray, np.ndarray]


@triton.jit
def _scan(
    queries,
    rough,
    longest,
    farthest,
    is_open,
    margins,
    floors,
    kept,
    groups,
    counts,
    num_tiles,
    every,
    CAPACITY: tl.constexpr,
    DIM: tl.constexpr,
    QUERIES: tl.constexpr,
    TILE: tl.constexpr,
    GROUP: tl.constexpr,
    SAMPLE: tl.constexpr,
    ALL_OPEN: tl.constexpr,
    STAGES: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """SAMPLE: kept [B, CAPACITY] becomes the best lower bound of every tile looked at. Else kept and groups become the
    upper bounds and the numbers of the groups that reach floors [B], counts [B] how many there were.
    """
    places = tl.program_id(0) % BLOCKS * QUERIES + tl.arange(0, QUERIES)
    dims = tl.arange(0, DIM)
    asked = tl.load(queries + places[:, None] * DIM + dims[None, :])
    margin, length = tl.load(margins + 2 * places), tl.load(margins + 2 * places + 1)
    floor = tl.load(floors + places)
    parts: tl.constexpr = TILE // GROUP
    counters = counts + places[:, None] + tl.zeros((1, parts), tl.int32)
    start = places[:, None].to(tl.int64) * CAPACITY
    for number in tl.range(tl.program_id(0) // BLOCKS, num_tiles, tl.num_programs(0) // BLOCKS, num_stages=STAGES):
        tile = number * every
        rows = tile.to(tl.int64) * TILE + tl.arange(0, TILE)
        items = tl.load(rough + rows[:, None] * DIM + dims[None, :])
        spread = margin * tl.load(longest + tile) + length * tl.load(farthest + tile) + TINY
        scores = tl.dot(asked, tl.trans(items))
        if not ALL_OPEN:
            scores = tl.where(tl.load(is_open + rows)[None, :] != 0, scores, float("-inf"))
        if SAMPLE:
            tl.store(kept + places.to(tl.int64) * CAPACITY + number, tl.max(scores, 1) - spread)
        else:
            upper = tl.max(tl.reshape(scores, (QUERIES, parts, GROUP)), 2) + spread[:, None]
            hit = upper >= floor[:, None]
            place = tl.atomic_add(counters, 1, mask=hit, sem="relaxed")
            fits = hit & (place < CAPACITY)
            tl.store(kept + start + place, upper, mask=fits)
            tl.store(groups + start + place, tile * parts + tl.arange(0, parts)[None, :], mask=fits)


@triton.jit
def _rescore(
    queries,
    rough,
    norms,
    distances,
    is_open,
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
    """found [B, CAPACITY] becomes the rows of kept groups [B, P] whose own upper bound reaches floors [B]."""
    query, place = tl.program_id(0), tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    floor = tl.load(floors + query)
    if tl.load(kept + place) >= floor:
        dims = tl.arange(0, DIM)
        rows = tl.load(groups + place).to(tl.int64) * GROUP + tl.arange(0, GROUP)
        items = tl.load(rough + rows[:, None] * DIM + dims[None, :]).to(tl.float32)
        asked = tl.load(queries + query * DIM + dims).to(tl.float32)
        margin, length = tl.load(margins + 2 * query), tl.load(margins + 2 * query + 1)
        spread = margin * tl.load(norms + rows) + length * tl.load(distances + rows) + TINY
        upper = tl.sum(items * asked[None, :], 1) + spread
        hit = (upper >= floor) & (tl.load(is_open + rows) != 0)
        spot = tl.atomic_add(counts + query + tl.zeros((GROUP,), tl.int32), 1, mask=hit, sem="relaxed")
        tl.store(found + query * CAPACITY + spot, rows, mask=hit & (spot < CAPACITY))


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How one launch is cut."""

    queries: int
    warps: int
    stages: int
    programs: int
    """for each multiprocessor"""


SPARE = 16_384
"""bytes of shared memory for what is no tile"""
SMALL = Shape(queries=64, warps=4, stages=4, programs=1)
LARGE = Shape(queries=128, warps=8, stages=2, programs=2)


def fitting(shape: Shape, dim: int, shared_bytes: int) -> Shape | None:
    """The same with as many stages as there is shared memory for; None for none."""
    stages = (shared_bytes - SPARE - 2 * shape.queries * dim) // (2 * TILE * dim)
    return replace(shape, stages=min(shape.stages, stages)) if stages > 0 else None


def shapes_of(device: torch.device, dim: int) -> tuple[Shape, Shape] | None:
    """How few and how many queries are cut for vectors of so many numbers; None where the device has no room for them."""
    shared = 2**20
    if device.type == "cuda":
        shared = getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", 0)
    few, many = (fitting(shape, padded(dim), shared) for shape in (SMALL, LARGE))
    return (few, many) if few and many else None


def padded(dim: int) -> int:
    return max(16, triton.next_power_of_2(dim))


class Scan:
    """Vectors [N, D] on a device, prepared for the kernels."""

    def __init__(self, vectors: Tensor, lengths: Tensor, alive: Tensor) -> None:
        """lengths [N] float32, norms or a little more; alive [N] bool: the others are never found.

        ConfigError where the device has no room for such vectors.
        """
        num, dim = vectors.shape
        self.device = vectors.device
        self.vectors = vectors
        shapes = shapes_of(self.device, dim)
        if shapes is None:
            raise ConfigError(
                f"index: no tile of vectors of {dim} numbers fits into the shared memory of {self.device}"
            )
        self.shapes = shapes
        self.num_tiles = -(-num // TILE)
        self.dim = padded(dim)
        self.type = (
            torch.bfloat16 if self.device.type == "cuda" else torch.float32
        )  # Triton's interpreter has no bfloat16
        self.rough = torch.zeros(self.num_tiles * TILE, self.dim, dtype=self.type, device=self.device)
        self.rough[:num, :dim] = vectors.to(torch.bfloat16)
        self.norms, self.distances = torch.zeros(2, len(self.rough), device=self.device)
        self.norms[:num] = lengths
        for start in range(0, num, CHUNK):
            part = slice(start, min(start + CHUNK, num))
            self.distances[part] = norms(vectors[part] - self.rough[part, :dim].float())
        self.longest, self.farthest = (one.view(-1, TILE).amax(1) for one in (self.norms, self.distances))
        self.alive = torch.zeros(len(self.rough), dtype=torch.int8, device=self.device)
        self.alive[:num] = alive
        self.all_alive = bool(self.alive.all())
        self.is_open = self.alive.clone()
        self._turn = Lock()
        self._plans: dict[tuple[int, int, bool], Plan] = {}

    def fits(self, k: int) -> bool:
        """Whether there are tiles enough to take a sample of, and so few results that buffers stay small."""
        return 8 * k <= self.num_tiles and k <= MOST

    def search(self, queries: np.ndarray, k: int, mask: Tensor | None) -> Answer:
        """At most BATCHES[-1] queries [B, D], checked, of a catalogue of at least 8 k tiles.

        mask: bool [N], the only rows that may be found. Returns scores [B, K], rows [B, K] and sure [B]; what is not sure
        may be wrong.
        """
        size = next(size for size in BATCHES if size >= len(queries))
        key = (size, k, mask is None and self.all_alive)
        with self._turn:
            plan = self._plan(key)
            if mask is None:
                return plan.search(queries)
            self.is_open[: len(mask)].mul_(mask)
            try:
                return plan.search(queries)
            finally:
                self.is_open.copy_(self.alive)

    def _plan(self, key: tuple[int, int, bool]) -> "Plan":
        if key not in self._plans:
            while len(self._plans) >= PLANS:
                del self._plans[next(iter(self._plans))]
            with on(self.device):
                self._plans[key] = Plan(self, *key)
        return self._plans[key]


class Plan:
    """All buffers of a search of so many queries, and its graph."""

    def __init__(self, scan: Scan, size: int, k: int, all_open: bool) -> None:
        self.scan = scan
        self.k = k
        self.all_open = all_open
        self.shape = scan.shapes[0] if size <= SMALL.queries else scan.shapes[1]
        self.every = min(EVERY, scan.num_tiles // (4 * k))
        self.num_sampled = scan.num_tiles // self.every
        self.capacity = max(1_024, triton.next_power_of_2(5 * k * self.every // 2))
        self.pairs = min(self.capacity, 2 * k + 56)
        pinned: dict[str, Any] = {"pin_memory": scan.device.type == "cuda"}
        dim = scan.vectors.shape[1]
        self.sent = torch.zeros(size, dim + 1, **pinned)
        self.answer = (
            torch.empty(size, k, **pinned),
            torch.empty(size, k, dtype=torch.int64, **pinned),
            torch.empty(size, dtype=torch.bool, **pinned),
        )
        own: dict[str, Any] = {"device": scan.device}
        self.received = torch.zeros(size, dim + 1, **own)
        self.sample = torch.empty(size, self.num_sampled, **own)
        self.queries = torch.zeros(size, scan.dim, dtype=scan.type, **own)
        self.kept = torch.empty(size, self.capacity, **own)
        self.groups = torch.zeros(size, self.capacity, dtype=torch.int32, **own)
        self.found = torch.zeros(size, self.pairs, dtype=torch.int64, **own)
        self.counts = torch.zeros(2, size, dtype=torch.int32, **own)
        self.places = torch.arange(self.pairs, **own)
        self.replay = self._captured() if scan.device.type == "cuda" else self.launch

    def search(self, queries: np.ndarray) -> Answer:
        num, sent = len(queries), self.sent.numpy()
        sent[:num, :-1], sent[:num, -1], sent[num:, -1] = queries, 1, 0
        with on(self.scan.device):
            self.replay()
            if self.scan.device.type == "cuda":
                torch.cuda.current_stream().synchronize()
        scores, rows, sure = (one[:num].numpy().copy() for one in self.answer)
        return scores, rows, sure

    def launch(self) -> None:
        """From `sent` to `answer`."""
        self.received.copy_(self.sent, non_blocking=True)
        asked, is_query = self.received[:, :-1], self.received[:, -1]
        rounded = asked.to(torch.bfloat16)
        self.queries[:, : asked.shape[1]] = rounded
        length = norms(rounded)
        margins = torch.stack([norms(asked - rounded.float()) + SUMMED * self.scan.dim * length, length], dim=1)
        self.counts.zero_()
        self._scan(margins, is_query, self.sample, sample=True)
        floors = self.sample.topk(self.k, dim=1, sorted=False).values.amin(1)
        floors.masked_fill_(is_query == 0, torch.inf)
        self.kept.fill_(-torch.inf)
        self._scan(margins, floors, self.kept, sample=False)
        kept, places = self.kept.topk(self.pairs, dim=1, sorted=False)
        groups = self.groups.gather(1, places)
        tiles = groups // (TILE // GROUP)
        spread = margins[:, :1] * self.scan.longest[tiles] + margins[:, 1:] * self.scan.farthest[tiles] + TINY.value
        lower = kept - 2 * spread * (1 + 1e-6)
        floors = torch.maximum(floors, lower.topk(self.k, dim=1, sorted=False).values.amin(1))
        self._rescore(margins, floors, kept.contiguous(), groups)
        whole = (self.counts[0] <= self.pairs) | (kept.amin(1) < floors)
        sure = (self.counts[0] <= self.capacity) & whole & (self.counts[1] <= self.pairs) & floors.isfinite()
        for own, made in zip(self.answer, (*self._best(asked), sure), strict=True):
            own.copy_(made, non_blocking=True)

    def _scan(self, margins: Tensor, floors: Tensor, kept: Tensor, *, sample: bool) -> None:
        scan, blocks = self.scan, len(self.queries) // self.shape.queries
        num_tiles = self.num_sampled if sample else scan.num_tiles
        programs = max(1, min(num_tiles, self.shape.programs * _processors(scan.device) // blocks)) * blocks
        kernel: Kernel = _scan
        kernel[(programs,)](
            self.queries,
            scan.rough,
            scan.longest,
            scan.farthest,
            scan.is_open,
            margins,
            floors,
            kept,
            self.groups,
            self.counts[0],
            num_tiles,
            self.every if sample else 1,
            CAPACITY=kept.shape[1],
            DIM=scan.dim,
            QUERIES=self.shape.queries,
            TILE=TILE,
            GROUP=GROUP,
            SAMPLE=sample,
            ALL_OPEN=self.all_open,
            STAGES=self.shape.stages,
            BLOCKS=blocks,
            num_warps=self.shape.warps,
        )

    def _rescore(self, margins: Tensor, floors: Tensor, kept: Tensor, groups: Tensor) -> None:
        kernel: Kernel = _rescore
        scan = self.scan
        kernel[tuple(kept.shape)](
            self.queries,
            scan.rough,
            scan.norms,
            scan.distances,
            scan.is_open,
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

    def _best(self, asked: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and rows [B, K] of the best found."""
        there = self.places < self.counts[1][:, None]
        rows = torch.where(there, self.found, 0)
        items = self.scan.vectors[rows.flatten()]
        scores = folded(asked.repeat_interleave(self.pairs, 0), items).view(rows.shape)
        packed = torch.where(there, _packed(scores, rows), torch.iinfo(torch.int64).min)
        return _unpacked(packed.topk(self.k, dim=1).values)

    def _captured(self) -> Callable[[], None]:
        stream = torch.cuda.Stream(self.scan.device)
        stream.wait_stream(torch.cuda.current_stream(self.scan.device))
        with torch.cuda.stream(stream):
            self.launch()
        torch.cuda.current_stream(self.scan.device).wait_stream(stream)
        torch.cuda.synchronize(self.scan.device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self.launch()
        return graph.replay


def _packed(scores: Tensor, rows: Tensor) -> Tensor:
    """One int64 that is larger for a better score and, among equal ones, for a lower row."""
    bits = (scores + 0.0).contiguous().view(torch.int32).long()
    rising = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return (rising << 32) | (0xFFFFFFFF - rows)


def _unpacked(packed: Tensor) -> tuple[Tensor, Tensor]:
    rising = packed >> 32
    bits = torch.where(rising < 0, rising ^ 0x7FFFFFFF, rising)
    return bits.to(torch.int32).view(torch.float32), 0xFFFFFFFF - (packed & 0xFFFFFFFF)


def on(device: torch.device) -> AbstractContextManager[None]:
    """Where kernels are launched."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2
