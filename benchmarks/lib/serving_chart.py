"""The picture of benchmarks/claims/serving/serving_cost.py: latency against rate for each system, and memory over the soak."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def draw(phases: Sequence[dict[str, Any]], watched: Sequence[tuple[float, float]], path: Path) -> Path:
    """Phases as serving.py writes them, memory as (seconds, MB)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for system in dict.fromkeys(phase["system"] for phase in phases):
        of = sorted((phase for phase in phases if phase["system"] == system), key=lambda phase: phase["rate"])
        (line,) = left.plot([one["rate"] for one in of], [one["p95_ms"] for one in of], "o-", label=f"{system}, p95")
        left.plot([one["rate"] for one in of], [one["p50_ms"] for one in of], ":", color=line.get_color())
    left.set(xlabel="requests/s", ylabel="ms from when a request was due", yscale="log", title="p95, p50 dotted")
    left.legend()
    right.plot([second / 60 for second, _ in watched], [memory for _, memory in watched])
    right.set(xlabel="minutes", ylabel="MB of all processes", title="soak at half the saturation", ylim=(0, None))
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
