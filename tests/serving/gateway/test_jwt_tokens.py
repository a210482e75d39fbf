"""Tokens of an OpenID Connect provider: keys made here, and a server of its own that lists them."""

import base64
import gc
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import ConfigError
from serving.gateway.api_keys import ApiKey, ApiKeys, hash_token
from serving.gateway.container import Dependencies
from serving.gateway.http_error import HTTPError
from serving.gateway.jwt_settings import JwtSettings
from serving.gateway.jwt_tokens import JwtAuthorizer
from serving.gateway.signing_keys import STALE, SigningKeys
from serving.processes import until

PATIENCE_S, POLL_S = 30.0, 0.01
ISSUER, AUDIENCE = "https://login.example.com/", "recsys"
RSA = rsa.generate_private_key(65_537, 2_048)
OTHER_RSA = rsa.generate_private_key(65_537, 2_048)
SHORT_RSA = rsa.generate_private_key(65_537, 1_024)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
SCOPES = {"recs.read": ("recommend",), "recs.write": ("events", "recommend")}


def jwk(key: Any, id: str | None, **more: Any) -> dict[str, Any]:
    """Public key as the issuer lists it."""
    kinds = {rsa.RSAPrivateKey: "RS256", ec.EllipticCurvePrivateKey: "ES256", ed25519.Ed25519PrivateKey: "EdDSA"}
    algorithm = next(name for kind, name in kinds.items() if isinstance(key, kind))
    listed = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    return {**listed, **({} if id is None else {"kid": id}), **more}


LISTED = [jwk(RSA, "r"), jwk(EC, "e"), jwk(ED, "ed")]


def token(key: Any = RSA, algorithm: str = "RS256", id: str | None = "r", header: Any = None, **changes: Any) -> str:
    now = time.time()
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "u1", "iat": now, "exp": now + 600, "scope": "openid recs.read"}
    claims = {name: value for name, value in {**claims, **changes}.items() if value is not None}
    return jwt.encode(claims, key, algorithm, headers={**({} if id is None else {"kid": id}), **(header or {})})


@dataclass
class Issuer:
    """Server of a JWKS. text: its answer, None for a failure."""

    url: str
    text: str | None
    requests: int = 0
    hold: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    found = Issuer("", json.dumps({"keys": LISTED}))
    found.hold.set()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.requests += 1
            found.hold.wait()
            if self.path == "/moved":
                self.send_response(302)
                self.send_header("location", "/jwks.json")
                self.end_headers()
                return
            self.send_response(503 if found.text is None else 200)
            self.end_headers()
            self.wfile.write((found.text or "").encode())

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found.url = f"http://127.0.0.1:{server.server_port}/jwks.json"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield found
        finally:
            found.hold.set()
            gc.collect()  # ends the threads that follow the keys of this server
            server.shutdown()
            thread.join()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": LISTED}))
    return path


def settings(source: Path | str, **changes: Any) -> JwtSettings:
    given = {"issuer": ISSUER, "audience": AUDIENCE, "jwks": str(source), "scopes": SCOPES}
    return JwtSettings(**{**given, **changes})


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def authorizer(made: JwtSettings, *, clock: Callable[[], float] | None = None) -> JwtAuthorizer:
    clock = clock or Clock()
    key = ApiKey(name="shop", sha256=hash_token("key"), scopes=("recommend",), rate=1.0, burst=9)
    signing_keys = SigningKeys(made, clock=clock, every_s=POLL_S)
    keys = ApiKeys([key], clock=clock)
    return JwtAuthorizer(made, signing_keys, keys, logged=lambda subject: hash_token(subject)[:8], clock=clock)


def refusal(door: JwtAuthorizer, text: str, scope: Any = "recommend") -> tuple[int, str]:
    try:
        door.admit(f"Bearer {text}", scope)
    except HTTPError as error:
        return error.status, error.message
    return 200, ""


