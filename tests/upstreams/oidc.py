"""A certified OpenID provider (the `oidc-provider` package) and an API that takes its tokens."""

from __future__ import annotations

import json
import re
import secrets
import shutil
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.servers import Server, StartFailed, fetch

FOLDER = Path(__file__).resolve().parents[1] / "servers_env"
LIFETIME_S = 60


class OidcProvider(Server):
    """Client credentials with both kinds of client authentication; `/api/…` wants a token, `/_control` tells and sets.

    Clients: `basic` (client_secret_basic) and `post` (client_secret_post), both with `secret`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.secret = 's3cr#t@/:%" ' + secrets.token_urlsafe(12)

    def command(self) -> list[str]:
        """node with our small script."""
        node = shutil.which("node")
        if node is None or not (FOLDER / "node_modules" / "oidc-provider").exists():
            raise StartFailed("node or its oidc-provider package is missing; run: make servers")
        return [node, str(FOLDER / "oidc_provider.mjs"), str(self.port), self.secret, str(LIFETIME_S)]

    @property
    def url(self) -> str:
        """The issuer."""
        return f"http://{self.host}:{self.port}"

    def config(self, *, client: str = "basic", **auth: Any) -> dict[str, Any]:
        """A connector's configuration for the API, with some fields of `auth` changed."""
        return {
            "base_url": f"{self.url}/api",
            "health_path": "/me",
            "auth": {
                "type": "oauth2_client_credentials", "token_url": f"{self.url}/token", "client_id": client,
                "client_secret": self.secret, "client_auth": f"client_secret_{client}", "scope": "api:read", **auth,
            },
        }  # fmt: skip

    def token(self, resource: str, scope: str = "") -> str:
        """An access token for a resource, by client credentials."""
        form = {
            "grant_type": "client_credentials",
            "resource": resource,
            "client_id": "post",
            "client_secret": self.secret,
        }
        body = urllib.parse.urlencode({**form, **({"scope": scope} if scope else {})}).encode()
        with fetch(f"{self.url}/token", body, timeout=5) as answer:
            return str(json.load(answer)["access_token"])

    async def sign_in(self, url: str, name: str = "ada") -> str:
        """What a person does in a browser: give a name, agree, and come back with this URL."""
        import aiohttp

        form: dict[str, str] | None = None
        async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as http:
            while True:
                method = "GET" if form is None else "POST"
                async with http.request(method, url, data=form, allow_redirects=False) as answer:
                    text = await answer.text()
                    assert answer.status in {200, 303}, text
                    action = re.search(r'action="([^"]+)"', text)
                    url = urllib.parse.urljoin(str(answer.url), answer.headers.get("location") or (action or "")[1])
                if "code=" in url:
                    return url
                prompt = re.search(r'name="prompt" value="(\w+)"', text)
                form = {"prompt": prompt[1], "login": name, "password": "x"} if prompt else None

    def control(self, **settings: Any) -> dict[str, Any]:
        """Change how the server behaves (`lifetime`, `slow_ms`, `claims`, `alg`, `revoke`, `reset`); its counters."""
        request = urllib.request.Request(f"{self.url}/_control", json.dumps(settings).encode(), method="POST")
        with fetch(request, timeout=5) as answer:
            counters: dict[str, Any] = json.load(answer)
        return counters


@pytest.fixture(scope="session")
def oidc_server() -> Iterator[OidcProvider]:
    """The OpenID provider of the whole run."""
    server = OidcProvider()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def oidc(oidc_server: OidcProvider) -> OidcProvider:
    """The OpenID provider with its counters at zero and its settings as at the start."""
    oidc_server.control(reset=True)
    return oidc_server
