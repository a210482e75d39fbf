"""Candidates -> one calibrated probability an objective."""

from typing import Any

from recsys.stages import load_rank
from serving.process_tuning import freeze_heap
from serving.stages.codec import open_bundle, respond


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self.stage = load_rank(open_bundle(args))
        freeze_heap()

    def execute(self, requests: list[Any]) -> list[Any]:
        return respond(self.stage, requests)
