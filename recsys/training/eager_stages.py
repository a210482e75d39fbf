"""Stages of a trained cascade in memory, without an exported graph."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from recsys.contracts import DEVIATIONS, PROBABILITIES, CandidateBatch
from recsys.features.batches import CandidateFeatures
from recsys.features.encode import encode_queries
from recsys.items.rule_items import rule_columns
from recsys.policy.cold_share import ColdShare
from recsys.policy.compose import Policy
from recsys.policy.rules import RuleSet
from recsys.ranking.model import logits_and_request
from recsys.ranking.uncertainty import certainty
from recsys.stages import Rank, Rules, ranker_inputs, request_types
from recsys.stages.release import DRAFT
from recsys.tensors import Arrays
from recsys.training.cascade import Encoding, TrainedRetrieval
from recsys.training.prepare import Prepared
from recsys.training.ranking import TrainedRanker


@dataclass(frozen=True, kw_only=True)
class Reencode:
    """Candidates of one fit of retrieval, encoded for a ranker of another one."""

    encoding: Encoding
    name: str = "reencode"

    def __call__(self, tensors: Mapping[str, Any]) -> Arrays:
        request, _ = encode_queries(self.encoding.spec, self.encoding.items, tensors["QUERY"])
        rows = CandidateBatch.of(tensors).rows
        candidates = replace(CandidateFeatures.of(tensors), items=self.encoding.items.at(rows))
        return {**request.tensors(), **candidates.tensors()}


def eager_rank(ranking: TrainedRanker, encoding: Encoding, num_sources: int, *, uncertain: bool) -> Rank:
    """Wrap a trained ranker as the rank stage; uncertain: with the deviations that some explorations read."""
    features = ranker_inputs(encoding.spec, num_sources)

    @torch.no_grad()
    def model(arrays: Arrays) -> Arrays:
        batch = {name: torch.from_numpy(array) for name, array in arrays.items()}
        ranker, calibrator = ranking.ranker, ranking.calibrator
        if not uncertain:
            return {PROBABILITIES: calibrator(*logits_and_request(ranker, calibrator.parents, batch)).numpy()}
        probabilities, deviations = certainty(ranker, calibrator, ranking.posterior, batch)
        return {PROBABILITIES: probabilities.numpy(), DEVIATIONS: deviations.numpy()}

    return Rank(features=features, num_objectives=encoding.spec.num_objectives, model=model, uncertain=uncertain)


def eager_rules(
    prepared: Prepared, retrieval: TrainedRetrieval, encoding: Encoding, policy: Policy, rules: RuleSet
) -> Rules:
    """Compile a policy and its rules for the items as they were known before the period of a retrieval."""
    types, spec = prepared.rule_types(), encoding.spec
    sources, events = retrieval.retrieve.sources.names, prepared.recent_events(retrieval.known)
    kept = retrieval.retrieve.sources.cold_positions
    compiled = policy.compile(
        rules=rules,
        catalogue=rule_columns(prepared.dataset.items, types),
        types=types,
        request_types=request_types(spec),
        vectors=retrieval.item_vectors,
        objectives=tuple(spec.objectives),
        sources=sources,
        bundle_fingerprint=DRAFT,
        popularity=events / max(events.sum(), 1) if policy.popularity.reads_events else None,
        seen=retrieval.retrieve.seen,
        cold=None if kept is None else ColdShare(source=kept.source, positions=kept.positions),
    )
    return Rules(policy=compiled, num_sources=len(sources), num_objectives=spec.num_objectives)
