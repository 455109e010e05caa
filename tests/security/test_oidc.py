"""Tokens: which ones hold, and whose they are. Each refusal has a twin that is taken."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from dataclasses import dataclass, replace
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.upstreams.issuer import AUDIENCE, FakeIssuer, jwk, private_key

from studio.errors import Forbidden, InsufficientScope, Unauthenticated
from studio.models import Effect, Principal, Role
from studio.security import oidc
from studio.security.oidc import Rules
from studio.settings import Settings

ISSUER = FakeIssuer()
ISSUER.url = "https://issuer.example"
RULES = Rules.of(Settings(oidc_issuer=ISSUER.url, oidc_audience=(AUDIENCE,)))
KEYS = oidc.keys_of({"keys": [jwk("rsa-1"), jwk("ec-1")]})


def holder(token: str, rules: Rules = RULES, keys: list[oidc.Key] = KEYS) -> Principal:
    """The whole way of a token, without the network."""
    key = oidc.key_named(keys, *oidc.read_header(token))
    if key is None:
        raise Unauthenticated(oidc.BAD_TOKEN)
    return oidc.principal_of(oidc.verify(token, key, rules), rules)


def part(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def forged(header: dict[str, Any], signature: bytes = b"", **claims: Any) -> str:
    return f"{part(header)}.{part(ISSUER.claims(**claims))}.{part(signature)}"


def hs256(secret: bytes, **header: Any) -> str:
    """A token signed with a shared secret, which an attacker takes from what is public."""
    said = f"{part({'alg': 'HS256', **header})}.{part(ISSUER.claims())}"
    return f"{said}.{part(hmac.digest(secret, said.encode(), hashlib.sha256))}"


def public_pem(name: str) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    found: bytes = private_key(name).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return found


# -- signatures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["rsa-1", "ec-1"])
@pytest.mark.parametrize("kind", [{}, {"typ": "at+jwt"}, {"typ": "application/AT+JWT"}])
def test_a_token_of_the_issuer_tells_whose_it_is(key: str, kind: dict[str, str]) -> None:
    assert holder(ISSUER.token(key=key, headers=kind)) == Principal("acme", "oidc:someone", Role.ADMIN)


BAD_HEADERS: dict[str, dict[str, Any]] = {
    "jku": {"jku": "https://evil.example/jwks"},
    "x5u": {"x5u": "https://evil.example/cert"},
    "jwk": {"jwk": jwk("rsa-evil")},
    "x5c": {"x5c": ["AAAA"]},
    "crit": {"crit": ["exp"], "exp": 1},
    "crit b64": {"crit": ["b64"], "b64": True},
    "zip": {"zip": "DEF"},
    "an ID token's cousin": {"typ": "logout+jwt"},
    "a proof": {"typ": "dpop+jwt"},
    "typ is no text": {"typ": 5},
    "kid is no text": {"kid": 5},
}


@pytest.mark.parametrize("what", BAD_HEADERS)
def test_a_header_that_brings_a_key_or_asks_for_more_is_refused(what: str) -> None:
    """Although the issuer's own key signed it."""
    headers = {"typ": "JWT", "alg": "RS256", "kid": "rsa-1", **BAD_HEADERS[what]}
    said = f"{part(headers)}.{part(ISSUER.claims())}"
    signature = jwt.algorithms.RSAAlgorithm(jwt.algorithms.RSAAlgorithm.SHA256).sign(
        said.encode(), private_key("rsa-1")
    )
    with pytest.raises(Unauthenticated, match="does not hold"):
        holder(f"{said}.{part(signature)}")


def other_signature() -> str:
    ours, theirs = ISSUER.token().rsplit(".", 1), ISSUER.token(sub="another").rsplit(".", 1)
    return f"{ours[0]}.{theirs[1]}"


