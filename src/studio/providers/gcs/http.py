"""The JSON API of Google Cloud Storage over one guarded session: tokens, requests, and errors.

A service account proves itself with a signed assertion (RFC 7523) at a token endpoint of ours: the
key file's own `token_uri` could name any server, which would then be handed assertions.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import aiohttp
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from studio.errors import AuthFailed, InvalidConfig, UpstreamError
from studio.providers.gcs.errors import Refused

SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_EARLY_S = 120
"""A token is renewed so long before it ends."""


@dataclass(frozen=True)
class Account:
    """A service account's name and key."""

    email: str
    key: rsa.RSAPrivateKey
    key_id: str | None = None

    @classmethod
    def load(cls, email: str, pem: str, key_id: str | None) -> Account:
        """Costs some milliseconds: to be called in a thread. Raises InvalidConfig."""
        try:
            key = serialization.load_pem_private_key(pem.encode(), None)
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, rsa.RSAPrivateKey):
            raise InvalidConfig.at("config.service_account.private_key", "is not an RSA private key in PEM")
        return cls(email, key, key_id)

    def sign(self, text: bytes) -> bytes:
        """RSASSA-PKCS1-v1_5 with SHA-256."""
        return self.key.sign(text, padding.PKCS1v15(), hashes.SHA256())

    def assertion(self, audience: str) -> str:
        """A JWT (RFC 7519) that asks for a token of one hour."""
        now = int(time.time())
        head = {"alg": "RS256", "typ": "JWT", **({"kid": self.key_id} if self.key_id else {})}
        claims = {"iss": self.email, "scope": SCOPE, "aud": audience, "iat": now, "exp": now + 3600}
        body = b".".join(_segment(json.dumps(part).encode()) for part in (head, claims))
        return b".".join([body, _segment(self.sign(body))]).decode()


def _segment(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


class Api:
    """Requests below one origin, as one account or anonymously."""

    def __init__(self, http: aiohttp.ClientSession, origin: str, token_url: str, account: Account | None) -> None:
        self._http = http
        self._origin = origin
        self._token_url = token_url
        self.account = account
        self._token: tuple[str, float] | None = None
        self._lock = asyncio.Lock()

    async def json(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        """A JSON answer."""
        async with self.request(method, path, **more) as answer:
            return await _object(answer)

    @asynccontextmanager
    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        accepted: frozenset[int] = frozenset({200, 201, 204, 206}),
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer with one of the `accepted` statuses; its body is not read yet.

        Raises:
            Refused: another status.
        """
        for last in (False, True):
            token = await self._bearer()
            named = {"Accept-Encoding": "identity", **(headers or {})}
            if token is not None:
                named["Authorization"] = f"Bearer {token}"
            data = io.BytesIO(body) if body is not None else None  # of bytes, a large body would be sent in one piece
            async with self._http.request(
                method, self._url(path), params=query, headers=named, data=data, allow_redirects=False
            ) as answer:
                if answer.status in accepted:
                    yield answer
                    return
                if answer.status != 401 or token is None or last:
                    raise Refused(answer.status, await _message(answer))
            if self._token is not None and self._token[0] == token:
                self._token = None  # ended early or revoked: one more with a new one

    async def object(self, answer: aiohttp.ClientResponse) -> dict[str, Any]:
        """The JSON object of an answer."""
        return await _object(answer)

    def _url(self, path: str) -> Any:
        from yarl import URL

        return URL(f"{self._origin}{path}", encoded=True)

    async def _bearer(self) -> str | None:
        """The token; a new one is fetched once for all who wait."""
        if self.account is None:
            return None
        if self._token is None or self._token[1] < time.monotonic():
            async with self._lock:
                if self._token is None or self._token[1] < time.monotonic():
                    self._token = await self._fetch(self.account)
        return self._token[0]

    async def _fetch(self, account: Account) -> tuple[str, float]:
        assertion = await asyncio.to_thread(account.assertion, self._token_url)
        form = urlencode({"grant_type": GRANT, "assertion": assertion}).encode()
        named = {"Content-Type": "application/x-www-form-urlencoded", "Accept-Encoding": "identity"}
        async with self._http.post(self._token_url, data=form, headers=named, allow_redirects=False) as answer:
            if answer.status in {400, 401, 403}:
                raise AuthFailed("Google does not take the service account's key; make a new one, or check its clock")
            if answer.status != 200:
                raise Refused(answer.status, "")
            found = await _object(answer)
        token, ends = found.get("access_token"), found.get("expires_in", 3600)
        if (
            not isinstance(token, str)
            or not re.fullmatch(r"[!-~]{1,16384}", token)
            or not isinstance(ends, int | float)
        ):
            raise UpstreamError("the token endpoint does not answer with a token")
        return str(token), time.monotonic() + max(1.0, float(ends) - _EARLY_S)


async def _object(answer: aiohttp.ClientResponse) -> dict[str, Any]:
    body = await answer.read()
    if not body:
        return {}
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UpstreamError("the other side does not answer as Google Cloud Storage does; check the endpoint")
    return found


async def _message(answer: aiohttp.ClientResponse) -> str:
    body = await answer.read()
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return body[:500].decode(errors="replace")
