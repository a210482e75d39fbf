"""Settings of tokens (JWT) that an OpenID Connect provider issues, a YAML file:

issuer: https://login.example.com/
audience: recsys
jwks: https://login.example.com/.well-known/jwks.json
scopes: {recs.read: [recommend], recs.write: [events]}
tenant_claim: org
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from recsys import strict_yaml
from recsys.errors import ConfigError, QueryError, check_ranges
from recsys.schema import schema_of
from serving.gateway.api_keys import SCOPES

FAMILIES: Mapping[str, str] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), "RSA"),
    **dict.fromkeys(("ES256", "ES384", "ES512"), "EC"),
    "EdDSA": "OKP",
}
"""algorithm -> key type: signatures by a private key; none has a secret that the verifier holds too"""
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtSettings:
    """Accepted tokens. ConfigError names the key with an unusable value."""

    issuer: str
    """claim `iss`, exactly"""
    audience: str
    """claim `aud`, or one of its values"""
    jwks: str
    """public keys of the issuer (JWKS): an https URL, or a file, relative to that of the settings"""
    scopes: Mapping[str, tuple[str, ...]]
    """value of the scopes claim -> scopes of routes"""
    scopes_claim: str = "scope"
    """claim with a list of values, or with values between blanks"""
    tenant_claim: str | None = None
    """claim with the tenant, which every token must have then; None: tokens have none"""
    algorithms: tuple[str, ...] = ("RS256", "ES256")
    """accepted signatures"""
    rate: float = 20.0
    """sustained requests a second of each subject"""
    burst: int = 40
    """burst of requests of each subject"""
    leeway_s: float = 30.0
    """difference of clocks that is allowed"""
    refresh_s: float = 300.0
    """between two fetches of the keys at a URL"""

    def __post_init__(self) -> None:
        self._check_texts()
        self._check_scopes()
        if not self.algorithms or not set(self.algorithms) <= FAMILIES.keys():
            raise ConfigError(f"jwt.algorithms is {list(self.algorithms)}; choose of {', '.join(FAMILIES)}")
        check_ranges(
            "jwt",
            rate=(self.rate, 1e-3, 1e6),
            burst=(self.burst, 1, 1_000_000),
            leeway_s=(self.leeway_s, 0.0, 600.0),
            refresh_s=(self.refresh_s, 1.0, 86_400.0),
        )

    @staticmethod
    def from_file(path: Path) -> "JwtSettings":
        """Read the settings; ConfigError names the file and the key."""
        try:
            document = strict_yaml.load(path.read_text(encoding="utf-8"))
            settings: JwtSettings = schema_of(JwtSettings).parse("", document)
        except (OSError, UnicodeDecodeError, yaml.YAMLError, QueryError) as error:
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            raise ConfigError(f"{path} has no settings of tokens: {reason}") from None
        return settings if settings.url else replace(settings, jwks=str(path.parent / settings.jwks))

    @property
    def url(self) -> str | None:
        """URL of the keys, None for a file."""
        return self.jwks if "://" in self.jwks else None

    def _check_texts(self) -> None:
        for name in ("issuer", "audience", "jwks", "scopes_claim"):
            if not getattr(self, name).strip():
                raise ConfigError(f"jwt.{name} is empty; give it")
        if self.url is not None:
            url = urlsplit(self.url)
            if url.scheme != "https" and not (url.scheme == "http" and url.hostname in LOOPBACK):
                raise ConfigError(f"jwt.jwks is {self.jwks!r}; give an https URL, or a file: keys must come unaltered")

    def _check_scopes(self) -> None:
        named = {scope for scopes in self.scopes.values() for scope in scopes}
        if not named or not named <= set(SCOPES):
            raise ConfigError(f"jwt.scopes gives {sorted(named)}; give values of the claim any of {', '.join(SCOPES)}")
        if self.tenant_claim is not None and "admin" in named:
            raise ConfigError(
                "jwt.scopes gives admin, which changes items of all tenants, and jwt.tenant_claim gives every token a "
                "tenant; leave out one of them"
            )