TWICE = b'{"alg": "none", "kid": "rsa-1", "alg": "RS256"}'
FORGED = {
    "no signature": lambda: forged({"alg": "none"}),
    "none with a kid": lambda: forged({"alg": "none", "kid": "rsa-1"}),
    "None": lambda: forged({"alg": "None", "kid": "rsa-1"}),
    "an empty signature": lambda: forged({"alg": "RS256", "kid": "rsa-1"}),
    "no algorithm": lambda: forged({"kid": "rsa-1"}),
    "an algorithm that is a list": lambda: forged({"alg": ["RS256"], "kid": "rsa-1"}),
    "HS256 under the public key": lambda: hs256(public_pem("rsa-1"), kid="rsa-1"),
    "HS256 under the empty secret": lambda: hs256(b"", kid="rsa-1"),
    "HS256 under the modulus": lambda: hs256(jwk("rsa-1")["n"].encode(), kid="rsa-1"),
    "another key under a known kid": lambda: ISSUER.token(key="rsa-evil", headers={"kid": "rsa-1"}),
    "another EC key under a known kid": lambda: ISSUER.token(key="ec-evil", headers={"kid": "ec-1"}),
    "an EC token under an RSA key's kid": lambda: ISSUER.token(key="ec-1", headers={"kid": "rsa-1"}),
    "an RSA token under an EC key's kid": lambda: ISSUER.token(headers={"kid": "ec-1"}),
    "an unknown kid": lambda: ISSUER.token(headers={"kid": "rsa-2"}),
    "a null ECDSA signature": lambda: forged({"alg": "ES256", "kid": "ec-1"}, b"\x00" * 64),
    "another token's signature": other_signature,
    "a longer signature": lambda: ISSUER.token() + "AAAA",
    "one segment": lambda: "x",
    "two segments": lambda: ".".join(ISSUER.token().split(".")[:2]),
    "five segments": lambda: ISSUER.token() + ".a.b",
    "a space": lambda: ISSUER.token() + " ",
    "a letter beyond ASCII": lambda: ISSUER.token() + "é",
    "half of a surrogate": lambda: ISSUER.token() + "\udc80",
    "a header that is no JSON": lambda: f"{part(b'{')}.{part({})}.AAAA",
    "a header that is a list": lambda: f"{part([])}.{part({})}.AAAA",
    "a header nested deeply": lambda: f"{part(b'[' * 9000)}.{part({})}.AAAA",
    "two of one name": lambda: part(TWICE) + f".{part(ISSUER.claims())}.",
}  # fmt: skip


@pytest.mark.parametrize("what", FORGED)
def test_a_token_that_the_issuer_did_not_sign_is_refused_with_one_message(what: str) -> None:
    with pytest.raises(Unauthenticated) as caught:
        holder(FORGED[what]())
    assert caught.value.message == oidc.BAD_TOKEN


@pytest.mark.parametrize(
    "algorithm", ["none", "HS256", "HS512", "RS384", "RS512", "PS256", "ES384", "EdDSA", "", "rs256"]
)
def test_no_other_algorithm_is_read(algorithm: str) -> None:
    """Each layer by itself: the header, the look-up of the key, and the library."""
    with pytest.raises(Unauthenticated):
        oidc.read_header(forged({"alg": algorithm, "kid": "rsa-1"}))
    assert oidc.key_named(KEYS, "rsa-1", algorithm) is None


@pytest.mark.parametrize("algorithm", ["RS384", "RS512", "PS256"])
def test_a_key_serves_one_algorithm_although_it_could_do_more(algorithm: str) -> None:
    token = jwt.encode(ISSUER.claims(), private_key("rsa-1"), algorithm, {"kid": "rsa-1"})
    with pytest.raises(Unauthenticated, match="does not hold"):
        oidc.verify(token, KEYS[0], RULES)
    assert jwt.decode(token, KEYS[0].public, [algorithm], audience=AUDIENCE)  # the negative control


def test_a_token_is_not_read_past_its_longest_form(monkeypatch: pytest.MonkeyPatch) -> None:
    fits, too_long = (ISSUER.token(groups="x" * size) for size in (10_000, 13_000))
    assert len(fits) < oidc.MAX_TOKEN < len(too_long)
    holder(fits)
    with pytest.raises(Unauthenticated):
        holder(too_long)
    monkeypatch.setattr(oidc, "MAX_TOKEN", 10**6)
    holder(too_long)  # the negative control


@given(st.text(max_size=300) | st.builds(".".join, st.lists(st.text(max_size=50), min_size=3, max_size=3)))
def test_no_text_breaks_the_reading_of_a_token(text: str) -> None:
    with pytest.raises(Unauthenticated):
        holder(text)