@pytest.mark.parametrize(("key", "algorithm", "id"), [(RSA, "RS256", "r"), (EC, "ES256", "e"), (ED, "EdDSA", "ed")])
def test_a_token_of_the_issuer_is_admitted_to_its_scopes(file: Path, key: Any, algorithm: str, id: str) -> None:
    door = authorizer(settings(file, algorithms=("RS256", "ES256", "EdDSA")))
    caller = door.admit(f"Bearer {token(key, algorithm, id)}", "recommend")
    assert (caller.name, caller.tenant) == (f"jwt:{hash_token('u1')[:8]}", None)
    assert refusal(door, token(key, algorithm, id), "events") == (
        403,
        "this token may not do this; it needs the scope 'events'",
    )
    assert refusal(door, token(key, algorithm, id, scope=["x", 5, "recs.write"]), "events")[0] == 200
    assert refusal(door, token(key, algorithm, id, scope=None))[0] == 403


def test_keys_work_beside_tokens(file: Path) -> None:
    door = authorizer(settings(file))
    assert door.admit("Bearer key", "recommend").name == "shop"
    assert refusal(door, "nothing") == (401, "no known API key came; send the header 'Authorization: Bearer <key>'")


def unsigned(algorithm: str) -> str:
    """Token without a signature."""
    return token(None, "none") if algorithm == "none" else _with_algorithm(token(), algorithm)


def _with_algorithm(text: str, algorithm: str) -> str:
    _, payload, signature = text.split(".")
    header = base64.urlsafe_b64encode(json.dumps({"alg": algorithm, "kid": "r"}).encode()).rstrip(b"=").decode()
    return f"{header}.{payload}.{signature}"


