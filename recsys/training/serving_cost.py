"""Cost of serving a cascade, measured on its exported graphs: CPU time of a request, and memory.

A request passes the stages that serve it, one thread, in this process: the user tower and the ranker as ONNX graphs, the search
of index and candidate sources, the policy. CPU time, unlike elapsed time, hardly depends on other processes of the machine.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from recsys.contracts import Query
from recsys.data.splits import VALIDATION
from recsys.features.batches import RequestBatch
from recsys.graphs.export import export_ranker, export_user_tower
from recsys.index import FaissIndex
from recsys.pipeline import Stage
from recsys.policy.compose import Policy
from recsys.policy.rules import RuleSet
from recsys.replay.evaluation_queries import EvaluationQueries
from recsys.stages import OnnxModel, rank_by_graph, ranker_inputs
from recsys.stages.release import DRAFT
from recsys.training.cascade import CascadeTrainer, SelectedCascade, TrainedRetrieval
from recsys.training.eager_stages import Reencode, eager_rules

MIB = 2**20
REQUESTS = 40
"""validation requests, at most, each timed REPEATS times"""
REPEATS = 3
WARM_UP = 5
"""requests before the first timed one, which compile the policy and fill caches"""
SLATE = 10
"""items of a slate"""


def serving_cost(
    selected: SelectedCascade, run: CascadeTrainer, served: tuple[Policy, RuleSet], queries: EvaluationQueries
) -> dict[str, float]:
    """Return `cpu_ms`, the median over requests, the same of each stage (`retrieve_cpu_ms`, ...), and `memory_mib`."""
    requests = [replace(query, k=SLATE) for query in queries.sample(REQUESTS, seed=0).queries]
    with TemporaryDirectory() as folder, threadpool_limits(limits=1):
        stages = exported_stages(selected, run, served, Path(folder))
        for query in (requests * WARM_UP)[:WARM_UP]:
            stage_times(query, stages)
        times = [stage_times(query, stages) for query in requests * REPEATS]
        memory = resident_bytes(selected.by_period[VALIDATION], Path(folder)) / MIB
    by_stage = {f"{name}_cpu_ms": float(np.median([one[name] for one in times])) for name in times[0]}
    return {"cpu_ms": float(np.median([sum(one.values()) for one in times])), "memory_mib": memory, **by_stage}


def exported_stages(
    selected: SelectedCascade, run: CascadeTrainer, served: tuple[Policy, RuleSet], folder: Path
) -> Sequence[Stage]:
    """Return the stages that serve a cascade, with its graphs in a folder."""
    chosen, ranking, (policy, rules) = selected.by_period[VALIDATION], selected.ranking, served
    spec, num_sources = chosen.retrieve.spec, len(chosen.retrieve.sources.names)
    export_user_tower(chosen.towers, spec, folder / "user_tower.onnx")
    tower = OnnxModel(folder / "user_tower.onnx", RequestBatch.specs(spec.sizes))
    retrieve = replace(chosen.retrieve, user_tower=tower, ranked=ranking is not None)
    last = eager_rules(run.prepared, chosen, run.encoding, policy, rules)
    if ranking is None:
        return retrieve, last
    posterior = ranking.posterior if policy.exploration.needs_uncertainty else None
    inputs, graph = ranker_inputs(run.encoding.spec, num_sources), folder / "ranker.onnx"
    export_ranker(ranking.ranker, ranking.calibrator, posterior, inputs, graph)
    return retrieve, Reencode(encoding=run.encoding), rank_by_graph(graph, run.encoding.spec, num_sources, DRAFT), last


def stage_times(query: Query, stages: Sequence[Stage]) -> dict[str, float]:
    """Return the CPU milliseconds of each stage for one request; Reencode is no part of serving."""
    tensors: dict[str, Any] = {"QUERY": [query]}
    times = {}
    for stage in stages:
        started = time.process_time()
        found = stage(tensors)
        times[stage.name] = 1_000 * (time.process_time() - started)
        tensors |= found
    times.pop(Reencode.name, None)
    return times


def resident_bytes(retrieval: TrainedRetrieval, graphs: Path) -> int:
    """Bytes of graphs, index, item table, item vectors and candidate sources, as a bundle holds them."""
    retrieve = retrieval.retrieve
    assert isinstance(retrieve.sources.index, FaissIndex)
    retrieve.sources.index.write(graphs / "index.faiss")
    _, sources = retrieve.sources.to_documents()
    arrays: Sequence[Mapping[str, np.ndarray]] = (retrieve.items.encoded, sources, {"": retrieval.item_vectors})
    files = sum(file.stat().st_size for file in graphs.iterdir())
    return files + sum(array.nbytes for part in arrays for array in part.values())