@given(st.integers(0, 10**6), st.sampled_from("ABab01-_."))
def test_no_changed_letter_is_let_through(place: int, letter: str) -> None:
    good = TOKEN
    place %= len(good)
    if good[place] == letter:
        return
    with pytest.raises(Unauthenticated):
        holder(good[:place] + letter + good[place + 1 :])


TOKEN = ISSUER.token(exp=int(time.time()) + 86_400)


# -- keys ---------------------------------------------------------------------------------------

PRIVATE = jwt.algorithms.RSAAlgorithm.to_jwk(private_key("rsa-1"), as_dict=True)


@pytest.mark.parametrize(
    "entry",
    [
        jwk("small"),
        jwk("p384"),
        jwk("rsa-1", use="enc"),
        jwk("rsa-1", alg="PS256"),
        jwk("rsa-1", alg="HS256"),
        jwk("rsa-1", kid=5),
        PRIVATE,
        jwk("rsa-1", n="%%"),
        jwk("rsa-1", n=None),
        jwk("ec-1", crv="P-521"),
        jwk("ec-1", x="AA"),
        {"kty": "oct", "k": "AAAA", "kid": "x"},
        {"kty": "oct", "k": "AAAA", "kid": "x", "alg": "RS256"},
        {"kty": "OKP", "crv": "Ed25519", "x": "AA"},
        {},
        "text",
    ],
)  # fmt: skip
def test_a_key_that_is_not_for_rs256_or_es256_is_passed_over(entry: Any) -> None:
    assert [key.kid for key in oidc.keys_of({"keys": [entry, jwk("ec-1")]})] == ["ec-1"]


@pytest.mark.parametrize("document", [None, [], {}, {"keys": {}}, {"keys": "x"}, "keys"])
def test_what_is_no_key_set_is_not_taken_for_an_empty_one(document: Any) -> None:
    with pytest.raises(ValueError, match="JWK set"):
        oidc.keys_of(document)


def test_without_a_kid_only_a_single_key_can_be_meant() -> None:
    nameless = jwt.encode(ISSUER.claims(), private_key("rsa-1"), "RS256")
    assert "kid" not in jwt.get_unverified_header(nameless)
    holder(nameless)
    with pytest.raises(Unauthenticated):
        holder(nameless, keys=oidc.keys_of({"keys": [jwk("rsa-1"), jwk("rsa-2")]}))


def test_two_keys_of_one_kid_are_told_apart_by_their_algorithm() -> None:
    both = oidc.keys_of({"keys": [jwk("rsa-1", kid="same"), jwk("ec-1", kid="same")]})
    for key in ("rsa-1", "ec-1"):
        holder(ISSUER.token(key=key, headers={"kid": "same"}), keys=both)


# -- what must be said --------------------------------------------------------------------------

LATE = 10**9 * 4


@dataclass(frozen=True)
class Now:
    """The time of the test, and these seconds."""

    plus: float


