"""Candidates and probabilities -> slates: the business-rule post-processor, by the rules that were published last."""

from typing import Any

from recsys.stages import load_live_rules
from serving.stages.codec import open_bundle, respond, rules_store


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self.stage = load_live_rules(open_bundle(args), rules_store(args))

    def execute(self, requests: list[Any]) -> list[Any]:
        return respond(self.stage, requests)
