"""Candidates -> one calibrated probability an objective."""

from typing import Any

from recsys.stages import load_rank
from serving.quiet import settle
from serving.stages.codec import open_bundle, respond


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self.stage = load_rank(open_bundle(args))
        settle()

    def execute(self, requests: list[Any]) -> list[Any]:
        return respond(self.stage, requests)
