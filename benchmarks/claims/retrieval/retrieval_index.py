"""Top-500 by inner product over 10k, 100k and 1M items of 64 dims: ours beside faiss, torch and numpy, in one run.

Exact systems answer single queries and small batches, approximate ones single queries, all on one thread. Repeats of
all systems are interleaved, so that what else runs on the machine meets all of them alike, and medians are reported.
Knobs of the approximate index are chosen on other queries than those it is measured on. A CUDA device, where there
is one, is measured as well. Writes benchmarks/results/retrieval_index.json.

Shapes: N items, B queries, D dim, K results.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any

import faiss
import numpy as np
import torch
from rich import box
from rich.progress import track
from rich.table import Table
from threadpoolctl import threadpool_limits

from benchmarks.claims.retrieval.retrieval_device import device_rows
from benchmarks.lib.result_file import Figure, console, print_figures, write_result
from benchmarks.lib.retrieval_vectors import Vectors, clusters, isotropic, read_interactions, toys, toys_file
from recsys.errors import exit_on_error
from recsys.index import ExactIndex, FaissIndex, IndexBuilder
from recsys.index.exact import recall_against
from recsys.index.scores import oracle

SIZES = (10_000, 100_000, 1_000_000)
DIM = 64
K = 500
NUM_QUERIES = 512
"""the first half for choosing knobs, the second for measuring"""
BATCHES = (1, 8, 32)
NPROBES = (8, 16, 32, 48, 64, 96, 128, 192, 256)
ENOUGH = 0.995
"""recall at which no more cells are visited"""
NUM_ORACLE = 3
"""queries per catalogue that are compared with the oracle"""
EXACT = ("exact.py", "faiss Flat", "torch matmul + topk", "numpy argpartition")
CLAIMED = ("clusters", "toys")

Row = dict[str, Any]
Search = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def numpy_search(items: np.ndarray, k: int, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores = queries @ items.T
    rows = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    found = np.take_along_axis(scores, rows, axis=1)
    order = np.argsort(-found, axis=1)
    return np.take_along_axis(found, order, axis=1), np.take_along_axis(rows, order, axis=1)


def torch_search(items: torch.Tensor, k: int, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores, rows = torch.topk(torch.from_numpy(queries) @ items.T, k)
    return scores.numpy(), rows.numpy()


def exact_systems(items: np.ndarray, k: int) -> dict[str, Search]:
    """Ours first, then its peers, in the order of EXACT."""
    flat = faiss.IndexFlatIP(items.shape[1])
    flat.add(items)
    searches = (
        partial(ExactIndex(items).search, k=k),
        lambda queries: flat.search(queries, k),
        partial(torch_search, torch.from_numpy(items), k),
        partial(numpy_search, items, k),
    )
    return dict(zip(EXACT, searches, strict=True))


def num_cells(num_items: int) -> int:
    """A power of two near twice the root of the catalogue's size."""
    return max(2 ** round(np.log2(num_items) / 2 + 1), 4)


def our_cells(items: np.ndarray, queries: np.ndarray, exact: np.ndarray, k: int) -> tuple[FaissIndex, int]:
    """The IVF index of ann.py with the fewest cells visited that find ENOUGH on queries kept for this choice."""
    knobs = {"ef_search": 1, "k_factor": 1}
    factory = f"IVF{num_cells(len(items))},Flat"
    index, _ = IndexBuilder(factory=factory, nprobe=1, min_recall=0.0, recall_at=1, **knobs).build(items, queries[:1])
    for nprobe in NPROBES:
        index.set_search_parameters(nprobe=nprobe, **knobs)
        if recall_against(exact, index.search(queries, k)[1]) >= ENOUGH:
            break
    return index, nprobe


