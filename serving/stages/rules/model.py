"""Candidates and probabilities -> slates: the business-rule post-processor."""

from typing import Any

from recsys.stages import load_rules
from serving.stages.codec import open_bundle, respond


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self.stage = load_rules(open_bundle(args))

    def execute(self, requests: list[Any]) -> list[Any]:
        return respond(self.stage, requests)
