"""Compilation of the kernels that a bundle needs, into the cache of this installation, before the first request needs them.

Gateway and Triton's last stage need the same kernels, so on an empty cache both would compile them at the same time. Here each
is compiled once, in two processes, while the other services start. The compiled code is not kept with the export: numba's
cache is pickled, and an export holds nothing that runs when it is read.
"""

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

import orjson

from recsys.bundle import Bundle
from recsys.contracts import Query
from recsys.jit import compiled_mark
from recsys.pipeline import Stage, through
from recsys.stages import load_rank, load_retrieve, load_rules, recently_popular
from serving.gateway.fallback_slates import FallbackSlates
from serving.layout import DeploymentLayout
from serving.processes import ROOT, end, spawn, until

COMPILE_S = 600.0
QUERY = Query(user="", now=0.0, k=1, request_id="compile")
RANKER = "ranker.onnx"


class KernelPart(StrEnum):
    """Kernels that one process compiles; the two take about as long."""

    retrieval = "retrieval"
    policy = "policy"


def compile_kernels(layout: DeploymentLayout, part: KernelPart) -> None:
    """Compile what is not in the cache yet, by running the stages once."""
    bundle = Bundle.open(layout.bundle)
    if part is KernelPart.retrieval:
        stages: list[Stage] = [load_retrieve(bundle), *([load_rank(bundle)] if bundle.has(RANKER) else [])]
        through({"QUERY": [QUERY]}, stages)
    else:
        rules = load_rules(bundle)
        fallbacks = FallbackSlates(load_retrieve(bundle), rules, recently_popular(bundle))
        fallbacks.again(QUERY, orjson.dumps(fallbacks.popular(QUERY)))
        if rules.policy.cold is not None:
            rules.policy.cold.compile()
    with contextlib.suppress(
        OSError
    ):  # a folder that cannot be written: the kernels are found elsewhere, or compiled again
        _mark(bundle, part).touch()


@contextmanager
def compiling(layout: DeploymentLayout, report: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Compile in processes of their own; yield a function that waits until they have ended.

    A process that fails is no error: the gateway compiles by itself what is missing.
    """
    bundle = Bundle.open(layout.bundle)
    due = [part for part in KernelPart if not _mark(bundle, part).exists()]
    if due:
        report("kernels are compiled")
    processes = [spawn(_command(layout, part), log=layout.log, cwd=ROOT) for part in due]
    try:
        yield lambda: _join(processes)
    finally:
        for process in processes:
            end(process)


def _join(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    until(lambda: all(process.poll() is not None for process in processes), COMPILE_S)


def _command(layout: DeploymentLayout, part: KernelPart) -> list[str]:
    return [sys.executable, "-m", "serving", "compile", str(layout.release), f"--part={part}"]


def _mark(bundle: Bundle, part: KernelPart) -> Path:
    return compiled_mark(f"{part}-{bundle.fingerprint[:16]}")
