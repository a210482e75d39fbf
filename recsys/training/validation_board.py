"""Figures of the validation period, by which a configuration is chosen before TEST is read.

The queries are answered in memory, without an exported graph: candidates come from the retrieval that was fitted before
VALIDATION, the ranker that stopped on VALIDATION orders them, and the policy composes them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from recsys.contracts import DEVIATIONS, PROBABILITIES, CandidateBatch
from recsys.data.splits import VALIDATION
from recsys.evaluation.scoreboard import Scoreboard
from recsys.evaluation.selection import Goal, ValidationFigures
from recsys.features.batches import CandidateFeatures
from recsys.features.encode import encode_queries
from recsys.items.rule_items import rule_columns
from recsys.pipeline import Stage
from recsys.policy.compose import Policy
from recsys.policy.rules import RuleSet
from recsys.ranking.model import logits_and_request
from recsys.ranking.uncertainty import certainty
from recsys.replay.evaluation_queries import RETRIEVED, EvaluationQueries
from recsys.stages import Rank, Retrieve, Rules, ranker_inputs, request_types
from recsys.stages.release import DRAFT
from recsys.tensors import Arrays
from recsys.training.cascade import CascadeTrainer, Encoding, SelectedCascade, TrainedRetrieval
from recsys.training.prepare import Prepared
from recsys.training.ranking import TrainedRanker

LastPolicies = Mapping[str, tuple[Policy, RuleSet]]
"""system -> the policy and the rules that order the ranker's candidates; empty without a ranker"""


class ValidationBoard:
    """Collector of the validation figures of cascades that differ by their seed."""

    def __init__(self, queries: EvaluationQueries, policies: LastPolicies, goals: tuple[Goal, ...]) -> None:
        self.queries, self.policies, self.goals = queries, policies, goals
        self.board = Scoreboard(queries.replay.dataset)
        self.board.open_split(queries)

    def record(self, selected: SelectedCascade, run: CascadeTrainer) -> None:
        """Answer the queries with every stage of a cascade and record the rankings."""
        chosen, ranking = selected.by_period[VALIDATION], selected.ranking
        towers = self.queries.rankings([chosen.retrieve.only("two_tower")], {})
        self.board.record("towers", towers[RETRIEVED], seed=run.seed)
        stages: list[Stage] = [chosen.retrieve]
        last: dict[str, Rules] = {}
        if ranking is not None:
            encoding, num_sources = run.encoding, len(chosen.retrieve.sources.names)
            uncertain = any(policy.exploration.needs_uncertainty for policy, _ in self.policies.values())
            stages = [
                ReencodedRetrieve(retrieve=chosen.retrieve, encoding=encoding),
                eager_rank(ranking, encoding, num_sources, uncertain=uncertain),
            ]
            last = {
                name: eager_rules(run.prepared, chosen, encoding, policy, rules)
                for name, (policy, rules) in self.policies.items()
            }
        for name, ranked in self.queries.rankings(stages, last).items():
            self.board.record(name, ranked, seed=run.seed)

    def figures(self, *, seconds: float, peak_memory_mib: float) -> ValidationFigures:
        """Return the figures of all that was recorded."""
        report = self.board.report(seconds=seconds, peak_memory_mib=peak_memory_mib)
        users = self.queries.replay.names[np.unique(self.queries.users)]
        return ValidationFigures(
            report=replace(report, protocol=f"VALIDATION of {report.protocol}"),
            goals=self.goals,
            users=[str(user) for user in users],
        )


@dataclass(frozen=True, kw_only=True)
class ReencodedRetrieve:
    """Candidates of one fit of retrieval, encoded for a ranker of another one."""

    retrieve: Retrieve
    encoding: Encoding
    name: str = "retrieve"

    def __call__(self, tensors: Mapping[str, Any]) -> Arrays:
        found = self.retrieve(tensors)
        request, _ = encode_queries(self.encoding.spec, self.encoding.items, tensors["QUERY"])
        candidates = replace(CandidateFeatures.of(found), items=self.encoding.items.at(CandidateBatch.of(found).rows))
        return {**found, **request.tensors(), **candidates.tensors()}


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
    )
    return Rules(policy=compiled, num_sources=len(sources), num_objectives=spec.num_objectives)
