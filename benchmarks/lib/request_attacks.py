"""Attacks by requests, keys and tokens on a running stack; those on bare sockets are in http_attacks.py."""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jwt
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from benchmarks.lib import http_attacks
from benchmarks.lib.attacks import Attack, Scene, Strike, struck
from benchmarks.lib.http_attacks import END, Target, head, rest, sent, statuses
from serving.gateway.key_file import revoke_key, rotate_key
from serving.processes import until

PATIENCE_S = 60.0
ISSUER, AUDIENCE = "https://login.example.com/", "recsys"
FORGED = {"iss": ISSUER, "aud": AUDIENCE, "sub": "u", "scope": "recs.read"}
HIDDEN = b"GET /v1/users/hidden HTTP/1.1\r\nhost: gateway\r\n\r\n"
SMUGGLING: dict[str, list[bytes]] = {
    "two lengths": [b"content-length: 5", b"content-length: %d" % (len(HIDDEN) + 5)],
    "a length and chunks": [b"content-length: 5", b"transfer-encoding: chunked"],
    "chunks under a name with a blank": [b"content-length: 5", b"transfer-encoding : chunked"],
    "chunks twice": [b"transfer-encoding: chunked", b"transfer-encoding: identity"],
    "an unknown coding": [b"content-length: 5", b"transfer-encoding: xchunked"],
    "a signed length": [b"content-length: +5"],
    "a folded header": [b"content-length: 5", b"x: y", b" transfer-encoding: chunked"],
}


def write_issuer(folder: Path) -> tuple[Path, bytes]:
    """Write settings of a token issuer; return them and its public key in PEM, which everybody knows."""
    public = rsa.generate_private_key(65_537, 2_048).public_key()
    document = jwt.get_algorithm_by_name("RS256").to_jwk(public, as_dict=True)
    (folder / "jwks.json").write_text(json.dumps({"keys": [{**document, "kid": "r"}]}), encoding="utf-8")
    settings = {"issuer": ISSUER, "audience": AUDIENCE, "jwks": "jwks.json", "scopes": {"recs.read": ["recommend"]}}
    file = folder / "jwt.yaml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / "issuer.pem").write_bytes(pem)
    return file, pem


def on_sockets(attack: Callable[[Target], None]) -> Callable[[Scene], str]:
    """Return an attack of http_attacks.py, which asserts what came back to the attacker."""

    def run(scene: Scene) -> str:
        attack(scene.target)
        return "refused or answered within the limits"

    return run


def smuggle(scene: Scene) -> str:
    """Send a request within the body of another; AssertionError where both are answered."""
    found = {name: _smuggled(scene.target, fields) for name, fields in SMUGGLING.items()}
    assert all(len(one) <= 1 or one[0] >= 400 for one in found.values()), found
    return f"statuses {sorted({status for one in found.values() for status in one})}, one each at most"


def _smuggled(target: Target, fields: list[bytes]) -> list[int]:
    begin = head("POST", "/v1/recommend", target.key) + b"\r\n" + b"\r\n".join(fields)
    with target.connect() as connection:
        sent(connection, begin + END + b"0\r\n\r\n" + HIDDEN)
        connection.shutdown(1)
        return statuses(rest(connection))


def wrong_lengths(scene: Scene) -> str:
    """Announce more than comes, and less."""
    for announced in (b"100", b"1"):
        with scene.target.connect() as connection:
            begin = head("POST", "/v1/recommend", scene.target.key) + b"\r\ncontent-length: " + announced
            sent(connection, begin + END + b'{"user":"u"}')
            connection.shutdown(1)
            found = statuses(rest(connection))
        assert not set(found) & {200}, found
    return "no slate; 400, or closed"


def greedy(scene: Scene) -> str:
    """A key of 5 requests/s sends 400 on 20 connections."""
    token = scene.stack.create_key("greedy", rate=5.0, burst=5)
    assert until(lambda: scene.stack.status(token) in (200, 429), PATIENCE_S)
    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(lambda _: scene.stack.status(token), range(400)))
    revoke_key(scene.stack.layout.keys, "greedy")
    limited = found.count(429)
    assert limited >= 200, found
    return f"{limited} of 400 answered with 429"


def revoked(scene: Scene) -> str:
    """Use a key after it was revoked."""
    token = scene.stack.create_key("revoked")
    assert until(lambda: scene.stack.status(token) == 200, PATIENCE_S)
    revoke_key(scene.stack.layout.keys, "revoked")
    return _refused_after(scene, token)


def rotated(scene: Scene) -> str:
    """Use the former token of a rotated key."""
    token = scene.stack.create_key("rotated")
    assert until(lambda: scene.stack.status(token) == 200, PATIENCE_S)
    rotate_key(scene.stack.layout.keys, "rotated", grace_s=0.0)
    return _refused_after(scene, token)


def expired(scene: Scene) -> str:
    """Use a key after its end."""
    token = scene.stack.create_key("expired", expires=time.time() + 5.0)
    return _refused_after(scene, token)


def _refused_after(scene: Scene, token: str) -> str:
    begin = time.monotonic()
    assert until(lambda: scene.stack.status(token) == 401, PATIENCE_S), "it is accepted still"
    return f"401 after {time.monotonic() - begin:.1f} s"


