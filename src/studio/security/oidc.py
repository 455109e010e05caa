"""Access tokens of an OpenID provider: which ones hold, and whose they are. No I/O.

Sources: RFC 7515 to 7519 (JOSE, JWT), RFC 8725 (best current practice), RFC 9068 (access tokens).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from studio.errors import Forbidden, InsufficientScope, Unauthenticated
from studio.models import AGENT_ID, Effect, Principal, Role
from studio.security import policy
from studio.settings import Settings

MAX_TOKEN = 16_384
"""Characters; providers that put 200 groups into a token stay below."""
LEEWAY_S = 30
"""How far the issuer's clock and ours may differ."""
_ALGORITHMS = {"RSA": "RS256", "EC": "ES256"}
_REFUSED_HEADERS = frozenset({"jku", "jwk", "x5u", "x5c", "crit", "b64", "zip", "enc"})
"""A token that brings its own key, or that asks for processing that is not done here."""
_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
_MAX_SUBJECT = 120
BAD_TOKEN = "the token does not hold: it is malformed, not signed by this service's issuer, or not an access token"  # noqa: S105
_BROKEN = (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError)


@dataclass(frozen=True)
class Rules:
    """What a token must say, and which of its claims say who asks. See `Settings` for the fields."""

    issuer: str
    audiences: frozenset[str]
    organization: str | None
    organization_claim: str
    role_claim: str
    roles: Mapping[str, Role]
    agent_claim: str | None
    scope_prefix: str | None

    @classmethod
    def of(cls, settings: Settings) -> Rules:
        """The rules of the settings, which name an issuer."""
        assert settings.oidc_issuer is not None
        return cls(
            issuer=settings.oidc_issuer,
            audiences=frozenset(spelling for name in settings.oidc_audience for spelling in _spellings(name)),
            organization=settings.oidc_organization,
            organization_claim=settings.oidc_organization_claim,
            role_claim=settings.oidc_role_claim,
            roles={name: Role(role) for name, role in settings.oidc_role_map.items()} or {role: role for role in Role},
            agent_claim=settings.oidc_agent_claim,
            scope_prefix=settings.oidc_scope_prefix,
        )


def _spellings(audience: str) -> set[str]:
    """A URL of this service names the same service with and without `/mcp`; any other name is taken as it is."""
    if urlsplit(audience).scheme not in {"http", "https"}:
        return {audience}
    base = audience.rstrip("/").removesuffix("/mcp")
    return {audience, base, f"{base}/", f"{base}/mcp"}


# -- keys ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Key:
    """A public key of the issuer, and the one algorithm that it is used with."""

    kid: str | None
    algorithm: str
    public: RSAPublicKey | EllipticCurvePublicKey


def keys_of(document: Any) -> list[Key]:
    """The usable keys of a JWK set (RFC 7517); others are passed over. Raises ValueError: it is none."""
    found = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(found, list):
        raise ValueError("not a JWK set")
    return [key for entry in found[:100] if isinstance(entry, dict) and (key := _key(entry)) is not None]


def _key(entry: Mapping[str, Any]) -> Key | None:
    algorithm = _ALGORITHMS.get(str(entry.get("kty")))
    kid = entry.get("kid")
    if (
        algorithm is None
        or entry.get("alg") not in {None, algorithm}
        or entry.get("use") not in {None, "sig"}
        or not isinstance(kid, str | None)
    ):
        return None
    try:
        public = jwt.PyJWK(dict(entry), algorithm).key
    except _BROKEN:
        return None
    # A private key is neither: what somebody published by mistake signs nothing here.
    if isinstance(public, RSAPublicKey) and 2048 <= public.key_size <= 8192:
        return Key(kid, algorithm, public)
    if isinstance(public, EllipticCurvePublicKey) and isinstance(public.curve, SECP256R1):
        return Key(kid, algorithm, public)
    return None


def key_named(keys: Iterable[Key], kid: str | None, algorithm: str) -> Key | None:
    """The key that a header names; without a `kid` the only one of its algorithm."""
    fitting = [key for key in keys if key.algorithm == algorithm and kid in {None, key.kid}]
    return fitting[0] if len(fitting) == 1 or (fitting and kid is not None) else None


# -- tokens -------------------------------------------------------------------------------------


def read_header(token: str) -> tuple[str | None, str]:
    """`kid` and `alg` of a token whose signature nobody has checked yet. Raises Unauthenticated."""
    if len(token) > MAX_TOKEN or token.count(".") != 2 or not token.isascii():
        raise Unauthenticated(BAD_TOKEN)
    try:
        header = jwt.get_unverified_header(token)
    except _BROKEN as exc:
        raise Unauthenticated(BAD_TOKEN) from exc
    algorithm, kind = str(header.get("alg")), header.get("typ", "JWT")
    if (
        algorithm not in _ALGORITHMS.values()
        or not isinstance(kind, str)
        or kind.lower() not in _TYPES
        or _REFUSED_HEADERS & set(header)
    ):
        raise Unauthenticated(BAD_TOKEN)
    kid: str | None = header.get("kid")  # a text, or jwt would have refused it
    return kid, algorithm


