"""The two passes of the exact index as Triton kernels: every bfloat16 vector is read once, no score is written.

A sample of the tiles gives a floor that the k best are not below. The scan then keeps, of all groups of rows, those whose
best upper bound reaches it, and the rows of the best groups are scored again. What is left is so little that float32 scores
of it cost nothing. Sums are float32, so a rough score is off by at most LOSS ||q|| ||x||: both operands are rounded by 2^-9.

The capacities below fit data whose rows are in no particular order; where one overflows, `sure` says so, and the caller
has to ask the slower way. On a CUDA device one call is one graph.

Shapes: B queries (padded), N rows (padded to whole tiles), D dim (padded), K results, P kept groups, F rows found.
"""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from recsys.index import device
from recsys.index.device import folded, norms

LOSS = 2.0**-8 * (1 + 2.0**-4)
TINY = tl.constexpr(device.TINY)
TILE, GROUP = 128, 32
"""rows that are scored, and rows that are kept or not, together"""
EVERY = 16
"""one in so many tiles is sampled"""
BATCHES = (64, 128, 256, 512, 1024)
"""to which the number of queries is padded; more of them are split"""

Kernel = Any
Answer = tuple[np.ndarray, np.ndarray, np.ndarray]


@triton.jit
def _scan(
    queries,
    rough,
    longest,
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
    margin = tl.load(margins + places)
    floor = tl.load(floors + places)
    parts: tl.constexpr = TILE // GROUP
    counters = counts + places[:, None] + tl.zeros((1, parts), tl.int32)
    start = places[:, None].to(tl.int64) * CAPACITY
    for number in tl.range(tl.program_id(0) // BLOCKS, num_tiles, tl.num_programs(0) // BLOCKS, num_stages=STAGES):
        tile = number * every
        rows = tile.to(tl.int64) * TILE + tl.arange(0, TILE)
        items = tl.load(rough + rows[:, None] * DIM + dims[None, :])
        spread = margin * tl.load(longest + tile) + TINY
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
        upper = tl.sum(items * asked[None, :], 1) + tl.load(margins + query) * tl.load(norms + rows) + TINY
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


SMALL = Shape(queries=64, warps=4, stages=4, programs=1)
LARGE = Shape(queries=128, warps=8, stages=2, programs=2)


class Scan:
    """Vectors [N, D] on a device, prepared for the kernels."""

    most = BATCHES[-1]
    """queries a call"""

    def __init__(self, vectors: Tensor, norms: Tensor, alive: Tensor) -> None:
        """norms [N] float32, not below the true ones; alive [N] bool: the others are never found"""
        num, dim = vectors.shape
        self.device = vectors.device
        self.vectors = vectors
        self.num_tiles = -(-num // TILE)
        self.dim = max(16, triton.next_power_of_2(dim))
        self.type = (
            torch.bfloat16 if self.device.type == "cuda" else torch.float32
        )  # Triton's interpreter has no bfloat16
        self.rough = torch.zeros(self.num_tiles * TILE, self.dim, dtype=self.type, device=self.device)
        self.rough[:num, :dim] = vectors.to(torch.bfloat16)
        self.norms = torch.zeros(len(self.rough), device=self.device)
        self.norms[:num] = norms
        self.longest = self.norms.view(-1, TILE).amax(1)
        self.alive = torch.zeros(len(self.rough), dtype=torch.int8, device=self.device)
        self.alive[:num] = alive
        self.all_alive = bool(self.alive.all())
        self.is_open = self.alive.clone()
        self._turn = Lock()
        self._plans: dict[tuple[int, int, bool], Plan] = {}

    def fits(self, k: int) -> bool:
        """Whether there are tiles enough to take a sample of."""
        return self.num_tiles >= 8 * k

    def search(self, queries: np.ndarray, k: int, mask: Tensor | None) -> Answer:
        """At most BATCHES[-1] queries [B, D], checked, of a catalogue of at least 8 k tiles.

        mask: bool [N], the only rows that may be found. Returns scores [B, K], rows [B, K] and sure [B]; what is not sure
        may be wrong.
        """
        size = next(size for size in BATCHES if size >= len(queries))
        key = (size, k, mask is None and self.all_alive)
        with self._turn:
            plan = self._plans.get(key) or self._plans.setdefault(key, Plan(self, *key))
            if mask is None:
                return plan.search(queries)
            self.is_open[: len(mask)].mul_(mask)
            try:
                return plan.search(queries)
            finally:
                self.is_open.copy_(self.alive)


class Plan:
    """All buffers of a search of so many queries, and its graph."""

    def __init__(self, scan: Scan, size: int, k: int, all_open: bool) -> None:
        self.scan = scan
        self.k = k
        self.all_open = all_open
        self.shape = SMALL if size <= SMALL.queries else LARGE
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
        self.replay()
        if self.scan.device.type == "cuda":
            torch.cuda.current_stream().synchronize()
        scores, rows, sure = (one[:num].numpy().copy() for one in self.answer)
        return scores, rows, sure

    def launch(self) -> None:
        """From `sent` to `answer`."""
        self.received.copy_(self.sent, non_blocking=True)
        asked, is_query = self.received[:, :-1], self.received[:, -1]
        margins = norms(asked) * LOSS
        self.queries[:, : asked.shape[1]] = asked.to(torch.bfloat16)
        self.counts.zero_()
        self._scan(margins, margins, self.sample, sample=True)
        floors = self.sample.topk(self.k, dim=1, sorted=False).values.amin(1)
        floors.masked_fill_(is_query == 0, torch.inf)
        self.kept.fill_(-torch.inf)
        self._scan(margins, floors, self.kept, sample=False)
        kept, places = self.kept.topk(self.pairs, dim=1, sorted=False)
        groups = self.groups.gather(1, places)
        spread = margins[:, None] * self.scan.longest[groups // (TILE // GROUP)] + TINY.value
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
        with torch.cuda.graph(graph):
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


def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2
