"""Tokens over HTTP: what a client without one is told, and how far one reaches."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests import toy
from tests.surfaces.served import Api, Reply, serving
from tests.upstreams.issuer import AUDIENCE, FakeIssuer, issuing

from studio.client import RemoteService
from studio.errors import Forbidden, Unauthenticated
from studio.settings import Settings

C, WELL_KNOWN = "/api/v1/connectors", "/.well-known/oauth-protected-resource"
QUERY = {"query": "rows 1"}


@asynccontextmanager
async def started(folder: Path, **settings: Any) -> AsyncIterator[tuple[Api, FakeIssuer]]:
    """A server that takes the tokens of a fake issuer."""
    with toy.installed():
        async with issuing() as issuer:
            given = {"oidc_issuer": issuer.url, "oidc_audience": (AUDIENCE,), **settings}
            async with serving(Settings(data_dir=folder, port=0, **given)) as api:
                yield api, issuer


def challenge(reply: Reply) -> dict[str, str]:
    """The parameters of a Bearer challenge (RFC 6750, section 3)."""
    text = reply.headers["www-authenticate"]
    assert text.startswith("Bearer ")
    found = re.findall(r'(\w+)="([^"]*)"', text)
    assert ", ".join(f'{name}="{value}"' for name, value in found) == text.removeprefix("Bearer ")
    return dict(found)


async def test_a_refused_client_is_led_to_the_issuer(tmp_path: Path) -> None:
    async with started(tmp_path) as (api, issuer):
        for path, form in ((C, ""), ("/mcp", "/mcp"), ("/metrics", ""), (f"{C}/x/query", "")):
            method = "POST" if path in {"/mcp", f"{C}/x/query"} else "GET"
            reply = await api.call(method, path, {}, who=None)
            assert reply.status == 401
            where = f"{api.base}{WELL_KNOWN}{form}"
            assert challenge(reply) == {"resource_metadata": where}
            document = (await api.call("GET", where.removeprefix(api.base), who=None)).json
            assert document == {
                "resource": api.base + form,
                "authorization_servers": [issuer.url],
                "bearer_methods_supported": ["header"],
                "resource_name": "Studio Connectors",
            }
        api.keys["wrong"] = issuer.token(aud="urn:other")
        assert challenge(await api.call("GET", C, who="wrong"))["error"] == "invalid_token"


async def test_without_an_issuer_there_is_nothing_to_be_led_to(tmp_path: Path) -> None:
    with toy.installed():
        async with serving(Settings(data_dir=tmp_path, port=0)) as api:
            assert (await api.call("GET", C, who=None)).headers["www-authenticate"] == "Bearer"
            for form in ("", "/mcp"):
                (await api.call("GET", WELL_KNOWN + form, who=None)).is_problem(404, "not_found")


async def test_behind_a_proxy_the_audience_of_the_same_host_says_the_scheme(tmp_path: Path) -> None:
    names = {"allowed_hosts": ("studio.example", "other.example"), "oidc_audience": ("https://studio.example/x/mcp",)}
    async with started(tmp_path, **names) as (api, _):
        found = (await api.call("GET", f"{WELL_KNOWN}/mcp", who=None, host="studio.example")).json
        assert found["resource"] == "https://studio.example/x/mcp"
        found = (await api.call("GET", f"{WELL_KNOWN}/mcp", who=None, host="other.example")).json
        assert found["resource"] == "http://other.example/mcp"


@pytest.mark.parametrize("host", ['a"b', "a b", "a,b", "a/b", "é"])
async def test_a_host_that_is_none_does_not_stand_in_a_challenge(tmp_path: Path, host: str) -> None:
    async with started(tmp_path) as (api, _):
        reply = await api.call("GET", "/metrics", who=None, host=host)
        if reply.status == 401:  # else it was refused earlier
            assert challenge(reply)["resource_metadata"] == f"{api.base}{WELL_KNOWN}"


async def test_scopes_limit_a_token_and_the_challenge_names_what_is_missing(tmp_path: Path) -> None:
    async with started(tmp_path, oidc_scope_prefix="studio:") as (api, issuer):
        instance = await api.attached(read_only=False)
        at = f"{C}/{instance['connector_id']}"
        assert challenge(await api.call("GET", C, who=None))["scope"] == "studio:read"
        document = (await api.call("GET", WELL_KNOWN, who=None)).json
        assert document["scopes_supported"] == ["studio:read", "studio:write", "studio:delete", "studio:admin"]
        for name, scope in {"none": "openid", "read": "studio:read", "write": "studio:read studio:write"}.items():
            api.keys[name] = issuer.token(scope=scope)
        api.keys["all"] = issuer.token(scope="studio:read studio:admin")

        refused = await api.call("GET", C, who="none")
        refused.is_problem(403, "forbidden")
        assert challenge(refused)["error"] == "insufficient_scope"
        assert challenge(refused)["scope"] == "studio:read"

        assert (await api.call("POST", f"{at}/query", QUERY, who="read")).status == 200
        refused = await api.call("POST", f"{at}/operations/put", {"key": "k"}, who="read")
        refused.is_problem(403, "forbidden")
        assert challenge(refused) == {
            "error": "insufficient_scope",
            "scope": "studio:read studio:write",
            "resource_metadata": f"{api.base}{WELL_KNOWN}",
        }
        assert (await api.call("POST", f"{at}/operations/put", {"key": "k"}, who="write")).status == 200
        # The role says admin each time; without the scope of that name it is a developer's.
        assert (await api.call("GET", "/api/v1/keys", who="write")).status == 403
        assert (await api.call("GET", "/api/v1/keys", who="all")).status == 200


async def test_the_client_takes_a_token_for_a_key(tmp_path: Path) -> None:
    async with started(tmp_path, oidc_agent_claim="agent") as (api, issuer):
        instance = await api.attached("db")
        async with RemoteService(api.base, issuer.token()) as remote:
            assert (await remote.get(instance["connector_id"]))["organization_id"] == "acme"
        async with RemoteService(api.base, issuer.token(organization="beta")) as remote:
            assert (await remote.list())["records"] == []
        async with RemoteService(api.base, issuer.token(agent="agent-1")) as remote:
            result = await remote.execute_query(agent_id="agent-1", alias="db", query="rows 1")
            assert result["row_count"] == 1
            with pytest.raises(Forbidden):
                await remote.list()
        async with RemoteService(api.base, issuer.token(exp=1)) as remote:
            with pytest.raises(Unauthenticated, match="expired"):
                await remote.list()


# -- what answers without a key -----------------------------------------------------------------


async def test_nothing_but_health_answers_everybody_on_an_address_that_others_reach(tmp_path: Path) -> None:
    with toy.installed():
        async with serving(Settings(data_dir=tmp_path, host="0.0.0.0", port=0)) as api:
            for path in ("/docs", "/api/v1/openapi.json", "/metrics", C):
                (await api.call("GET", path, who=None)).is_problem(401, "unauthenticated")
                assert (await api.call("GET", path, who="member")).status == 200
            for path in ("/healthz", "/readyz"):
                assert (await api.call("GET", path, who=None)).status == 200


async def test_on_loopback_the_apis_description_answers_everybody_and_holds_nothing_of_the_installation(
    tmp_path: Path,
) -> None:
    with toy.installed():
        async with serving(Settings(data_dir=tmp_path, port=0)) as api:
            made = await api.create()
            document = await api.call("GET", "/api/v1/openapi.json", who=None)
            page = await api.call("GET", "/docs", who=None)
            assert b"/api/v1/openapi.json" in page.body
            for hidden in (made["name"], made["id"], "acme", str(tmp_path), api.keys["admin"]):
                assert hidden.encode() not in document.body + page.body