def faiss_cells(items: np.ndarray, nprobe: int) -> faiss.Index:
    """The same factory as faiss builds it."""
    index = faiss.index_factory(items.shape[1], f"IVF{num_cells(len(items))},Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(items)
    index.add(items)
    index.nprobe = nprobe
    return index


def timed(systems: Mapping[str, Search], batches: Sequence[np.ndarray]) -> dict[str, list[float]]:
    """Milliseconds of each batch in each system, system after system within a batch."""
    for search in systems.values():
        search(batches[0])
    taken: dict[str, list[float]] = {name: [] for name in systems}
    for batch in batches:
        for name, search in systems.items():
            start = time.perf_counter()
            search(batch)
            taken[name].append((time.perf_counter() - start) * 1e3)
    return taken


def batches_of(queries: np.ndarray, size: int, num: int) -> list[np.ndarray]:
    """`num` batches of `size` queries, beginning anew when queries run out."""
    rows = np.arange(num * size).reshape(num, size) % len(queries)
    return [np.ascontiguousarray(queries[own]) for own in rows]


def repeats(num_items: int, size: int) -> int:
    """So many that a catalogue takes about a minute."""
    return int(np.clip(3e7 / num_items / size, 7, 300))


def measure_exact(data: Vectors, k: int, batch_sizes: Sequence[int]) -> tuple[list[Row], np.ndarray]:
    """Rows of all exact systems, and the true neighbours of all queries."""
    systems = exact_systems(data.items, k)
    found = systems["exact.py"](data.queries)
    true = oracle(data.items, data.queries[:NUM_ORACLE], k)
    same = all(np.array_equal(one[:NUM_ORACLE], other) for one, other in zip(found, true, strict=True))
    rows = []
    for size in batch_sizes:
        taken = timed(systems, batches_of(data.queries, size, repeats(len(data.items), size)))
        rows += [row(data, name, size, own) for name, own in taken.items()]
        rows[-len(taken)]["equals_oracle"] = same
    return rows, found[1]


def measure_cells(data: Vectors, exact: np.ndarray, k: int) -> list[Row]:
    """Rows of the approximate systems, single queries."""
    half = len(data.queries) // 2
    ours, nprobe = our_cells(data.items, data.queries[:half], exact[:half], k)
    theirs = faiss_cells(data.items, nprobe)
    systems: dict[str, Search] = {
        "ann.py": partial(ours.search, k=k),
        "faiss IVF": lambda queries: theirs.search(queries, k),
    }
    asked = data.queries[half:]
    taken = timed(systems, batches_of(asked, 1, max(repeats(len(data.items), 1), len(asked))))
    rows = [row(data, name, 1, own) for name, own in taken.items()]
    for one, search in zip(rows, systems.values(), strict=True):
        recall = recall_against(exact[half:], search(asked)[1])
        one |= {"recall": round(recall, 4), "cells": num_cells(len(data.items)), "nprobe": nprobe}
    return rows


def row(data: Vectors, system: str, batch: int, milliseconds: Sequence[float]) -> Row:
    return {
        "vectors": data.name,
        "origin": data.origin,
        "items": len(data.items),
        "system": system,
        "batch": batch,
        "ms_a_query": round(median(milliseconds) / batch, 4),
        "ms_a_query_best": round(min(milliseconds) / batch, 4),
        "repeats": len(milliseconds),
    }


def figures(rows: Sequence[Row], num_items: int) -> dict[str, Figure]:
    """What the claim is about, of the largest catalogue; the worse of the two kinds of vectors counts."""
    single = [one for one in rows if one.get("items") == num_items and one.get("batch") == 1]
    times = {(one["vectors"], one["system"]): one["ms_a_query"] for one in single}
    ratios = [min(times[name, peer] for peer in EXACT[1:]) / times[name, EXACT[0]] for name in CLAIMED]
    cells = [one for one in single if one["system"] == "ann.py" and one["vectors"] in CLAIMED]
    return {
        "exact_over_fastest_peer_1m": Figure(
            value=round(min(ratios), 3),
            unit="times as fast as the fastest exact peer (its time / ours, single query)",
            goal=1.0,
            better="higher",
        ),
        "ann_recall_1m": Figure(
            value=min(one["recall"] for one in cells), unit=f"recall@{K}", goal=0.99, better="higher"
        ),
        "ann_ms_1m": Figure(
            value=max(one["ms_a_query"] for one in cells), unit="ms a single query", goal=1.0, better="lower"
        ),
    }


def table(rows: Sequence[Row]) -> Table:
    shown = Table(
        title=f"Top-{K} of N x {DIM}, one thread, median ms a query", box=box.SIMPLE_HEAD, title_justify="left"
    )
    for heading in ("vectors", "items", "system", "batch", "ms", "recall", "nprobe"):
        shown.add_column(heading, justify="left" if heading in ("vectors", "system") else "right", no_wrap=True)
    before = None
    for one in rows:
        if "items" not in one:
            continue
        if before not in (None, (one["vectors"], one["items"])):
            shown.add_section()
        before = one["vectors"], one["items"]
        exact = {True: "oracle", False: "DIFFERS"}.get(bool(one["equals_oracle"]), "") if "equals_oracle" in one else ""
        cells = (one["vectors"], f"{one['items']:,}", one["system"], one["batch"], f"{one['ms_a_query']:.3f}")
        shown.add_row(*map(str, cells), str(one.get("recall", exact)), str(one.get("nprobe", "")))
    return shown


def catalogues(sizes: Sequence[int], num_queries: int, dim: int) -> list[Callable[[], Vectors]]:
    """Made one after the other, so that only one is in memory."""
    interactions = read_interactions(toys_file())
    made: list[Callable[[], Vectors]] = []
    for size in sizes:
        made += [
            partial(clusters, size, num_queries, dim),
            partial(toys, interactions, size, num_queries, dim),
            partial(isotropic, size, num_queries, dim),
        ]
    return made


def measure(made: Sequence[Callable[[], Vectors]], k: int, batch_sizes: Sequence[int]) -> list[Row]:
    rows = []
    for make in track(made, "catalogues", console=console):
        data = make()
        console.print(f"{len(data.items):,} items: {data.origin}")
        exact_rows, exact = measure_exact(data, k, batch_sizes)
        rows += exact_rows
        if data.name in CLAIMED:
            rows += measure_cells(data, exact, k)
    return rows


def main() -> None:
    start = time.perf_counter()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    with threadpool_limits(1):
        rows = measure(catalogues(SIZES, NUM_QUERIES, DIM), K, BATCHES)
    claimed = figures(rows, SIZES[-1])
    on_device, device_figures = device_rows()
    claimed |= device_figures
    file = write_result("retrieval_index", [*rows, *on_device], claimed, time.perf_counter() - start)
    console.print(table(rows))
    print_figures(claimed)
    console.print(f"\nresult   {file}")
    console.print("next     python train.py recipe=movielens_100k index=ivf", style="bold")


if __name__ == "__main__":
    with exit_on_error():
        main()
