"""MCP behind OAuth: the official client finds the issuer by itself, against a certified OpenID provider."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest
from mcp.client import Client
from mcp.client.auth import OAuthClientProvider
from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from pydantic import AnyUrl
from tests import poison
from tests.mcp.conftest import LEGACY, MODERN, Made, World, serving
from tests.servers import free_port
from tests.upstreams.oidc import OidcProvider, oidc, oidc_server

from studio.settings import Settings

__all__ = ["oidc", "oidc_server"]
pytestmark = pytest.mark.server
RUN = {"alias": "main_db", "query": "SELECT count(*) AS users FROM users"}
WRITE = {"alias": "store", "operation": "put", "args": {"key": "k"}}
ERAS = [MODERN, LEGACY]


class Memory:
    """The client's storage."""

    def __init__(self) -> None:
        self.tokens: list[OAuthToken] = []

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens[-1] if self.tokens else None

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens.append(tokens)

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return None

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        """Nothing is registered here."""


@asynccontextmanager
async def guarded(settings: Settings, made: Made, oidc: OidcProvider, **more: Any) -> AsyncIterator[World]:
    """A server that takes the provider's tokens for its own URL, and nobody else's."""
    port = free_port()
    given = {
        "oidc_issuer": oidc.url, "oidc_audience": (f"http://127.0.0.1:{port}",), "oidc_organization": "acme",
        "oidc_agent_claim": "agent", **more,
    }  # fmt: skip
    oidc.control(claims={"agent": "agent-1"})
    async with serving(Settings(**{**settings.model_dump(), **given}), made, port) as world:
        yield world


@asynccontextmanager
async def connected(world: World, oidc: OidcProvider, memory: Memory, mode: str) -> AsyncIterator[Client]:
    """The official client with nothing but the URL and its own credentials."""
    auth = ClientCredentialsOAuthProvider(f"{world.base}/mcp", memory, "basic", oidc.secret, issuer=oidc.url)
    async with using(world, auth, mode) as client:
        yield client


@asynccontextmanager
async def using(world: World, auth: OAuthClientProvider, mode: str) -> AsyncIterator[Client]:
    """The official client with this way to get tokens."""
    with poison.lifted():
        made = create_mcp_http_client(auth=auth)
    async with (
        made as http,
        Client(
            streamable_http_client(f"{world.base}/mcp", http_client=http), mode="legacy" if mode == LEGACY else mode
        ) as client,
    ):
        yield client


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
async def test_the_official_client_gets_a_token_by_itself_and_works(
    settings: Settings, made_once: Made, oidc: OidcProvider, era: str, algorithm: str
) -> None:
    memory = Memory()
    async with guarded(settings, made_once, oidc) as world:
        oidc.control(alg=algorithm)
        async with connected(world, oidc, memory, era) as client:
            assert {tool.name for tool in (await client.list_tools()).tools} == {"list_connectors", "describe", "run"}
            result = await client.call_tool("run", RUN)
            assert not result.is_error
            assert "250" in json.dumps(result.structured_content)
    (token,) = memory.tokens
    claims = jwt.decode(token.access_token, options={"verify_signature": False})
    assert claims["aud"] == f"{world.base}/mcp", "the resource of the metadata, which we take for our own"
    assert jwt.get_unverified_header(token.access_token)["alg"] == algorithm
    assert oidc.control()["token_requests"] == 1


@pytest.mark.parametrize("era", ERAS)
async def test_a_person_signs_in_and_the_client_works_with_nothing_but_the_url(
    settings: Settings, made_once: Made, oidc: OidcProvider, era: str
) -> None:
    """Metadata, discovery, registration, PKCE, a browser, and back: all by the official client."""
    memory, came_back = Memory(), []
    async with guarded(settings, made_once, oidc) as world:

        async def browse(url: str) -> None:
            came_back.append(parse_qs(urlsplit(await oidc.sign_in(url)).query))

        async def returned() -> AuthorizationCodeResult:
            (query,) = came_back
            return AuthorizationCodeResult(code=query["code"][0], state=query["state"][0], iss=query["iss"][0])

        about = OAuthClientMetadata(
            redirect_uris=[AnyUrl("http://127.0.0.1:1/callback")], grant_types=["authorization_code"]
        )
        auth = OAuthClientProvider(f"{world.base}/mcp", about, memory, browse, returned)
        async with using(world, auth, era) as client:
            assert not (await client.call_tool("run", RUN)).is_error
    claims = jwt.decode(memory.tokens[0].access_token, options={"verify_signature": False})
    assert (claims["sub"], claims["aud"]) == ("ada", f"{world.base}/mcp")


@pytest.mark.parametrize("era", ERAS)
async def test_a_call_that_wants_another_scope_makes_the_client_ask_for_it(
    settings: Settings, made_once: Made, oidc: OidcProvider, era: str
) -> None:
    memory = Memory()
    async with (
        guarded(settings, made_once, oidc, oidc_scope_prefix="studio:") as world,
        connected(world, oidc, memory, era) as client,
    ):
        assert not (await client.call_tool("run", RUN)).is_error
        assert not (await client.call_tool("run", WRITE)).is_error
    assert [token.scope for token in memory.tokens] == ["studio:read", "studio:read studio:write"]


@pytest.mark.parametrize("era", ERAS)
async def test_a_token_for_another_resource_of_the_same_issuer_is_refused(
    settings: Settings, made_once: Made, oidc: OidcProvider, era: str
) -> None:
    async with guarded(settings, made_once, oidc) as world:
        world.keys |= {"theirs": oidc.token("https://other.example/mcp"), "ours": oidc.token(f"{world.base}/mcp")}
        send = world.modern if era == MODERN else world.legacy
        refused = await send("tools/list", who="theirs")
        assert refused.status == 401
        assert "another audience" in refused.json["detail"]
        assert refused.headers["www-authenticate"] == (
            f'Bearer resource_metadata="{world.base}/.well-known/oauth-protected-resource/mcp", error="invalid_token"'
        )
        assert (await send("tools/list", who="ours")).status == 200


@pytest.mark.parametrize("era", ERAS)
async def test_a_missing_scope_is_an_answer_of_http_and_no_tools_result(
    settings: Settings, made_once: Made, oidc: OidcProvider, era: str
) -> None:
    async with guarded(settings, made_once, oidc, oidc_scope_prefix="studio:") as world:
        world.keys |= {
            "none": oidc.token(f"{world.base}/mcp", "api:read"),
            "read": oidc.token(f"{world.base}/mcp", "studio:read"),
        }
        send = world.modern if era == MODERN else world.legacy
        for who, scope in (("none", "studio:read"), ("read", "studio:read studio:write")):
            refused = await send("tools/call", {"name": "run", "arguments": WRITE}, who=who)
            assert refused.status == 403
            assert refused.json["code"] == "forbidden"
            assert refused.headers["www-authenticate"] == (
                f'Bearer error="insufficient_scope", scope="{scope}", '
                f'resource_metadata="{world.base}/.well-known/oauth-protected-resource/mcp"'
            )
        # A key that is limited has no issuer to ask: its model is told.
        told = await send("tools/call", {"name": "run", "arguments": WRITE}, who="reader")
        assert told.result["isError"]
        assert (await send("tools/list", who=None)).headers["www-authenticate"].endswith('scope="studio:read"')
