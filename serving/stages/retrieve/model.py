"""Queries -> candidates with their features, from the items as they are now."""

from typing import Any

from recsys.stages import load_live_retrieve
from serving.process_tuning import freeze_heap
from serving.stages.codec import index_choice, items_store, last_good, open_bundle, respond


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        bundle, index = open_bundle(args), index_choice(args)
        self.stage = load_live_retrieve(bundle, items_store(args), last_good(args), index)
        freeze_heap()

    def execute(self, requests: list[Any]) -> list[Any]:
        return respond(self.stage, requests)
