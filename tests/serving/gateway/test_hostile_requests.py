"""Attacks on the real gateway: each is refused, somebody with another key is answered meanwhile, and the process stays."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from gateway_process import GatewayProcess, started_gateway

from benchmarks.lib.http_attacks import ATTACKS, Target, answer, flood_without_a_key, post


@pytest.fixture(scope="module")
def gateway(trained: Any, server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with started_gateway(trained, server, tmp_path_factory.mktemp("hostile")) as running:
        yield running


@pytest.fixture
def target(gateway: GatewayProcess) -> Target:
    return gateway.target()


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_an_attack_stops_nobody_else(gateway: GatewayProcess, target: Target, attack: Callable[[Target], None]) -> None:
    with gateway.serving_others(gateway.ask, gateway.ask, gateway.feed):
        attack(target)


def test_a_flood_without_a_key_does_not_fill_the_log(gateway: GatewayProcess, target: Target) -> None:
    """Answers within the budget have a line each, those beyond it are only counted."""
    before = gateway.log.read_text().count("\n")
    refused = 'recsys_requests_total{route="POST /v1/recommend",status="429"}'
    counted = gateway.metric(refused)
    flood_without_a_key(target)
    assert gateway.metric(refused) > counted
    lines = [json.loads(line) for line in gateway.log.read_text().splitlines()[before:]]
    assert {line["status"] for line in lines if "status" in line} == {401}


def test_a_peer_with_a_key_may_connect_while_its_neighbours_flood(gateway: GatewayProcess, target: Target) -> None:
    """Many callers may share an address: the connections of one from which a key came lately are not refused."""
    recommend = post("/v1/recommend", b'{"user": "u"}', "shop")
    assert answer(target, recommend)[0] == 200
    flood_without_a_key(target)
    assert [answer(target, recommend)[0] for _ in range(50)] == [200] * 50