def signed_by_the_public_key() -> str:
    """HS256 with the public key as its secret, which a careless verifier accepts."""
    pem = RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    signed = ".".join(_with_algorithm(token(), "HS256").split(".")[:2])
    mac = hmac.new(pem, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def altered() -> str:
    head, payload, signature = token().split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    claims["sub"] = "another"
    return f"{head}.{base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b'=').decode()}.{signature}"


REFUSED: dict[str, tuple[Callable[[], str], str]] = {
    "expired": (lambda: token(exp=time.time() - 31), "this token expired; get a new one"),
    "not yet valid": (lambda: token(nbf=time.time() + 300), "this token is not valid yet"),
    "another audience": (lambda: token(aud="shop"), "for another audience"),
    "audiences without ours": (lambda: token(aud=["shop", "recsys2"]), "for another audience"),
    "another issuer": (lambda: token(iss="https://evil.example.com/"), "of another issuer"),
    "another key": (lambda: token(OTHER_RSA), "the signature of this token is wrong"),
    "altered": (altered, "the signature of this token is wrong"),
    "unknown key": (lambda: token(OTHER_RSA, id="x"), "a key that its issuer does not list"),
    "no key id": (lambda: token(id=None), "a key that its issuer does not list"),
    "the key of another type": (lambda: token(RSA, id="e"), "by an algorithm that is not accepted"),
    "none": (lambda: unsigned("none"), "by an algorithm that is not accepted"),
    "None": (lambda: unsigned("None"), "by an algorithm that is not accepted"),
    "HS256 with the public key": (signed_by_the_public_key, "by an algorithm that is not accepted"),
    "HS256": (lambda: token("a secret that nobody has to guess", "HS256"), "by an algorithm that is not accepted"),
    "RS512": (lambda: token(algorithm="RS512"), "by an algorithm that is not accepted"),
    "no expiry": (lambda: token(exp=None), "lacks one of the claims exp, iss, aud, sub"),
    "no subject": (lambda: token(sub=None), "lacks one of the claims"),
    "no audience": (lambda: token(aud=None), "lacks one of the claims"),
    "no issuer": (lambda: token(iss=None), "lacks one of the claims"),
    "an endless expiry": (lambda: token(exp=float("inf")), "cannot be read"),
    "an expiry of no number": (lambda: token(exp="soon"), "cannot be read"),
    "a subject of no text": (lambda: token(sub=5), "cannot be read"),
    "a critical extension": (lambda: token(header={"crit": ["b64"], "b64": True}), "cannot be read"),
    "dots": (lambda: "..", "cannot be read"),
    "no base64": (lambda: "!.!.!", "cannot be read"),
    "too long": (lambda: token(more="x" * 9_000), "has more than 8,192 characters"),
}


@pytest.mark.parametrize(("make", "sentence"), REFUSED.values(), ids=REFUSED)
def test_any_other_token_is_refused_in_a_sentence(file: Path, make: Callable[[], str], sentence: str) -> None:
    door = authorizer(settings(file))
    text = make()
    for _ in range(2):
        status, message = refusal(door, text)
        assert status == 401
        assert sentence in message
        assert text not in message
    assert refusal(door, token())[0] == 200


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> JwtAuthorizer:
    path = tmp_path_factory.mktemp("issuer") / "jwks.json"
    path.write_text(json.dumps({"keys": LISTED}))
    return authorizer(settings(path))


@given(st.lists(st.text(max_size=20) | st.just(token().split(".")[0]) | st.just("e30"), min_size=3, max_size=3))
def test_no_text_of_three_parts_is_a_defect(steady: JwtAuthorizer, parts: list[str]) -> None:
    assert refusal(steady, ".".join(parts))[0] == 401


def test_a_clock_that_is_a_little_off_is_allowed(file: Path) -> None:
    door = authorizer(settings(file, leeway_s=60.0))
    assert refusal(door, token(exp=time.time() - 30, nbf=time.time() + 30))[0] == 200


def test_a_verified_token_is_verified_again_once_it_ends(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    door, wall, text = authorizer(settings(file)), Clock(), token()
    decoded: list[str] = []
    real = jwt.decode
    monkeypatch.setattr("jwt.decode", lambda text, *rest, **more: decoded.append(text) or real(text, *rest, **more))
    door._now, wall.now = wall, time.time()
    assert [refusal(door, text)[0] for _ in range(3)] == [200, 200, 200]
    assert decoded == [text]
    wall.now += 600 + 31
    assert refusal(door, text)[0] == 200  # by the clock of the library, which did not move
    assert decoded == [text, text]


def test_each_subject_has_its_own_rate(file: Path) -> None:
    clock = Clock()
    door = authorizer(settings(file, rate=0.5, burst=2), clock=clock)
    statuses = [refusal(door, token(iat=time.time() + one))[0] for one in range(3)]  # three tokens of one subject
    assert statuses == [200, 200, 429]
    assert refusal(door, token(sub="u2"))[0] == 200
    with pytest.raises(HTTPError, match=r"the subject of this token sends more than 0\.5 requests a second") as refused:
        door.admit(f"Bearer {token()}", "recommend")
    assert refused.value.retry_after_s == pytest.approx(2.0)
    clock.now += 2.0
    assert refusal(door, token())[0] == 200


def test_tokens_and_subjects_are_kept_within_a_limit(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.gateway.jwt_tokens.MAX_VERIFIED", 2)
    door = authorizer(settings(file, rate=0.001, burst=1))
    assert [refusal(door, token(sub=f"u{number}"))[0] for number in (1, 2, 3)] == [200, 200, 200]
    assert (len(door._verified), len(door._buckets)) == (2, 2)
    assert [refusal(door, token(sub=f"u{number}"))[0] for number in (2, 3)] == [429, 429]


def test_no_key_is_fetched_from_where_a_token_says(file: Path, issuer: Issuer) -> None:
    issuer.text = json.dumps({"keys": [jwk(OTHER_RSA, "x")]})
    door = authorizer(settings(file))
    header = {"jku": issuer.url, "x5u": issuer.url, "jwk": jwk(OTHER_RSA, "x")}
    for id in ("r", "x", "../../jwks.json"):
        assert refusal(door, token(OTHER_RSA, id=id, header=header))[0] == 401
    assert issuer.requests == 0


def test_a_token_names_its_tenant(file: Path) -> None:
    door = authorizer(settings(file, tenant_claim="org"))
    assert door.admit(f"Bearer {token(org='acme')}", "recommend").tenant == "acme"
    for org in (None, "", "a:b", 5, ["acme"], "x" * 65):
        assert refusal(door, token(org=org)) == (
            403,
            "the claim 'org' of this token names no tenant; get one that does",
        )


def test_a_token_of_a_tenant_reaches_its_users_only(file: Path, parts: Dependencies, during: Any) -> None:
    async def story(door: Any) -> Any:
        header = {"authorization": f"Bearer {token(org='acme')}"}
        answer = await door.recommend("u", header)
        return answer.json()["user"], [line["key"] for line in door.lines]

    made = replace(parts, keys=authorizer(settings(file, tenant_claim="org")))
    assert during(made, story) == ("u", [f"jwt:{hash_token('u1')[:8]}"])
    assert {record.user for record in made.writer.records.values()} == {"tenant:acme:u"}  # type: ignore[attr-defined]


def test_keys_are_fetched_from_a_server_and_followed(issuer: Issuer) -> None:
    clock = Clock()
    door = authorizer(settings(issuer.url), clock=clock)
    assert [refusal(door, one)[0] for one in (token(), token(EC, "ES256", "e"))] == [200, 200]
    assert issuer.requests == 1
    issuer.text = json.dumps({"keys": [jwk(OTHER_RSA, "new")]})
    clock.now += 300.0
    assert until(lambda: refusal(door, token(OTHER_RSA, id="new"))[0] == 200, PATIENCE_S)
    assert refusal(door, token())[0] == 401  # a key that is no longer listed, for verified tokens too


def test_a_token_of_a_new_key_has_the_keys_fetched_but_not_for_each_request(issuer: Issuer) -> None:
    clock = Clock()
    door = authorizer(settings(issuer.url), clock=clock)
    issuer.text = json.dumps({"keys": [*LISTED, jwk(OTHER_RSA, "new")]})
    assert until(lambda: refusal(door, token(OTHER_RSA, id="new"))[0] == 200, PATIENCE_S)
    assert issuer.requests == 2
    for number in range(20):
        assert refusal(door, token(OTHER_RSA, id=f"x{number}"))[0] == 401
    stamp = door._signing_keys._stamp()
    assert refusal(door, token(OTHER_RSA, id="y"))[0] == 401
    assert door._signing_keys._stamp() == stamp  # nothing more is due within ten seconds


def test_a_server_that_is_away_leaves_the_last_keys_in_use(issuer: Issuer, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    door = authorizer(settings(issuer.url), clock=clock)
    for text in (None, "no JSON", "[]", '{"keys": []}', json.dumps({"keys": [jwk(SHORT_RSA, "s")]})):
        issuer.text = text
        clock.now += 300.0
        assert until(lambda: door._signing_keys.stale, PATIENCE_S)
        assert refusal(door, token())[0] == 200
        assert door.warnings == {"token issuer": STALE}
        issuer.text = json.dumps({"keys": LISTED})
        clock.now += 300.0
        assert until(lambda: not door._signing_keys.stale, PATIENCE_S)
    assert door.warnings == {}
    lines = [line for line in caplog.records if issuer.url in line.getMessage()]
    assert lines
    assert all(line.getMessage().startswith(f"token issuer: {issuer.url} has no ") for line in lines)
    assert all(line.exc_info is None for line in lines)


def test_a_server_that_is_away_at_the_start_is_waited_for_by_nobody(issuer: Issuer) -> None:
    issuer.text = None
    door = authorizer(settings(issuer.url))
    status, message = refusal(door, token())
    assert (status, message) == (503, "the keys of the token issuer are not known yet; try again")
    assert door.admit("Bearer key", "recommend").name == "shop"
    issuer.text = json.dumps({"keys": LISTED})
    assert until(lambda: refusal(door, token())[0] == 200, PATIENCE_S)


def test_requests_never_wait_for_the_server(issuer: Issuer) -> None:
    clock = Clock()
    door = authorizer(settings(issuer.url), clock=clock)
    issuer.hold.clear()
    clock.now += 300.0
    assert until(lambda: issuer.requests == 2, PATIENCE_S)  # and it does not answer
    assert refusal(door, token(sub="while it hangs"))[0] == 200
    assert refusal(door, token(OTHER_RSA, id="x"))[0] == 401


def test_a_redirect_is_not_followed(issuer: Issuer) -> None:
    door = authorizer(settings(issuer.url.replace("/jwks.json", "/moved")))
    assert refusal(door, token())[0] == 503


def test_a_file_of_keys_is_followed(file: Path) -> None:
    door = authorizer(settings(file))
    assert refusal(door, token(id=None))[0] == 401
    file.write_text(json.dumps({"keys": [jwk(OTHER_RSA, None)]}))
    assert until(lambda: refusal(door, token(OTHER_RSA, id=None))[0] == 200, PATIENCE_S)
    assert refusal(door, token(id=None)) == (
        401,
        "the signature of this token is wrong; send it as its issuer wrote it",
    )


@pytest.mark.parametrize(
    "listed",
    [
        [],
        [jwk(SHORT_RSA, "r")],
        [jwk(RSA, "r", use="enc")],
        [jwk(RSA, "r", alg="RS512")],
        [jwk(RSA, "r", kid=["r"])],
        [{"kty": "oct", "k": "c2VjcmV0", "kid": "r", "alg": "HS256"}],
        ["text", {"kty": "RSA"}, {}],
    ],
)
def test_a_file_without_a_usable_key_is_refused_at_the_start(file: Path, listed: Any) -> None:
    file.write_text(json.dumps({"keys": listed}))
    with pytest.raises(ConfigError, match="has no public key for RS256, ES256"):
        SigningKeys(settings(file))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"keys": 5}'])
def test_a_file_of_no_keys_is_refused_at_the_start(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError, match="has no keys of a token issuer"):
        SigningKeys(settings(file))
    file.unlink()
    with pytest.raises(ConfigError, match="has no keys of a token issuer"):
        SigningKeys(settings(file))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"issuer": " "}, r"jwt\.issuer is empty"),
        ({"jwks": "http://login.example.com/jwks"}, "give an https URL, or a file"),
        ({"jwks": "ftp://login.example.com/jwks"}, "give an https URL, or a file"),
        ({"algorithms": ["none"]}, r"jwt\.algorithms is \['none'\]; choose of RS256"),
        ({"algorithms": ["RS256", "HS256"]}, r"jwt\.algorithms"),
        ({"algorithms": []}, r"jwt\.algorithms"),
        ({"scopes": {}}, r"jwt\.scopes gives \[\]"),
        ({"scopes": {"a": ["root"]}}, r"jwt\.scopes gives \['root'\]; give values of the claim any of recommend"),
        ({"scopes": {"a": ["admin"]}, "tenant_claim": "org"}, "leave out one of them"),
        ({"rate": 0.0}, r"jwt\.rate"),
        ({"audience": None}, "audience is null"),
        ({"audiences": "recsys"}, "unknown field"),
    ],
)
def test_settings_that_are_wrong_are_refused(tmp_path: Path, changes: Any, sentence: str) -> None:
    given = {"issuer": ISSUER, "audience": AUDIENCE, "jwks": "jwks.json", "scopes": {"a": ["recommend"]}}
    path = tmp_path / "jwt.yaml"
    path.write_text(yaml.safe_dump({**given, **changes}))
    with pytest.raises(ConfigError, match=sentence):
        JwtSettings.from_file(path)


@pytest.mark.parametrize("text", ["", "a: [", "issuer: x\nissuer: y", "\x00"])
def test_a_file_of_no_settings_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "jwt.yaml").write_text(text)
    with pytest.raises(ConfigError, match="has no settings of tokens"):
        JwtSettings.from_file(tmp_path / "jwt.yaml")
    with pytest.raises(ConfigError, match=r"absent\.yaml has no settings of tokens: No such file"):
        JwtSettings.from_file(tmp_path / "absent.yaml")


def test_a_file_of_keys_is_beside_its_settings(tmp_path: Path) -> None:
    given = {"issuer": ISSUER, "audience": AUDIENCE, "jwks": "jwks.json", "scopes": {"a": ["recommend"]}}
    (tmp_path / "jwt.yaml").write_text(yaml.safe_dump(given))
    assert JwtSettings.from_file(tmp_path / "jwt.yaml").jwks == str(tmp_path / "jwks.json")