def without_scope(scene: Scene) -> str:
    """Post events, change items and read users by a key for slates."""
    token = scene.stack.create_key("slates-only", ["recommend"])
    assert until(lambda: scene.stack.status(token) == 200, PATIENCE_S)
    tries: list[tuple[str, str, Any]] = [
        ("POST", "/v1/events", {"events": [{"user": "u", "item": "1", "actions": {"click": 1.0}}]}),
        ("PUT", "/v1/items/1", {"columns": {"category": "crime"}}),
        ("GET", "/v1/users/u", None),
        ("DELETE", "/v1/users/u", None),
    ]
    found = [scene.stack.request(method, path, token, body).status_code for method, path, body in tries]
    assert set(found) == {403}, found
    return "403 for each"


def another_tenant(scene: Scene) -> str:
    """Read and rewrite the user of another tenant."""
    stack = scene.stack
    tokens = {
        name: stack.create_key(f"tenant-{name}", ["recommend", "events"], tenant=name) for name in ("acme", "bravo")
    }
    assert until(lambda: all(stack.status(one) == 200 for one in tokens.values()), PATIENCE_S)
    event = {"user": "shared", "item": min(stack.allowed), "actions": {"click": 1.0}}
    assert stack.request("POST", "/v1/events", tokens["acme"], {"events": [event]}).status_code == 200
    assert until(lambda: "history:empty" not in _flags(scene, tokens["acme"], "shared"), PATIENCE_S)
    for user in ("shared", "tenant:acme:shared", "acme:shared"):
        answer = stack.request("POST", "/v1/recommend", tokens["bravo"], {"user": user, "k": 3})
        assert answer.status_code == 400 or "history:empty" in answer.json()["degraded"], answer.text
    return "the other tenant's user is a stranger"


def _flags(scene: Scene, token: str, user: str) -> list[str]:
    answer = scene.stack.request("POST", "/v1/recommend", token, {"user": user, "k": 3})
    return answer.json()["degraded"] if answer.status_code == 200 else ["history:empty"]


def forged(scene: Scene) -> str:
    """Forge tokens: algorithm none, the public key as a secret, a key of one's own, a foreign key id."""
    claims = {**FORGED, "exp": time.time() + 600.0}
    pem = (scene.stack.folder / "issuer.pem").read_text(encoding="ascii")
    own = rsa.generate_private_key(65_537, 2_048)
    body = jwt.encode(claims, "", "none", headers={"kid": "r"})
    tokens = [
        body,
        body + "x",
        _signed_by_public_key(claims, pem),
        jwt.encode(claims, own, "RS256", headers={"kid": "r"}),
        jwt.encode(claims, own, "RS256", headers={"kid": "../../issuer.pem"}),
        jwt.encode(claims, own, "RS256", headers={"kid": "r", "jku": "http://127.0.0.1:1/jwks"}),
    ]
    found = [scene.stack.status(one) for one in tokens]
    assert set(found) == {401}, found
    return f"401 for each of {len(tokens)}"


def _signed_by_public_key(claims: Any, pem: str) -> str:
    """PyJWT refuses to make such a token, so its parts are put together here."""
    import base64
    import hashlib
    import hmac

    parts = [{"alg": "HS256", "typ": "JWT", "kid": "r"}, claims]
    text = b".".join(base64.urlsafe_b64encode(json.dumps(one).encode()).rstrip(b"=") for one in parts)
    signature = hmac.digest(pem.encode(), text, hashlib.sha256)
    return (text + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


@contextmanager
def damaged_keys(scene: Scene, damage: Callable[[Path], object]) -> Iterator[str]:
    """Damage keys.json while it runs: known keys go on, an operator is told. Afterwards the file is put back."""
    path = scene.stack.layout.keys
    whole = path.read_bytes()
    try:
        damage(path)
        time.sleep(3.0)
        assert scene.stack.status(scene.token) == 200, "a known key is refused"
        assert scene.stack.status("rk_unknown") == 401, "an unknown key is accepted"
        yield "known keys go on; an unknown one gets 401"
    finally:
        draft = path.with_suffix(".back")
        draft.write_bytes(whole)
        draft.chmod(0o600)
        draft.replace(path)


def _damaged(damage: Callable[[Path], object]) -> Strike:
    return partial(damaged_keys, damage=damage)


def _requests() -> Iterator[Attack]:
    for one in http_attacks.ATTACKS:
        tried = (one.__doc__ or one.__name__).split("\n")[0].removesuffix(".")
        yield Attack(group="requests", tried=tried, strike=struck(on_sockets(one)))
    yield Attack(
        group="requests",
        tried="A request within the body of another, seven shapes of smuggling",
        strike=struck(smuggle),
    )
    yield Attack(group="requests", tried="A body longer, and shorter, than it says", strike=struck(wrong_lengths))
    yield Attack(
        group="requests", tried="One key sends 400 requests at once; it may send 5 a second", strike=struck(greedy)
    )


KEYS: dict[str, Strike] = {
    "A revoked key": struck(revoked),
    "The former token of a rotated key": struck(rotated),
    "A key after its end": struck(expired),
    "Events, items and users by a key for slates": struck(without_scope),
    "The user of another tenant": struck(another_tenant),
    "Forged tokens: algorithm none, HMAC by the public key, keys of one's own": struck(forged),
    "keys.json is overwritten with half a document": _damaged(lambda path: path.write_bytes(b'{"version": 1, "ke')),
    "keys.json is emptied": _damaged(lambda path: path.write_bytes(b"")),
    "keys.json is removed": _damaged(lambda path: path.unlink()),
}
ATTACKS = (
    *_requests(),
    *(Attack(group="keys and tenants", tried=tried, strike=one) for tried, one in KEYS.items()),
)
