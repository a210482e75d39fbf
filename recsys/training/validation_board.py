"""Figures of the validation period, by which a configuration is chosen before TEST is read.

The queries are answered in memory, without an exported graph: candidates come from the retrieval that was fitted before
VALIDATION, the ranker that stopped on VALIDATION orders them, and the policy composes them.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from recsys.data.splits import VALIDATION
from recsys.evaluation.scoreboard import Scoreboard
from recsys.evaluation.selection import SERVING, Goal, ValidationFigures
from recsys.pipeline import Stage
from recsys.policy.compose import Policy
from recsys.policy.rules import RuleSet
from recsys.replay.evaluation_queries import RETRIEVED, EvaluationQueries
from recsys.stages import Rules
from recsys.training.cascade import CascadeTrainer, SelectedCascade
from recsys.training.eager_stages import Reencode, eager_rank, eager_rules
from recsys.training.serving_cost import serving_cost

LastPolicies = Mapping[str, tuple[Policy, RuleSet]]
"""system -> the policy and the rules that order the ranker's candidates; empty without a ranker"""


class ValidationBoard:
    """Collector of the validation figures of cascades that differ by their seed."""

    def __init__(
        self,
        queries: EvaluationQueries,
        policies: LastPolicies,
        goals: tuple[Goal, ...],
        budget: Mapping[str, float],
        served: tuple[Policy, RuleSet],
    ) -> None:
        """budget: limits of the cost of serving. served: what composes the slates whose cost is measured"""
        self.queries, self.policies, self.goals = queries, policies, goals
        self.budget, self.served = budget, served
        self.costs: list[Mapping[str, float]] = []
        self.board = Scoreboard(queries.replay.dataset)
        self.board.open_split(queries)

    def record(self, selected: SelectedCascade, run: CascadeTrainer) -> None:
        """Answer the queries with every stage of a cascade and record the rankings."""
        chosen, ranking, progress = selected.by_period[VALIDATION], selected.ranking, run.config.trainer.display
        towers = self.queries.rankings([chosen.retrieve.only("two_tower")], {}, progress)
        self.board.record("towers", towers[RETRIEVED], seed=run.seed)
        stages: list[Stage] = [chosen.retrieve]
        last: dict[str, Rules] = {}
        if ranking is not None:
            encoding, num_sources = run.encoding, len(chosen.retrieve.sources.names)
            uncertain = any(policy.exploration.needs_uncertainty for policy, _ in self.policies.values())
            stages = [
                chosen.retrieve,
                Reencode(encoding=encoding),
                eager_rank(ranking, encoding, num_sources, uncertain=uncertain),
            ]
            last = {
                name: eager_rules(run.prepared, chosen, encoding, policy, rules)
                for name, (policy, rules) in self.policies.items()
            }
        for name, ranked in self.queries.rankings(stages, last, progress).items():
            self.board.record(name, ranked, seed=run.seed)
        if self.budget or any(system == SERVING for system, _ in self.goals):
            self.costs.append(serving_cost(selected, run, self.served, self.queries))

    def figures(self, *, seconds: float, peak_memory_mib: float) -> ValidationFigures:
        """Return the figures of all that was recorded."""
        report = self.board.report(seconds=seconds, peak_memory_mib=peak_memory_mib)
        users = self.queries.replay.names[np.unique(self.queries.users)]
        return ValidationFigures(
            report=replace(report, protocol=f"VALIDATION of {report.protocol}"),
            goals=self.goals,
            users=[str(user) for user in users],
            cost={name: float(np.mean([cost[name] for cost in self.costs])) for name in (self.costs or [{}])[0]},
            budget=self.budget,
        )
