"""Impressions of a click log as requests of a ranker: no history, and one candidate, the impression itself.

Shapes: R rows, T objectives.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from recsys.features.batches import RequestBatch
from recsys.features.spec import FeatureSpec


def impression_batch(spec: FeatureSpec, impressions: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the batch of item tensors [R, ...], of a spec without features of users and requests.

    The history is one event of padding: an empty one gives the same, but no graph can be exported with it.
    """
    some = next(iter(impressions.values()))

    def zeros(*shape: int, like: str) -> Tensor:
        kind = torch.int64 if like == "int64" else torch.float32
        return torch.zeros(some.shape[0], *shape, dtype=kind, device=some.device)

    history = {one.name: zeros(1, *one.shape[1:], like=one.dtype) for one in RequestBatch.specs(spec.sizes)}
    candidates = {f"candidate_{name.removeprefix('item_')}": one.unsqueeze(1) for name, one in impressions.items()}
    return {**history, **candidates, "candidate_scores": zeros(1, 0, like="float32")}
