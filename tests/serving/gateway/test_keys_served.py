"""`python -m serving gateway` with keys and tokens, before a real Triton; its broker is away all the time."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import rsa

from serving.gateway.key_file import create_key, revoke_key
from serving.gateway.reloaded_keys import STALE
from serving.layout import DeploymentLayout
from serving.processes import until

pytestmark = pytest.mark.slow

PATIENCE_S = 60.0
LIMITS = {"rate": 1_000.0, "burst": 1_000}
ISSUER_KEY = rsa.generate_private_key(65_537, 2_048)


def token(**changes: Any) -> str:
    claims = {
        "iss": "https://login.example.com/",
        "aud": "recsys",
        "sub": "u1",
        "exp": time.time() + 600,
        "org": "acme",
    }
    return jwt.encode({**claims, "scope": "recs.read", **changes}, ISSUER_KEY, "RS256", headers={"kid": "r"})


@pytest.fixture
def layout(trained: Any, tmp_path: Path) -> DeploymentLayout:
    serve = shutil.copytree(trained.folder / "serve", tmp_path / "serve", symlinks=True)
    return DeploymentLayout(serve=serve, live=tmp_path / "live")


@pytest.fixture
def issuer(tmp_path: Path) -> Path:
    """Settings of an issuer whose keys are in a file beside them."""
    public = jwt.get_algorithm_by_name("RS256").to_jwk(ISSUER_KEY.public_key(), as_dict=True)
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [{**public, "kid": "r"}]}))
    document = {
        "issuer": "https://login.example.com/",
        "audience": "recsys",
        "jwks": "jwks.json",
        "tenant_claim": "org",
    }
    (tmp_path / "jwt.yaml").write_text(yaml.safe_dump({**document, "scopes": {"recs.read": ["recommend"]}}))
    return tmp_path / "jwt.yaml"


@pytest.fixture
def running(layout: DeploymentLayout, issuer: Path, server: Any, tmp_path: Path) -> Iterator[tuple[httpx.Client, str]]:
    create_key(layout.keys, name="first", scopes=["recommend"], **LIMITS)
    command = ["gateway", str(layout.serve), f"--live={layout.live}", f"--jwt={issuer}", "--port=0", "--budget=20000"]
    command += ["--broker=nats://127.0.0.1:1", f"--state={layout.sqlite}", f"--triton={server.grpc_url}"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "serving", *command], stdout=subprocess.PIPE, stderr=log, text=True
        )
        assert process.stdout is not None
        try:
            line = process.stdout.readline().split()
            assert line[:1] == ["gateway"], (tmp_path / "log").read_text()
            metrics = process.stdout.readline().split()[1]
            with httpx.Client(base_url=line[1], timeout=60.0) as client:
                yield client, metrics.removesuffix("/metrics")
        finally:
            process.kill()
            process.communicate()


def status(gateway: httpx.Client, bearer: str, user: str = "u") -> int:
    header = {"authorization": f"Bearer {bearer}"}
    return gateway.post("/v1/recommend", json={"user": user, "k": 3}, headers=header).status_code


def test_keys_and_tokens_of_a_gateway_that_runs(running: tuple[httpx.Client, str], layout: DeploymentLayout) -> None:
    gateway, internal = running

    def ready() -> Any:
        return httpx.get(f"{internal}/readyz", timeout=60.0).json()

    new = create_key(layout.keys, name="new", scopes=["recommend"], tenant="acme", **LIMITS)
    assert until(lambda: status(gateway, new) == 200, PATIENCE_S)
    assert status(gateway, token()) == 200
    assert [status(gateway, one) for one in (token(exp=1), token(aud="shop"), token(org="a:b"))] == [401, 401, 403]
    revoke_key(layout.keys, "new")
    assert until(lambda: status(gateway, new) == 401, PATIENCE_S)
    assert ready() == {"status": "ready"}
    layout.keys.write_bytes(b"{")
    assert until(lambda: "warnings" in ready(), PATIENCE_S)
    assert ready() == {"status": "ready", "warnings": {"keys": STALE}}
    page = httpx.get(f"{internal}/metrics", timeout=60.0).text.splitlines()
    for line in ("recsys_keys 1.0", "recsys_keys_stale 1.0", "recsys_token_issuer_stale 0.0"):
        assert line in page