def at_once(changed: dict[str, Any]) -> dict[str, Any]:
    return {k: time.time() + v.plus if isinstance(v, Now) else v for k, v in changed.items()}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"exp": Now(-60)}, "expired"),
        ({"exp": None}, "lacks the claim exp"),
        ({"exp": "soon"}, "does not hold"),
        ({"exp": True}, "expired"),
        ({"nbf": Now(300)}, "not valid yet"),
        ({"iat": Now(300)}, "not valid yet"),
        ({"nbf": []}, "does not hold"),
        ({"iss": None}, "lacks the claim iss"),
        ({"iss": "https://issuer.example/"}, "another issuer"),
        ({"iss": "https://evil.example"}, "another issuer"),
        ({"iss": ["https://issuer.example"]}, "another issuer"),
        ({"aud": None}, "lacks the claim aud"),
        ({"aud": "urn:other"}, "another audience"),
        ({"aud": []}, "lacks the claim aud"),
        ({"aud": ["urn:other", "urn:studio2"]}, "another audience"),
        ({"aud": [AUDIENCE, 5]}, "another audience"),
        ({"aud": {AUDIENCE: 1}}, "another audience"),
        ({"aud": AUDIENCE.upper()}, "another audience"),
        ({"sub": None}, "lacks the claim sub"),
        ({"sub": 5}, "does not hold"),
    ],
)
def test_a_token_for_others_or_for_another_time_is_refused_with_the_reason(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(Unauthenticated, match=said):
        holder(ISSUER.token(**at_once(changed)))


@pytest.mark.parametrize(
    "changed",
    [
        {"exp": Now(-10)}, {"nbf": Now(10)}, {"iat": Now(10)}, {"exp": LATE}, {"exp": Now(60.5)}, {"iat": None},
        {"aud": ["urn:other", AUDIENCE]}, {"nbf": Now(-1000)},
    ],
)  # fmt: skip
def test_clocks_may_differ_by_half_a_minute(changed: dict[str, Any]) -> None:
    holder(ISSUER.token(**at_once(changed)))


@pytest.mark.parametrize(
    "audience", ["https://studio.example", "https://studio.example/", "https://studio.example/mcp"]
)
def test_an_audience_that_is_our_url_counts_with_and_without_the_mcp_path(audience: str) -> None:
    rules = Rules.of(Settings(oidc_issuer=ISSUER.url, oidc_audience=(audience,)))
    for spelled in ("", "/", "/mcp"):
        holder(ISSUER.token(aud=f"https://studio.example{spelled}"), rules)
    for other in ("https://studio.example/mcp/x", "https://studio.example.evil", "http://studio.example", AUDIENCE):
        with pytest.raises(Unauthenticated):
            holder(ISSUER.token(aud=other), rules)


# -- claims -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "claims", "expected"),
    [
        ({}, {"role": "member"}, ("acme", Role.MEMBER)),
        ({}, {"role": ["member", "developer", "other"]}, ("acme", Role.DEVELOPER)),
        ({}, {"organization": ["beta"]}, ("beta", Role.ADMIN)),
        ({"oidc_organization": "only"}, {"organization": None}, ("only", Role.ADMIN)),
        ({"oidc_organization": "only"}, {"organization": "other"}, ("only", Role.ADMIN)),
        ({"oidc_role_claim": "realm.roles"}, {"realm": {"roles": ["developer"]}}, ("acme", Role.DEVELOPER)),
        ({"oidc_role_claim": "https://a.example/role"}, {"https://a.example/role": "member"}, ("acme", Role.MEMBER)),
        ({"oidc_role_claim": "scope"}, {"scope": "openid developer"}, ("acme", Role.DEVELOPER)),
        ({"oidc_role_map": {"ops": "developer"}}, {"role": ["ops", "admin"]}, ("acme", Role.DEVELOPER)),
        ({"oidc_organization_claim": "tenant"}, {"tenant": "t-1"}, ("t-1", Role.ADMIN)),
    ],
)  # fmt: skip
def test_claims_name_organization_and_role(settings: dict[str, Any], claims: dict[str, Any], expected: Any) -> None:
    rules = Rules.of(Settings(oidc_issuer=ISSUER.url, oidc_audience=(AUDIENCE,), **settings))
    found = holder(ISSUER.token(**claims), rules)
    assert (found.organization_id, found.role) == expected


@pytest.mark.parametrize(
    ("settings", "claims", "said"),
    [
        ({}, {"role": None}, "gives no role"),
        ({}, {"role": "king"}, "gives no role"),
        ({}, {"role": "not admin"}, "gives no role"),
        ({}, {"role": {"admin": True}}, "gives no role"),
        ({}, {"role": 5}, "gives no role"),
        ({"oidc_role_map": {"ops": "developer"}}, {"role": "admin"}, "gives no role"),
        ({"oidc_role_claim": "role.name"}, {"role": "admin"}, "gives no role"),
        ({}, {"organization": None}, "claim organization"),
        ({}, {"organization": ""}, "claim organization"),
        ({}, {"organization": "a/b"}, "claim organization"),
        ({}, {"organization": "a\n"}, "claim organization"),
        ({}, {"organization": ["a", "b"]}, "claim organization"),
        ({}, {"organization": "a" * 129}, "claim organization"),
        ({}, {"organization": {"acme": {}}}, "claim organization"),
        ({"oidc_agent_claim": "agent"}, {"agent": ""}, "claim agent"),
        ({"oidc_agent_claim": "agent"}, {"agent": 5}, "claim agent"),
        ({}, {"sub": ""}, "sub must be"),
        ({}, {"sub": "a" * 121}, "sub must be"),
        ({}, {"sub": "a\nb"}, "sub must be"),
    ],
)
def test_a_token_that_gives_nothing_here_is_forbidden_with_the_reason(
    settings: dict[str, Any], claims: dict[str, Any], said: str
) -> None:
    rules = Rules.of(Settings(oidc_issuer=ISSUER.url, oidc_audience=(AUDIENCE,), **settings))
    with pytest.raises(Forbidden, match=said):
        holder(ISSUER.token(**claims), rules)


