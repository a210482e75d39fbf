"""The real Triton over an index on a device gives the slates of this process over the index of the training."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from recsys.export.repository import write_repository
from recsys.index import IndexChoice
from recsys.pipeline import recommend
from serving.triton.client import Client
from serving.triton.server import TritonServer

pytestmark = pytest.mark.slow
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def test_slates_of_a_server_on_a_device_are_those_of_the_cpu(trained, tmp_path):
    write_repository(trained.bundle, tmp_path / "serve", "cpu", index=IndexChoice(kind="device", device=DEVICE))
    rows = np.arange(0, trained.dataset.num_events, trained.dataset.num_events // 40)
    queries = [
        replace(query, request_id=f"r{number}") for number, query in enumerate(trained.replay.queries(rows, k=8))
    ]
    expected = recommend(queries, trained.stages)
    with TritonServer(tmp_path / "serve" / "current" / "models") as server, Client(server.grpc_url) as client:
        found = client.recommend(queries)
    assert [slate.items for slate in found] == [slate.items for slate in expected]
    assert [slate.degraded for slate in found] == [slate.degraded for slate in expected]
