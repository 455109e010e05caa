"""OAuth 2.0 client credentials against a certified provider, and against servers that misbehave."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from tests.providers.rest_kit import api
from tests.upstreams.oidc import OidcProvider

from studio.errors import AuthFailed, EgressDenied, StudioError, Unreachable, UpstreamError
from studio.providers._http.oauth import TokenSource
from studio.testing.http import Received, reply, upstream


def rest_of(oidc: OidcProvider, **auth: Any) -> Any:
    config = oidc.config(**auth)
    return api(config.pop("base_url"), **config)


@pytest.mark.parametrize("client", ["basic", "post"])
async def test_both_ways_of_client_authentication_work_and_the_token_is_kept(oidc: OidcProvider, client: str) -> None:
    async with rest_of(oidc, client=client) as rest:
        for _ in range(5):
            assert (await rest.ask("GET /me"))["data"]["scope"] == "api:read"
    assert oidc.control() == {"token_requests": 1, "api_calls": 5, "refused": 0}


async def test_a_wrong_secret_is_auth_failed_and_stands_nowhere(
    oidc: OidcProvider, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for client in ("basic", "post"):
        async with rest_of(oidc, client=client, client_secret="wr0ng#canary @/:%") as rest:
            with pytest.raises(AuthFailed, match=r"token endpoint.*invalid_client") as caught:
                await rest.ask("GET /me")
            assert "canary" not in caught.value.message + caplog.text
    assert oidc.control()["api_calls"] == 0


async def test_a_scope_that_is_not_granted_is_auth_failed_and_named(oidc: OidcProvider) -> None:
    for scope, missing in (("api:read nope", "nope"), ("nope", "nope"), ("zz api:read aa", "aa zz")):
        async with rest_of(oidc, scope=scope) as rest:
            with pytest.raises(AuthFailed, match=f"scope {missing};"):
                await rest.ask("GET /me")
    async with rest_of(oidc, scope="api:write api:read") as rest:
        assert (await rest.ask("GET /me"))["success"]


async def test_fifty_callers_without_a_token_wait_for_one_request(oidc: OidcProvider) -> None:
    oidc.control(slow_ms=200)
    async with rest_of(oidc) as rest:
        answers = await asyncio.gather(*(rest.ask("GET /me") for _ in range(50)))
    assert len({answer["data"]["jti"] for answer in answers}) == 1
    assert oidc.control() == {"token_requests": 1, "api_calls": 50, "refused": 0}


async def test_a_revoked_token_is_replaced_once_for_everybody(oidc: OidcProvider) -> None:
    async with rest_of(oidc) as rest:
        await rest.ask("GET /me")
        oidc.control(revoke=True, slow_ms=100)
        answers = await asyncio.gather(*(rest.ask("GET /me") for _ in range(50)))
        assert all(answer["success"] for answer in answers)
    counted = oidc.control()
    assert counted["token_requests"] == 2
    assert counted["refused"] <= 50


async def test_a_token_is_renewed_before_it_ends(oidc: OidcProvider) -> None:
    oidc.control(lifetime=2)
    async with rest_of(oidc) as rest:
        first = (await rest.ask("GET /me"))["data"]["jti"]
        assert (await rest.ask("GET /me"))["data"]["jti"] == first
        await asyncio.sleep(1.7)  # the last fifth of its life
        assert (await rest.ask("GET /me"))["data"]["jti"] != first
    assert oidc.control() == {"token_requests": 2, "api_calls": 3, "refused": 0}


async def test_a_second_401_is_final(oidc: OidcProvider) -> None:
    def api_of(request: Received) -> bytes:
        if "/token" in request.line:
            return token()
        return reply(401)

    async with upstream(api_of) as server, fake(server.url) as rest:
        with pytest.raises(AuthFailed):
            await rest.ask("POST /x", json={})
    lines = [request.line.split()[1] for request in server.requests]
    assert lines == ["/token", "/x", "/token", "/x"]


def token(**changes: Any) -> bytes:
    document = {"access_token": "opaque-token", "token_type": "Bearer", "expires_in": 60, **changes}
    return reply(200, json.dumps({k: v for k, v in document.items() if v is not None}).encode())


def fake(url: str, **auth: Any) -> Any:
    given = {
        "type": "oauth2_client_credentials", "token_url": f"{url}/token", "client_id": "me", "client_secret": "s3cret-canary",
        **auth,
    }  # fmt: skip
    return api(url, auth=given)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (reply(400, b'{"error": "invalid_scope"}'), AuthFailed),
        (reply(401, b'{"error": "s3cret-canary"}'), AuthFailed),
        (reply(403), AuthFailed),
        (reply(404, b"<html>"), UpstreamError),
        (reply(302, Location="http://127.0.0.1:1/"), UpstreamError),
        (reply(200, b"not json"), UpstreamError),
        (reply(200, b"[" * 100_000), UpstreamError),
        (reply(200, b'"text"'), UpstreamError),
        (token(access_token=None), UpstreamError),
        (token(access_token="with\r\nheader: 1"), UpstreamError),
        (token(token_type="mac"), UpstreamError),
        (token(scope="other"), AuthFailed),
        (reply(200, b'{"access_token": "' + b"a" * 200_000 + b'"}'), UpstreamError),
    ],
)
async def test_a_token_endpoint_that_misbehaves_is_an_error_of_ours(answer: bytes, error: type[StudioError]) -> None:
    async with upstream(answer) as server, fake(server.url, scope="read") as rest:
        with pytest.raises(error, match="token endpoint") as caught:
            await rest.ask("GET /x")
    assert "canary" not in caught.value.message
    assert {request.line.split()[1] for request in server.requests} == {"/token"}


async def test_the_token_endpoint_passes_the_same_gate() -> None:
    async with api("http://127.0.0.1:1", auth={
        "type": "oauth2_client_credentials", "token_url": "http://169.254.169.254/token", "client_id": "a",
        "client_secret": "b",
    }) as rest:  # fmt: skip
        with pytest.raises(EgressDenied):
            await rest.ask("GET /x")


async def test_the_connectors_own_headers_do_not_go_to_the_token_endpoint() -> None:
    def answer(request: Received) -> bytes:
        return token() if "/token" in request.line else reply(200, b"{}", Content_Type="application/json")

    async with upstream(answer) as server:
        auth = {
            "type": "oauth2_client_credentials",
            "token_url": f"{server.url}/token",
            "client_id": "a b",
            "client_secret": "c:d",
        }
        async with api(
            server.url, auth={**auth, "audience": "urn:x", "resource": "urn:y"}, headers={"X-Key": "k"}
        ) as rest:
            await rest.ask("GET /x")
    asked, called = server.requests
    assert asked.header("X-Key") is None
    assert asked.header("Authorization") == "Basic YStiOmMlM0Fk"  # a+b:c%3Ad
    assert asked.body == b"grant_type=client_credentials&audience=urn%3Ax&resource=urn%3Ay"
    assert (called.header("X-Key"), called.header("Authorization")) == ("k", "Bearer opaque-token")


async def test_an_echoed_access_token_is_taken_out() -> None:
    def answer(request: Received) -> bytes:
        body = json.dumps({"got": request.header("Authorization")}).encode()
        return token() if "/token" in request.line else reply(200, body, Content_Type="application/json")

    async with upstream(answer) as server, fake(server.url) as rest:
        assert (await rest.ask("GET /x"))["data"] == {"got": "Bearer [secret]"}


async def test_an_opaque_token_without_a_scope_is_taken_as_asked_for() -> None:
    async with upstream(token()) as server, fake(server.url, scope="read") as rest:
        await rest.provider.authenticate()
    assert len(server.requests) == 2


async def test_a_caller_that_gives_up_does_not_take_the_token_from_the_others() -> None:
    async def slow(request: Received) -> bytes:
        if "/token" in request.line:
            await asyncio.sleep(0.3)
            return token()
        return reply(200, b"{}", Content_Type="application/json")

    async with upstream(slow) as server, fake(server.url) as rest:
        first = asyncio.create_task(rest.ask("GET /x"))
        second = asyncio.create_task(rest.ask("GET /x"))
        await asyncio.sleep(0.1)
        first.cancel()
        assert (await second)["success"]
    assert [request.line.split()[1] for request in server.requests] == ["/token", "/x"]


async def test_a_late_refusal_of_an_old_token_leaves_the_new_one() -> None:
    given = iter(range(9))
    tokens = upstream(lambda _request: token(access_token=f"token-{next(given)}"))
    async with tokens as server, fake(server.url) as rest:
        source = rest.provider._client._credentials._source
        assert await source.token() == "token-0"
        source.spoil("token-0")
        assert await source.token() == "token-1"
        source.spoil("token-0")
        assert await source.token() == "token-1"


async def test_closing_while_a_token_is_fetched_leaves_nothing_open() -> None:
    async def never(_request: Received) -> bytes:
        await asyncio.sleep(60)
        return b""

    async with upstream(never) as server:
        async with fake(server.url) as rest:
            call = asyncio.create_task(rest.ask("GET /x"))
            await asyncio.sleep(0.1)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
        assert await server.drained()
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("studio-")]


async def test_a_dead_token_endpoint_is_named(unused_tcp_port: int) -> None:
    async with fake(f"http://127.0.0.1:{unused_tcp_port}") as rest:
        with pytest.raises(Unreachable, match="token endpoint"):
            await rest.ask("GET /x")


async def test_the_clock_alone_decides_when_to_renew() -> None:
    """Unit: lifetime 100 is renewed 20 s ahead, 3600 is renewed 30 s ahead, none at all counts as 300."""
    from studio.contract.web import OAuth2Auth
    from studio.providers._http.body import Answer

    auth = OAuth2Auth(type="oauth2_client_credentials", token_url="http://h/t", client_id="a", client_secret="b")
    for lifetime, good_for in ((100, 80), (3600, 3570), (None, 270), ("x", 270), (0, 0), (-5, 0)):
        asked: list[int] = []
        now = [1000.0]

        async def post(
            _headers: Any, _body: bytes, _limit: int, asked: list[int] = asked, lifetime: Any = lifetime
        ) -> Answer:
            asked.append(1)
            body = json.dumps({"access_token": "t", "token_type": "bearer", "expires_in": lifetime}).encode()
            return Answer(200, None, body)  # type: ignore[arg-type]

        source = TokenSource(auth, post, lambda token: None, clock=lambda now=now: now[0])
        await source.token()
        now[0] += good_for - 0.1
        if good_for:
            await source.token()
            assert len(asked) == 1
        now[0] += 0.2
        await source.token()
        assert len(asked) == 2
