"""Business rules: kinds, documents, compilation for a catalogue, checks before a change, and the store of versions."""

from recsys.policy.rules.rule_set import RuleSet

__all__ = ["RuleSet"]