def test_an_agents_token_has_no_role_whatever_else_it_says() -> None:
    rules = replace(RULES, agent_claim="agent")
    found = holder(ISSUER.token(agent="agent-1", role="admin"), rules)
    assert (found.agent_id, found.role) == ("agent-1", Role.MEMBER)
    assert holder(ISSUER.token(agent="agent-1"), RULES).agent_id is None
    assert holder(ISSUER.token(), rules).role is Role.ADMIN


@pytest.mark.parametrize(
    ("scopes", "effects", "role"),
    [
        ({"scope": "openid studio:read"}, {Effect.READ}, Role.DEVELOPER),
        ({"scope": "studio:read studio:write"}, {Effect.READ, Effect.WRITE}, Role.DEVELOPER),
        ({"scp": ["studio:read", "studio:admin"]}, {Effect.READ, Effect.ADMIN}, Role.ADMIN),
        ({"scp": "studio:delete", "scope": "studio:read"}, {Effect.READ, Effect.DELETE}, Role.DEVELOPER),
    ],
)
def test_scopes_limit_effects_and_the_admins_role(scopes: dict[str, Any], effects: set[Effect], role: Role) -> None:
    found = holder(ISSUER.token(**scopes), replace(RULES, scope_prefix="studio:"))
    assert (found.effects, found.role, found.scope_prefix) == (effects, role, "studio:")
    assert holder(ISSUER.token(**scopes)).effects is None  # where scopes do not count


@pytest.mark.parametrize(
    "scopes", [{}, {"scope": "openid"}, {"scope": "studio:"}, {"scope": "read"}, {"scope": "Studio:read"}]
)
def test_a_token_without_any_scope_of_ours_is_told_which(scopes: dict[str, Any]) -> None:
    with pytest.raises(InsufficientScope) as caught:
        holder(ISSUER.token(**scopes), replace(RULES, scope_prefix="studio:"))
    assert caught.value.scope == "studio:read"


# -- settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        {"oidc_issuer": "http://issuer.example"},
        {"oidc_issuer": "http://127.0.0.1.evil.example"},
        {"oidc_issuer": "https://user@issuer.example"},
        {"oidc_issuer": "https://issuer.example?x=1"},
        {"oidc_issuer": "https://issuer.example#x"},
        {"oidc_issuer": "https://"},
        {"oidc_issuer": "ftp://issuer.example"},
        {"oidc_issuer": "issuer.example"},
        {"oidc_audience": ()},
        {"oidc_role_map": {"ops": "king"}},
        {"oidc_organization": "a/b"},
        {"oidc_scope_prefix": 'a"b'},
    ],
)
def test_settings_that_would_open_a_door_stop_the_start(given: dict[str, Any]) -> None:
    good = {"oidc_issuer": "https://issuer.example", "oidc_audience": (AUDIENCE,)}
    Settings(**good)
    with pytest.raises(ValueError, match=next(iter(given))):
        Settings(**{**good, **given})


@pytest.mark.parametrize(
    "issuer", ["http://127.0.0.1:1", "http://localhost:1/realms/a", "http://[::1]:1", "https://x.example/a/"]
)
def test_plain_http_is_for_this_machine_only(issuer: str) -> None:
    assert Settings(oidc_issuer=issuer, oidc_audience=("a",)).oidc_issuer == issuer


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "ISSUER": "https://issuer.example", "AUDIENCE": "https://a.example/mcp, urn:b", "ROLE_MAP": '{"ops": "admin"}',
        "ROLE_CLAIM": "groups", "ORGANIZATION": "", "SCOPE_PREFIX": "studio:", "AGENT_CLAIM": "",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"STUDIO_OIDC_{name}", value)
    rules = Rules.of(Settings())
    assert rules.roles == {"ops": Role.ADMIN}
    assert rules.audiences == {"urn:b", "https://a.example", "https://a.example/", "https://a.example/mcp"}
    assert (rules.organization, rules.agent_claim, rules.scope_prefix) == (None, None, "studio:")