def verify(token: str, key: Key, rules: Rules) -> dict[str, Any]:
    """The claims of a token that this key signed, for us, and not too long ago.

    Raises:
        Unauthenticated: of a token whose signature holds it says what is wrong; of others nothing.
    """
    try:
        return jwt.decode(
            token,
            key=key.public,
            algorithms=[key.algorithm],
            audience=sorted(rules.audiences),
            issuer=rules.issuer,
            leeway=LEEWAY_S,
            options={"require": ["iss", "sub", "aud", "exp"], "enforce_minimum_key_length": True},
        )
    except jwt.ExpiredSignatureError as exc:
        raise Unauthenticated("the token has expired; get a new one from the issuer") from exc
    except jwt.ImmatureSignatureError as exc:
        raise Unauthenticated("the token is not valid yet; compare the issuer's clock with this machine's") from exc
    except jwt.InvalidAudienceError as exc:
        raise Unauthenticated("the token is for another audience than STUDIO_OIDC_AUDIENCE") from exc
    except jwt.InvalidIssuerError as exc:
        raise Unauthenticated("the token names another issuer than STUDIO_OIDC_ISSUER, spelled exactly") from exc
    except jwt.MissingRequiredClaimError as exc:
        raise Unauthenticated(f"the token lacks the claim {exc.claim}") from exc
    except _BROKEN as exc:
        raise Unauthenticated(BAD_TOKEN) from exc


def parse_object(content: bytes) -> dict[str, Any]:
    """A JSON object. Raises ValueError."""
    try:
        found = json.loads(content)
    except RecursionError as exc:
        raise ValueError("nested too deeply") from exc
    if not isinstance(found, dict):
        raise ValueError("not an object")
    return found


# -- claims -------------------------------------------------------------------------------------


def principal_of(claims: Mapping[str, Any], rules: Rules) -> Principal:
    """Who the bearer of a verified token is.

    Raises:
        Forbidden: the token is the issuer's, but its claims name no organization, role or agent here.
        InsufficientScope: it has none of the scopes that count here.
    """
    subject = str(claims["sub"])
    if not subject.isprintable() or not 0 < len(subject) <= _MAX_SUBJECT:
        raise Forbidden(f"the token's sub must be 1 to {_MAX_SUBJECT} printable characters")
    organization = rules.organization or _identifier(claims, rules.organization_claim)
    effects = _effects(claims, rules.scope_prefix)
    agent_id = None
    if rules.agent_claim is not None and _claim(claims, rules.agent_claim) is not None:
        agent_id = _identifier(claims, rules.agent_claim)
    return Principal(
        organization_id=organization,
        subject=f"oidc:{subject}",
        role=Role.MEMBER if agent_id is not None else _role(claims, rules, effects),
        agent_id=agent_id,
        effects=effects,
        scope_prefix=rules.scope_prefix,
    )


def _claim(claims: Mapping[str, Any], path: str) -> Any:
    """A claim by its whole name, which may be a URL with dots, else by its path."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _texts(claims: Mapping[str, Any], path: str) -> list[str]:
    """The values of a claim that is one text or a list of them; scopes stand in one text (RFC 6749)."""
    value = _claim(claims, path)
    if isinstance(value, str):
        return value.split() if path in {"scope", "scp"} else [value]
    return [entry for entry in value if isinstance(entry, str)] if isinstance(value, list) else []


def _identifier(claims: Mapping[str, Any], path: str) -> str:
    found = _texts(claims, path)
    if len(found) != 1 or not AGENT_ID.fullmatch(found[0]):
        raise Forbidden(f"the token's claim {path} must name one id of 1 to 128 letters, digits and _ . : -")
    return found[0]


def _role(claims: Mapping[str, Any], rules: Rules, effects: frozenset[Effect] | None) -> Role:
    """The highest role that the claim gives; the admin's also wants the scope of that name, where scopes count."""
    found = [rules.roles[name] for name in _texts(claims, rules.role_claim) if name in rules.roles]
    if not found:
        raise Forbidden(f"the token's claim {rules.role_claim} gives no role here (see STUDIO_OIDC_ROLE_MAP)")
    role = max(found, key=list(Role).index)
    return Role.DEVELOPER if role is Role.ADMIN and effects is not None and Effect.ADMIN not in effects else role


def _effects(claims: Mapping[str, Any], prefix: str | None) -> frozenset[Effect] | None:
    """What the scopes allow; None where scopes do not count."""
    if prefix is None:
        return None
    granted = {*_texts(claims, "scope"), *_texts(claims, "scp")}
    effects = frozenset(effect for effect in Effect if f"{prefix}{effect}" in granted)
    if not effects:
        scope = policy.scopes(prefix, {Effect.READ})
        raise InsufficientScope(f"the token has no scope of this service; ask the issuer for {scope}", scope=scope)
    return effects
