"""Callers by tokens (JWT) of an OpenID Connect provider, beside API keys."""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jwt

from serving.gateway.api_keys import Authorizer, Scope, bearer_token
from serving.gateway.caller import TENANT, Caller
from serving.gateway.http_error import HTTPError
from serving.gateway.jwt_settings import JwtSettings
from serving.gateway.signing_keys import STALE, SigningKeys
from serving.gateway.token_bucket import TokenBucket

MAX_TOKEN = 8_192
"""characters"""
MAX_VERIFIED = 10_000
"""verified tokens, and subjects with a bucket, the least recently used dropped first"""
RETRY_S = 1.0
REQUIRED = ("exp", "iss", "aud", "sub")
REFUSED: Mapping[type[jwt.PyJWTError], str] = {
    jwt.ExpiredSignatureError: "this token expired; get a new one from its issuer",
    jwt.ImmatureSignatureError: "this token is not valid yet; send it later",
    jwt.InvalidAudienceError: "this token is for another audience; get one for this service",
    jwt.InvalidIssuerError: "this token is of another issuer; get one of the issuer that this service trusts",
    jwt.InvalidAlgorithmError: "this token is signed by an algorithm that is not accepted; get one that is",
    jwt.InvalidSignatureError: "the signature of this token is wrong; send it as its issuer wrote it",
    jwt.MissingRequiredClaimError: f"this token lacks one of the claims {', '.join(REQUIRED)}; get one that has them",
}
UNREADABLE = "this token cannot be read; send it as its issuer wrote it"
UNKNOWN_KEY = "this token is signed by a key that its issuer does not list; get a new one"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedToken:
    """Caller of a token whose signature and claims are right. until: unix seconds."""

    caller: Caller
    scopes: frozenset[str]
    until: float
    keys: object
    """keys that it was verified with"""


class JwtAuthorizer:
    """Admits callers by tokens, and by API keys whatever is no token.

    A verified token is kept until it expires or the keys of the issuer change: a signature costs 0.1 ms.
    logged: pseudonym of a subject in logs. clock: monotonic, now: unix, both in seconds.
    """

    def __init__(
        self,
        settings: JwtSettings,
        signing_keys: SigningKeys,
        keys: Authorizer,
        *,
        logged: Callable[[str], str],
        clock: Callable[[], float],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._settings, self._signing_keys, self._keys = settings, signing_keys, keys
        self._logged, self._clock, self._now = logged, clock, now
        self._verified: OrderedDict[bytes, VerifiedToken] = OrderedDict()
        self._buckets: OrderedDict[Caller, TokenBucket] = OrderedDict()

    @property
    def warnings(self) -> Mapping[str, str]:
        """Sentences of the keys, and one while those of the issuer cannot be read."""
        return {**self._keys.warnings, **({"token issuer": STALE} if self._signing_keys.stale else {})}

    def admit(self, authorization: str | None, scope: Scope) -> Caller:
        """Return the caller. HTTPError: 401 without a valid key or token, 403, 429; 503 until the issuer's keys are known."""
        token = bearer_token(authorization)
        if token.count(".") != 2:
            return self._keys.admit(authorization, scope)
        verified = self._verify(token)
        if scope not in verified.scopes:
            raise HTTPError(403, f"this token may not do this; it needs the scope {scope!r}")
        if wait_s := self._bucket(verified.caller).wait():
            sentence = f"the subject of this token sends more than {self._settings.rate:g} requests a second"
            raise HTTPError(429, sentence, retry_after_s=wait_s)
        return verified.caller

    def _verify(self, token: str) -> VerifiedToken:
        if len(token) > MAX_TOKEN:
            raise HTTPError(401, f"this token has more than {MAX_TOKEN:,} characters; get a shorter one")
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        found = self._verified.get(digest)
        if found is None or found.keys is not self._signing_keys.keys or self._now() >= found.until:
            found = self._new(token)
        _keep(self._verified, digest, found)
        return found

    def _new(self, token: str) -> VerifiedToken:
        keys = self._signing_keys.keys
        if not keys:
            self._signing_keys.find(None)
            raise HTTPError(503, "the keys of the token issuer are not known yet; try again", retry_after_s=RETRY_S)
        claims = self._claims(token)
        tenant = self._tenant(claims)
        named = claims.get(self._settings.scopes_claim, ())
        values = named.split() if isinstance(named, str) else named if isinstance(named, list) else ()
        scopes = (self._settings.scopes.get(value, ()) for value in values if isinstance(value, str))
        name = f"jwt:{self._logged(claims['sub'])}"
        return VerifiedToken(
            caller=Caller(name=name, tenant=tenant),
            scopes=frozenset(scope for some in scopes for scope in some),
            until=float(claims["exp"]) + self._settings.leeway_s,
            keys=keys,
        )

    def _claims(self, token: str) -> dict[str, Any]:
        """Claims of a token whose signature, times, audience and issuer are right; HTTPError 401 says what is not."""
        try:
            header = jwt.get_unverified_header(token)
            if "crit" in header:  # extensions that a verifier must understand, of which this one knows none
                raise jwt.DecodeError
            if header.get("alg") not in self._settings.algorithms:
                raise jwt.InvalidAlgorithmError
            if (key := self._signing_keys.find(header.get("kid"))) is None:
                raise HTTPError(401, UNKNOWN_KEY)
            return jwt.decode(
                token,
                key.key,
                algorithms=key.algorithms,
                audience=self._settings.audience,
                issuer=self._settings.issuer,
                leeway=self._settings.leeway_s,
                options={"require": list(REQUIRED), "enforce_minimum_key_length": True},
            )
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            sentences = [text for kind, text in REFUSED.items() if isinstance(error, kind)]
            raise HTTPError(401, sentences[0] if sentences else UNREADABLE) from None

    def _tenant(self, claims: Mapping[str, Any]) -> str | None:
        """Tenant of a token; HTTPError 403 where it should have one: without, it would reach the users of no tenant."""
        if self._settings.tenant_claim is None:
            return None
        tenant = claims.get(self._settings.tenant_claim)
        if not isinstance(tenant, str) or not TENANT.fullmatch(tenant):
            raise HTTPError(
                403, f"the claim {self._settings.tenant_claim!r} of this token names no tenant; get one that does"
            )
        return tenant

    def _bucket(self, caller: Caller) -> TokenBucket:
        bucket = self._buckets.get(caller)
        if bucket is None:
            bucket = TokenBucket(rate=self._settings.rate, burst=self._settings.burst, clock=self._clock)
        _keep(self._buckets, caller, bucket)
        return bucket


def _keep(kept: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    """Put an entry at the end, and drop those at the front beyond the limit."""
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > MAX_VERIFIED:
        kept.popitem(last=False)
