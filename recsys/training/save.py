"""Writer of a trained cascade's files into a bundle."""

import platform
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from safetensors.torch import save_file

from recsys.bundle import Bundle
from recsys.data.splits import TEST
from recsys.evaluation.pareto import OUTCOMES
from recsys.graphs.export import export_item_tower, export_ranker, export_user_tower
from recsys.items.content import ITEM_TOWER
from recsys.items.text_encoders import write_text_encoder
from recsys.nn.sparse_embedding import ADAGRAD_STATE
from recsys.policy.compose import Policy
from recsys.policy.rules import RuleSet
from recsys.progress import Progress, silent, tracked
from recsys.stages import POPULARITY, RANKER, ranker_inputs
from recsys.training.cascade import TrainedCascade
from recsys.training.prepare import Prepared
from recsys.training.ranking_examples import RetrievalVersion
from recsys.user_seed import USER_SEED, user_seed

STORED_NAMES = {"intercept.mean": "level.centre", "intercept.std": "level.spread", "intercept.": "level."}
"""of the calibrator -> in weights.safetensors"""
PACKAGES = ("torch", "pytorch-lightning", "faiss-cpu", "onnxruntime", "numpy", "polars")


def save_cascade(
    bundle: Bundle,
    cascade: TrainedCascade,
    prepared: Prepared,
    *,
    policy: Policy,
    rules: RuleSet,
    config: dict[str, Any],
    seed: int,
    progress: Progress = silent,
) -> None:
    """Write everything but the metrics into a draft bundle; exported graphs are checked against their modules."""
    spec, retrieval = cascade.spec, cascade.retrieval
    sources = retrieval.retrieve.sources
    document, vocabularies = spec.to_documents()
    bundle.write_document("spec.json", document)
    bundle.write_document("vocabularies.json", vocabularies)
    prepared.dataset.items.write_ipc(bundle.path / "items.arrow")
    bundle.write_document("catalogue.json", prepared.rule_types())
    bundle.write_arrays("item_table.safetensors", retrieval.retrieve.items.encoded)
    bundle.write_arrays("item_vectors.safetensors", {"vectors": retrieval.item_vectors})
    sources.index.write(bundle.path / "index.faiss")  # type: ignore[union-attr]
    candidates, arrays = sources.to_documents()
    bundle.write_document("candidates.json", candidates)
    bundle.write_arrays("candidates.safetensors", arrays)
    bundle.write_arrays(POPULARITY, {"events": prepared.recent_events(retrieval.known)})
    user_seed(prepared.dataset, spec).write_ipc(bundle.path / USER_SEED)
    if prepared.text is not None:
        write_text_encoder(bundle, prepared.text)
    graphs = _graphs(bundle, cascade, policy)
    for export in tracked(graphs, len(graphs), progress, "graphs"):
        export()
    if ranking := cascade.ranking:
        bundle.write_arrays(OUTCOMES, ranking.outcomes.to_arrays())
    save_file(_weights(cascade), bundle.path / "weights.safetensors")
    bundle.write_document("policy.yaml", policy.to_document())
    bundle.write_document("rules.yaml", rules.to_document())
    bundle.write_document("config.yaml", config)
    bundle.write_document("lineage.json", _lineage(prepared, cascade, seed))


def _graphs(bundle: Bundle, cascade: TrainedCascade, policy: Policy) -> list[Callable[[], None]]:
    """Return the exports of the graphs."""
    retrieval, spec, ranking = cascade.retrieval, cascade.spec, cascade.ranking
    graphs: list[Callable[[], None]] = [
        partial(export_user_tower, retrieval.towers, spec, bundle.path / "user_tower.onnx"),
        partial(export_item_tower, retrieval.towers, spec, bundle.path / ITEM_TOWER),
    ]
    if ranking:
        inputs = ranker_inputs(spec, len(retrieval.retrieve.sources.names))
        posterior = ranking.posterior if policy.exploration.needs_uncertainty else None
        graphs.append(
            partial(export_ranker, ranking.ranker, ranking.calibrator, posterior, inputs, bundle.path / RANKER)
        )
    return graphs


def _weights(cascade: TrainedCascade) -> dict[str, torch.Tensor]:
    parts: dict[str, torch.nn.Module] = {"towers": cascade.retrieval.towers}
    if ranking := cascade.ranking:
        parts |= {"ranker": ranking.ranker, "calibrator": ranking.calibrator, "posterior": ranking.posterior}
    return {
        f"{part}.{_stored(name) if part == 'calibrator' else name}": tensor.contiguous()
        for part, module in parts.items()
        for name, tensor in module.state_dict().items()
        if name.rpartition(".")[2] != ADAGRAD_STATE
    }


def _stored(name: str) -> str:
    for own, stored in STORED_NAMES.items():
        name = name.replace(own, stored)
    return name


def _versions(cascade: TrainedCascade) -> dict[str, Any]:
    """Versions of the served retrieval and of those whose features trained and calibrated the ranker."""
    served, ranking = cascade.retrieval.version, cascade.ranking
    learnt = {} if ranking is None else {"learnt_from": ranking.learnt_from, "calibrated_on": ranking.calibrated_on}
    return {
        "columns": served.columns,
        "served": _version(served),
        **{use: [_version(one) for one in versions] for use, versions in learnt.items()},
    }


def _version(one: RetrievalVersion) -> dict[str, str]:
    return {"before": one.before, "fingerprint": one.fingerprint}


def _lineage(prepared: Prepared, cascade: TrainedCascade, seed: int) -> dict[str, Any]:
    dataset, split = prepared.dataset, prepared.split
    return {
        "dataset": {"name": dataset.name, "sha256": dataset.hash(), "events": dataset.num_events},
        "fitted_on_events": int(cascade.retrieval.known.sum()),
        "split": {"name": split.name, "cuts": split.cuts and list(split.cuts)},
        "targets_sha256": split.targets_sha256(dataset, showable=prepared.replay.showable(split, TEST)),
        "index_recall": cascade.retrieval.index_recall,
        "retrieval": _versions(cascade),
        "seed": seed,
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }
