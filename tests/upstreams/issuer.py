"""An OpenID provider inside of the test: keys at will, tokens of any shape, and answers that go wrong."""

from __future__ import annotations

import asyncio
import functools
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa

AUDIENCE = "urn:studio"


@functools.cache
def private_key(name: str) -> Any:
    """The run's key of this name: `rsa…`, `ec…` (P-256), `p384` or `small` (RSA 1024)."""
    if name.startswith("ec"):
        return ec.generate_private_key(ec.SECP256R1())
    if name == "p384":
        return ec.generate_private_key(ec.SECP384R1())
    return rsa.generate_private_key(65537, 1024 if name == "small" else 2048)


def jwk(name: str, **more: Any) -> dict[str, Any]:
    """The public half as a JWK whose `kid` is the key's name."""
    public = private_key(name).public_key()
    algorithm = jwt.algorithms.RSAAlgorithm if isinstance(public, rsa.RSAPublicKey) else jwt.algorithms.ECAlgorithm
    found: dict[str, Any] = algorithm.to_jwk(public, as_dict=True)
    return {**found, "kid": name, "use": "sig", **more}


class FakeIssuer:
    """`keys` are published; `answers` puts another (status, body, headers) in a path's place."""

    def __init__(self) -> None:
        self.url = ""
        self.keys: list[dict[str, Any]] = [jwk("rsa-1"), jwk("ec-1")]
        self.answers: dict[str, tuple[int, bytes, dict[str, str]]] = {}
        self.asked: Counter[str] = Counter()
        self.delay_s = 0.0

    def claims(self, **changed: Any) -> dict[str, Any]:
        """Good claims, with these changed; None leaves one out."""
        now = int(time.time())
        good = {
            "iss": self.url, "aud": AUDIENCE, "sub": "someone", "iat": now, "exp": now + 3600,
            "organization": "acme", "role": "admin",
        }  # fmt: skip
        return {name: value for name, value in {**good, **changed}.items() if value is not None}

    def token(self, *, key: str = "rsa-1", headers: dict[str, Any] | None = None, **changed: Any) -> str:
        """A signed token."""
        algorithm = "ES256" if key.startswith("ec") else "ES384" if key == "p384" else "RS256"
        # As bytes: `jwt.encode` would not sign claims of wrong types.
        payload = json.dumps(self.claims(**changed)).encode()
        return jwt.api_jws.encode(payload, private_key(key), algorithm, {"kid": key, **(headers or {})})

    async def _serve(self, request: web.Request) -> web.Response:
        self.asked[request.path] += 1
        await asyncio.sleep(self.delay_s)
        if request.path in self.answers:
            status, body, headers = self.answers[request.path]
            return web.Response(status=status, body=body, headers=headers)
        document = {"issuer": self.url, "jwks_uri": f"{self.url}/jwks"}
        return web.json_response({"keys": self.keys} if request.path == "/jwks" else document, dumps=json.dumps)


@asynccontextmanager
async def issuing() -> AsyncIterator[FakeIssuer]:
    """The provider behind a real server on a free port."""
    issuer = FakeIssuer()
    application = web.Application()
    application.router.add_get("/{path:.*}", issuer._serve)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        issuer.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield issuer
    finally:
        await runner.cleanup()
