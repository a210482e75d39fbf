"""Candidates and probabilities -> slates: the business-rule post-processor, by rules and items as they are now."""

from typing import Any

from recsys.stages import load_live_rules
from serving.process_tuning import freeze_heap
from serving.stages.codec import items_store, last_good, open_bundle, respond, rules_store, shares_folder


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self.stage = load_live_rules(
            open_bundle(args), rules_store(args), items_store(args), shares_folder(args), last_good(args)
        )
        freeze_heap()

    def execute(self, requests: list[Any]) -> list[Any]:
        return respond(self.stage, requests)
