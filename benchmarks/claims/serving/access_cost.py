"""What a request pays for its caller: python -m benchmarks.claims.serving.access_cost

The CPU of the event loop for an API key among many, and for a token (RS256) when it is new and when it came before; the time
until a gateway knows a key that was created, or refuses one that was revoked; and the arms of a user of four experiments, two
of them with a condition, with what it takes to write arms and overrides into the record of the impression.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jwt
import numpy as np
import orjson
from cryptography.hazmat.primitives.asymmetric import rsa

from benchmarks.lib.result_file import RESULTS, Figure, console, print_figures, write_result
from recsys.contracts import Query
from recsys.errors import exit_on_error
from recsys.experiments.experiment_set import ExperimentSet
from recsys.schema import schema_of
from serving.gateway.api_keys import ApiKey, ApiKeys, Scope, hash_token
from serving.gateway.http_error import HTTPError
from serving.gateway.jwt_settings import JwtSettings
from serving.gateway.jwt_tokens import JwtAuthorizer
from serving.gateway.key_file import create_key, revoke_key
from serving.gateway.reloaded_keys import ReloadedKeys
from serving.gateway.signing_keys import SigningKeys

NUM_KEYS = (1, 1_000, 10_000)
CALLS, NEW_TOKENS, CHANGES = 20_000, 500, 10
SCOPES: tuple[Scope, ...] = ("recommend",)
LIMITS: dict[str, Any] = {"rate": 1e6, "burst": 1_000_000}
CALL_US, SEEN_S = 50.0, 1.0
NUM_EXPERIMENTS, DOOR_SHARE = 4, 0.03
ISSUER, AUDIENCE = "https://login.example.com/", "recsys"


def measured(step: str, calls: Sequence[Callable[[], object]]) -> dict[str, Any]:
    """Row of the median and the 99th percentile of these calls in microseconds."""
    took = []
    for call in calls:
        start = time.perf_counter()
        call()
        took.append(1e6 * (time.perf_counter() - start))
    p50, p99 = np.percentile(took, [50, 99])
    return {"step": step, "p50_us": round(float(p50), 1), "p99_us": round(float(p99), 1)}


def status_of(keys: ApiKeys | ReloadedKeys, token: str) -> int:
    try:
        keys.admit(f"Bearer {token}", "recommend")
    except HTTPError as refused:
        return refused.status
    return 200


def of_keys(num: int) -> list[dict[str, Any]]:
    """A known and an unknown key among so many."""
    listed = [ApiKey(name=f"k{row}", sha256=hash_token(f"rk_{row}"), scopes=SCOPES, **LIMITS) for row in range(num)]
    keys = ApiKeys(listed, clock=time.monotonic)
    known, unknown = f"rk_{num - 1}", f"rk_{num}"
    assert [status_of(keys, one) for one in (known, unknown)] == [200, 401]
    return [
        measured(f"{name} key of {num:,}", [lambda token=token: status_of(keys, token)] * CALLS)  # type: ignore[misc]
        for name, token in (("known", known), ("unknown", unknown))
    ]


def of_tokens(folder: Path) -> list[dict[str, Any]]:
    """Tokens that are new, each of them, and one that came before."""
    private = rsa.generate_private_key(65_537, 2_048)
    public = jwt.get_algorithm_by_name("RS256").to_jwk(private.public_key())
    (folder / "jwks.json").write_text(f'{{"keys": [{public}]}}', encoding="utf-8")
    scopes = {"recs.read": ("recommend",)}
    settings = JwtSettings(
        issuer=ISSUER, audience=AUDIENCE, jwks=str(folder / "jwks.json"), scopes=scopes, algorithms=("RS256",), **LIMITS
    )
    door = JwtAuthorizer(
        settings, SigningKeys(settings), ApiKeys([], clock=time.monotonic), logged=hash_token, clock=time.monotonic
    )
    claims = {"iss": ISSUER, "aud": AUDIENCE, "exp": time.time() + 3_600, "scope": "recs.read"}
    headers = [f"Bearer {jwt.encode({**claims, 'sub': str(row)}, private, 'RS256')}" for row in range(NEW_TOKENS)]
    new: list[Callable[[], object]] = [lambda header=header: door.admit(header, "recommend") for header in headers]  # type: ignore[misc]
    return [measured("new token", new), measured("token that came before", [new[0]] * CALLS)]


def of_experiments() -> dict[str, Any]:
    """Assignment of one request to the arms of four experiments, and its record with them beside one without."""
    changed = (
        {"weights": {"click": 2.0}},
        {"diversity": {"trade_off": 0.5}},
        {"discount": 0.1},
        {"exploration": {"kind": "epsilon", "epsilon": 0.1}},
    )
    documents = [
        {
            "name": f"experiment-{number}",
            "hypothesis": "costs little",
            "arms": {"control": {"share": 0.5}, "other": {"share": 0.5, "policy": policy}},
            "primary": "click_per_request",
            "start": "2020-01-01",
            "end": "2040-01-01",
            **({"when": "num_events >= 2 and context.device == 'phone'"} if number % 2 else {}),
        }
        for number, policy in enumerate(changed[:NUM_EXPERIMENTS])
    ]
    live = ExperimentSet.parse({"experiments": documents}).compile({"context.device": "category"})
    queries = [
        Query(user=f"u{number}", now=1.7e9, context={"device": "phone"}, request_id=str(number))
        for number in range(1_000)
    ]
    plain = schema_of(Query)

    def assigned(query: Query) -> None:
        arms, policy = live.assign(query)
        orjson.dumps(plain.document(replace(query, arms=arms, policy=policy)))

    def bare(query: Query) -> None:
        orjson.dumps(plain.document(query))

    rounds = CALLS // len(queries)
    rows = [
        measured(name, [partial(call, query) for query in queries] * rounds)
        for name, call in (("", assigned), ("", bare))
    ]
    more = {key: round(rows[0][key] - rows[1][key], 1) for key in ("p50_us", "p99_us")}
    return {"step": f"arms of {NUM_EXPERIMENTS} experiments", **more}


def of_changes(folder: Path) -> dict[str, Any]:
    """Slowest of several changes to be seen, in seconds after the command ended."""
    path, took = folder / "keys.json", []
    create_key(path, name="first", scopes=SCOPES, **LIMITS)
    keys = ReloadedKeys(path, clock=time.monotonic)
    for number in range(CHANGES):
        token = create_key(path, name=f"k{number}", scopes=SCOPES, **LIMITS)
        took.append(seconds_until(lambda token=token: status_of(keys, token) == 200))  # type: ignore[misc]
        revoke_key(path, f"k{number}")
        took.append(seconds_until(lambda token=token: status_of(keys, token) == 401))  # type: ignore[misc]
    return {"step": f"{len(took)} changes of keys.json", "slowest_s": round(max(took), 3)}


def seconds_until(true: Callable[[], bool]) -> float:
    start = time.perf_counter()
    while not true():
        time.sleep(0.001)
    return time.perf_counter() - start


def figures(rows: list[dict[str, Any]]) -> dict[str, Figure]:
    cost = {row["step"]: row["p99_us"] for row in rows if "p99_us" in row}
    (arms,) = (row["p50_us"] for row in rows if row["step"].startswith("arms"))
    door_ms = json.loads((RESULTS / "serving.json").read_text())["figures"]["gateway_cpu_ms_per_request"]["value"]
    many, before = f"known key of {NUM_KEYS[-1]:,}", "token that came before"
    return {
        "key_us": Figure(value=cost[many], unit=f"us p99, {NUM_KEYS[-1]:,} keys", goal=CALL_US, better="lower"),
        "token_us": Figure(value=cost[before], unit="us p99, came before", goal=CALL_US, better="lower"),
        "experiments_share": Figure(
            value=round(arms / (1_000 * door_ms), 4),
            unit=f"of the {door_ms} CPU ms of a request at the gateway (serving.json), median",
            goal=DOOR_SHARE,
            better="lower",
        ),
        "seen_s": Figure(value=rows[-1]["slowest_s"], unit="s, slowest change of keys", goal=SEEN_S, better="lower"),
    }


def main() -> None:
    start = time.perf_counter()
    with TemporaryDirectory() as folder:
        rows = [row for num in NUM_KEYS for row in of_keys(num)]
        rows += [*of_tokens(Path(folder)), of_experiments(), of_changes(Path(folder))]
    claimed = figures(rows)
    for row in rows:
        console.print("  ".join(f"{name} {value}" for name, value in row.items()))
    print_figures(claimed)
    console.print(f"\nresult   {write_result('access_cost', rows, claimed, time.perf_counter() - start)}")


if __name__ == "__main__":
    with exit_on_error():
        main()
