"""The exact index on a CUDA device: 10M items of 128 dims, top 100. Without a device it says that it measured nothing.

A part of retrieval_index.py; run by itself it writes benchmarks/results/retrieval_device.json.

Shapes: N items, B queries, D dim, K results.
"""

import time
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.lib.result_file import Figure, console, print_figures, write_result
from recsys.errors import exit_on_error
from recsys.index.gpu.device_index import DeviceIndex
from recsys.index.scores import oracle

NUM_ITEMS = 10_000_000
DIM = 128
K = 100
SMALL_BATCHES = (1, 8, 64)
LARGE_BATCH = 1024
NUM_ORACLE = 2
REPEATS = 10
NO_DEVICE = "no CUDA device"

Row = dict[str, Any]


def device_rows() -> tuple[list[Row], dict[str, Figure]]:
    """Rows and figures of the GPU part; without a device the rows say so and the figures hold None."""
    if not torch.cuda.is_available():
        return [{"system": "exact.py on CUDA", "skipped": NO_DEVICE}], device_figures([])
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((NUM_ITEMS, DIM), dtype=np.float32)
    rows = measure(vectors, generator.standard_normal((LARGE_BATCH, DIM), dtype=np.float32), "cuda")
    return rows, device_figures(rows)


def measure(vectors: np.ndarray, queries: np.ndarray, device: str) -> list[Row]:
    """One row a batch size: seconds, the share of copy bandwidth that reading every bfloat16 vector once amounts to."""
    index = DeviceIndex(vectors, np.ones(len(vectors), dtype=bool), device)
    bandwidth = copy_bandwidth(device, vectors.size * 2)
    true = oracle(vectors, queries[:NUM_ORACLE], K)
    rows = []
    for batch in (*SMALL_BATCHES, len(queries)):
        found = index.search(queries[:batch], K)
        same = all(np.array_equal(one[:NUM_ORACLE], other[:batch]) for one, other in zip(found, true, strict=True))
        seconds = median(timed(lambda own=queries[:batch]: index.search(own, K), device))
        rows.append(
            {
                "system": f"exact.py on {device}",
                "num_items": len(vectors),
                "batch": batch,
                "ms": round(seconds * 1e3, 3),
                "queries_a_second": round(batch / seconds),
                "share_of_copy_bandwidth": round(vectors.size * 2 / seconds / bandwidth, 3),
                "equals_oracle": same,
            }
        )
    return rows


def copy_bandwidth(device: str, num_bytes: int) -> float:
    """Bytes a second that a copy reads and writes."""
    source = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * num_bytes / median(timed(lambda: target.copy_(source), device))


def timed(call: Any, device: str) -> list[float]:
    """Seconds of each repeat, the first two left out."""
    taken = []
    for _ in range(REPEATS + 2):
        _wait(device)
        start = time.perf_counter()
        call()
        _wait(device)
        taken.append(time.perf_counter() - start)
    return taken[2:]


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def device_figures(rows: list[Row]) -> dict[str, Figure]:
    same = [one["equals_oracle"] for one in rows]
    shares = [one["share_of_copy_bandwidth"] for one in rows if one["batch"] in SMALL_BATCHES]
    rates = [one["queries_a_second"] for one in rows if one["batch"] == LARGE_BATCH]
    return {
        "device_answers_that_differ": Figure(
            value=sum(not one for one in same) if rows else None, unit="batch sizes", goal=0, better="lower"
        ),
        "device_share_of_copy_bandwidth": Figure(
            value=min(shares, default=None), unit="share, the worst of batch 1 to 64", goal=0.8, better="higher"
        ),
        "device_queries_a_second": Figure(
            value=max(rates, default=None),
            unit=f"queries a second at batch {LARGE_BATCH}",
            goal=130_000,
            better="higher",
        ),
    }


def main() -> None:
    start = time.perf_counter()
    rows, figures = device_rows()
    for row in rows:
        console.print(row)
    print_figures(figures)
    console.print(f"\nresult   {write_result('retrieval_device', rows, figures, time.perf_counter() - start)}")
    console.print("next     python -m benchmarks.claims.retrieval.retrieval_index", style="bold")


if __name__ == "__main__":
    with exit_on_error():
        main()
