"""The issuer's keys: fetched once, kept, changed, withdrawn, and not to be had."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import jwt
import pytest
from tests.upstreams.issuer import AUDIENCE, FakeIssuer, issuing, jwk, private_key

from studio.errors import EgressDenied, Forbidden, StudioError, Unauthenticated, Unreachable
from studio.models import Role
from studio.security import oidc
from studio.security.egress import Egress
from studio.security.oidc import Rules
from studio.services import issuer as module
from studio.services.connector_service import ConnectorService
from studio.services.issuer import FRESH_S, PAUSE_S, STALE_S, Issuer
from studio.settings import Settings

DISCOVERY, JWKS = "/.well-known/openid-configuration", "/jwks"


class Clock:
    """A monotonic and a wall clock that tests turn."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def monotonic(self) -> float:
        return 1000 + self.ahead

    def wall(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
async def fake() -> AsyncIterator[FakeIssuer]:
    async with issuing() as found:
        yield found


@pytest.fixture
def clock() -> Clock:
    return Clock()


def rules(fake: FakeIssuer, **more: Any) -> Rules:
    return Rules.of(Settings(oidc_issuer=fake.url, oidc_audience=(AUDIENCE,), **more))


@pytest.fixture
async def issuer(fake: FakeIssuer, clock: Clock) -> AsyncIterator[Issuer]:
    egress = Egress(private_open=True)
    found = Issuer(rules(fake), egress, clock=clock.monotonic, wall=clock.wall)
    yield found
    await found.close()
    egress.close()


async def settled(issuer: Issuer) -> None:
    """Until the fetch in the background has ended."""
    if issuer._fetching is not None:
        await asyncio.wait([issuer._fetching])
        await asyncio.sleep(0)


# -- keeping keys -------------------------------------------------------------------------------


async def test_nothing_is_asked_before_the_first_token_and_once_after_it(fake: FakeIssuer, issuer: Issuer) -> None:
    assert not fake.asked
    for number in range(20):
        assert (await issuer.identify(fake.token(sub=f"s{number}"))).subject == f"oidc:s{number}"
        await issuer.identify(fake.token(key="ec-1"))
    assert fake.asked == {DISCOVERY: 1, JWKS: 1}


async def test_all_who_wait_share_one_fetch_and_one_who_leaves_takes_nothing_away(
    fake: FakeIssuer, issuer: Issuer
) -> None:
    fake.delay_s = 0.1
    waiting = [asyncio.create_task(issuer.identify(fake.token(sub=f"s{number}"))) for number in range(50)]
    await asyncio.sleep(0.05)
    waiting[0].cancel()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert all(not isinstance(entry, BaseException) for entry in found[1:])
    assert fake.asked == {DISCOVERY: 1, JWKS: 1}


async def test_a_new_key_is_fetched_when_its_first_token_comes_by_one_request_for_all(
    fake: FakeIssuer, issuer: Issuer, clock: Clock
) -> None:
    await issuer.identify(fake.token())
    fake.keys.append(jwk("rsa-2"))
    clock.ahead += PAUSE_S
    await asyncio.gather(*(issuer.identify(fake.token(key="rsa-2", sub=f"s{number}")) for number in range(50)))
    assert fake.asked[JWKS] == 2


async def test_invented_key_ids_make_nobody_ask_more_often_than_the_pause_allows(
    fake: FakeIssuer, issuer: Issuer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await issuer.identify(fake.token())

    async def flood() -> None:
        for number in range(50):
            with pytest.raises(Unauthenticated):
                await issuer.identify(fake.token(headers={"kid": f"invented-{number}"}))

    await flood()
    assert fake.asked[JWKS] == 1
    for times in (2, 3):
        clock.ahead += PAUSE_S
        await flood()
        assert fake.asked[JWKS] == times
    monkeypatch.setattr(module, "PAUSE_S", 0.0)  # the negative control
    await flood()
    assert fake.asked[JWKS] == 53


async def test_a_withdrawn_key_stops_what_it_signed_although_it_was_known(
    fake: FakeIssuer, issuer: Issuer, clock: Clock
) -> None:
    token = fake.token(exp=int(time.time()) + 86_400)
    await issuer.identify(token)
    fake.keys = [jwk("ec-1")]
    await issuer.identify(token)  # the old set still serves
    clock.ahead += FRESH_S
    await issuer.identify(token)  # and while the new one is fetched
    await settled(issuer)
    with pytest.raises(Unauthenticated):
        await issuer.identify(token)
    await issuer.identify(fake.token(key="ec-1"))


async def test_without_forgetting_a_withdrawn_keys_token_would_go_on(
    fake: FakeIssuer, issuer: Issuer, clock: Clock
) -> None:
    """The negative control of the test above."""
    token = fake.token(exp=int(time.time()) + 86_400)
    await issuer.identify(token)
    fake.keys = [jwk("ec-1")]
    kept = dict(issuer._known)
    clock.ahead += FRESH_S
    await issuer.identify(token)
    await settled(issuer)
    issuer._known = kept
    await issuer.identify(token)


# -- knowing tokens -----------------------------------------------------------------------------


async def test_a_known_token_is_not_verified_again_until_it_expires(
    fake: FakeIssuer, issuer: Issuer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = fake.token(exp=int(time.time()) + 200)
    verified = []
    real = oidc.verify
    monkeypatch.setattr(oidc, "verify", lambda *given: verified.append(1) or real(*given))
    for _ in range(100):
        await issuer.identify(token)
    assert len(verified) == 1
    clock.ahead += 250
    await issuer.identify(token)  # real time has not passed: verified anew, and it holds
    assert len(verified) == 2


async def test_a_token_that_was_known_is_refused_when_it_has_expired(fake: FakeIssuer, issuer: Issuer) -> None:
    token = fake.token(exp=int(time.time()) - oidc.LEEWAY_S + 1)
    await issuer.identify(token)
    await asyncio.sleep(1.1)
    with pytest.raises(Unauthenticated, match="expired"):
        await issuer.identify(token)


async def test_known_tokens_do_not_grow_without_bound(
    fake: FakeIssuer, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_CACHED", 10)
    for number in range(30):
        await issuer.identify(fake.token(key="ec-1", sub=f"s{number}"))
    assert len(issuer._known) == 10
    await issuer.identify(fake.token(sub="s0"))


async def test_refused_tokens_are_not_kept(fake: FakeIssuer, issuer: Issuer) -> None:
    for token in (fake.token(aud="urn:other"), fake.token(role=None), fake.token(headers={"kid": "x"}), "a.b.c"):
        with pytest.raises(StudioError):
            await issuer.identify(token)
    assert not issuer._known


async def test_a_known_token_costs_microseconds(fake: FakeIssuer, issuer: Issuer, record_property: Any) -> None:
    """Measured 1 µs; the bound is for a busy machine."""
    token = fake.token()
    await issuer.identify(token)
    best = 1.0
    for _ in range(20):
        start = time.perf_counter()
        for _ in range(100):
            await issuer.identify(token)
        best = min(best, (time.perf_counter() - start) / 100)
    record_property("seconds", best)
    assert best < 100e-6


# -- an issuer that does not answer as it should ------------------------------------------------

HUGE = json.dumps({"keys": [jwk("rsa-1")]}).encode() + b" " * 300_000
BROKEN: dict[str, dict[str, tuple[int, bytes, dict[str, str]]]] = {
    "discovery is not there": {DISCOVERY: (404, b"{}", {})},
    "discovery is no JSON": {DISCOVERY: (200, b"<html>", {})},
    "discovery is a list": {DISCOVERY: (200, b"[]", {})},
    "discovery is deep": {DISCOVERY: (200, b"[" * 100_000, {})},
    "keys are not there": {JWKS: (500, b"h1dd3n", {})},
    "keys are no JSON": {JWKS: (200, b"h1dd3n", {})},
    "keys are no set": {JWKS: (200, b"{}", {})},
    "keys are too many": {JWKS: (200, HUGE, {})},
    "keys redirect": {JWKS: (302, b"", {"location": "/other"})},
    "discovery redirects": {DISCOVERY: (301, b"", {"location": "/other"})},
}


@pytest.mark.parametrize("what", BROKEN)
async def test_an_issuer_that_does_not_answer_lets_nobody_in_and_says_nothing_of_itself(
    fake: FakeIssuer, issuer: Issuer, clock: Clock, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    fake.answers = BROKEN[what]
    with pytest.raises(Unreachable) as caught:
        await issuer.identify(fake.token())
    assert "h1dd3n" not in caught.value.message
    assert fake.url not in caught.value.message
    assert fake.asked["/other"] == 0
    assert any("keys were not fetched" in record.message for record in caplog.records)
    asked = sum(fake.asked.values())
    with pytest.raises(Unreachable):
        await issuer.identify(fake.token())
    assert sum(fake.asked.values()) == asked, "a broken issuer is not asked again at once"
    fake.answers = {}
    clock.ahead += PAUSE_S
    await issuer.identify(fake.token())


@pytest.mark.parametrize(
    "document",
    [
        {"issuer": "https://evil.example", "jwks_uri": "{url}/jwks"},
        {"issuer": "{url}/", "jwks_uri": "{url}/jwks"},
        {"jwks_uri": "{url}/jwks"},
        {"issuer": "{url}", "jwks_uri": "http://keys.example/jwks"},
        {"issuer": "{url}", "jwks_uri": "file:///etc/passwd"},
        {"issuer": "{url}", "jwks_uri": "https://user:pw@keys.example/jwks"},
        {"issuer": "{url}", "jwks_uri": 5},
        {"issuer": "{url}"},
    ],
)
async def test_a_discovery_document_that_leads_elsewhere_is_refused(
    fake: FakeIssuer, issuer: Issuer, document: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    fake.answers[DISCOVERY] = (200, json.dumps(document).replace("{url}", fake.url).encode(), {})
    with pytest.raises(Unreachable):
        await issuer.identify(fake.token())
    assert fake.asked[JWKS] == 0
    assert any(said in caplog.text for said in ("calls itself by another name", "jwks_uri is not an https URL"))


async def test_old_keys_serve_while_the_issuer_is_down_but_not_for_ever(
    fake: FakeIssuer, issuer: Issuer, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    await issuer.identify(fake.token())
    fake.answers = {DISCOVERY: (503, b"", {})}
    for _ in range(3):
        clock.ahead += FRESH_S
        await issuer.identify(fake.token(exp=int(time.time()) + 86_400))
        await settled(issuer)
    clock.ahead += STALE_S
    with pytest.raises(Unreachable, match="API keys still work"):
        await issuer.identify(fake.token(exp=int(time.time()) + 86_400))
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


async def test_a_slow_issuer_ends_with_the_deadline(
    fake: FakeIssuer, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LIMITS", module._LIMITS.model_copy(update={"timeout_s": 0.1}))
    fake.delay_s = 5
    start = time.monotonic()
    with pytest.raises(Unreachable):
        await issuer.identify(fake.token())
    assert time.monotonic() - start < 2


async def test_closing_ends_a_fetch_under_way(fake: FakeIssuer, issuer: Issuer) -> None:
    fake.delay_s = 5
    waiting = asyncio.create_task(issuer.identify(fake.token()))
    await asyncio.sleep(0.1)
    await issuer.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting


# -- the gate -----------------------------------------------------------------------------------


async def test_the_issuers_address_passes_the_gate_for_an_operators_own_setting(fake: FakeIssuer) -> None:
    """Private ranges are open to it; what is closed to everybody stays closed."""
    closed = Egress(private_open=False)
    opened = closed.for_operator()
    with pytest.raises(EgressDenied):
        closed.permit("127.0.0.1", 80)
    opened.permit("127.0.0.1", 80)
    opened.permit("10.0.0.1", 443)
    for address in ("169.254.169.254", "168.63.129.16", "fe80::1", "0.0.0.0"):
        with pytest.raises(EgressDenied):
            opened.permit(address, 80)
    port = int(fake.url.rsplit(":", 1)[1])
    assert (await Issuer(rules(fake), opened).identify(fake.token())).organization_id == "acme"
    asked = sum(fake.asked.values())
    for gate in (closed, Egress(private_open=True, deny=["127.0.0.0/8"]).for_operator()):
        with pytest.raises(Unreachable):
            await Issuer(rules(fake), gate).identify(fake.token())
    closed.reserve("127.0.0.1", port)  # the service's own listener, reserved after the copy was made
    with pytest.raises(Unreachable):
        await Issuer(rules(fake), opened).identify(fake.token())
    assert sum(fake.asked.values()) == asked, "refused before a connection"
    closed.close()


# -- the service --------------------------------------------------------------------------------


async def test_the_service_takes_keys_and_tokens_side_by_side(fake: FakeIssuer, settings: Settings) -> None:
    given = settings.model_copy(update={"oidc_issuer": fake.url, "oidc_audience": (AUDIENCE,)})
    async with ConnectorService(given) as service:
        key = (await service.create_key({"organization_id": "acme", "role": "member"}))["key"]
        assert (await service.authenticate(key)).principal.role is Role.MEMBER
        assert not fake.asked, "a key is nobody else's business"
        by_token = await service.authenticate(fake.token())
        assert (by_token.principal.organization_id, by_token.principal.subject) == ("acme", "oidc:someone")
        made = await by_token.create_key({"role": "member"})
        assert made["created_by"] == "oidc:someone"
        for bad in (None, "", "x", key[:-1], f"{key}.a.b", fake.token(aud="urn:other")):
            with pytest.raises(Unauthenticated):
                await service.authenticate(bad)
        with pytest.raises(Forbidden):
            await service.authenticate(fake.token(role=None))


async def test_an_issuer_may_be_private_where_connectors_may_not(fake: FakeIssuer, settings: Settings) -> None:
    given = {"oidc_issuer": fake.url, "oidc_audience": (AUDIENCE,), "host": "0.0.0.0"}
    async with ConnectorService(settings.model_copy(update=given)) as service:
        core = await service._home.core()
        with pytest.raises(EgressDenied):
            core.egress.permit("127.0.0.1", 80)
        assert (await service.authenticate(fake.token())).principal.organization_id == "acme"


async def test_without_an_issuer_a_token_is_just_a_wrong_key(fake: FakeIssuer, settings: Settings) -> None:
    async with ConnectorService(settings) as service:
        with pytest.raises(Unauthenticated, match="API key"):
            await service.authenticate(fake.token())
    assert not fake.asked


async def test_an_issuer_that_is_down_stops_neither_the_start_nor_the_keys(settings: Settings) -> None:
    given = settings.model_copy(update={"oidc_issuer": "http://127.0.0.1:1", "oidc_audience": (AUDIENCE,)})
    stranger = FakeIssuer()
    stranger.url = "http://127.0.0.1:1"
    async with ConnectorService(given) as service:
        key = (await service.create_key({"organization_id": "acme", "role": "member"}))["key"]
        with pytest.raises(Unreachable):
            await service.authenticate(stranger.token())
        await service.authenticate(key)


async def test_the_keys_of_one_issuer_do_not_serve_another(fake: FakeIssuer, issuer: Issuer) -> None:
    async with issuing() as other:
        with pytest.raises(Unauthenticated, match="another issuer"):
            await issuer.identify(other.token())
        foreign = Issuer(replace(rules(fake), issuer=other.url), issuer._network)
        with pytest.raises(Unauthenticated):
            await foreign.identify(jwt.encode(fake.claims(), private_key("rsa-9"), "RS256", {"kid": "rsa-9"}))
