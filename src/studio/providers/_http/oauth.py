"""OAuth 2.0 client credentials: one token for everybody, renewed in time and by one request only."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_plus, urlencode

from studio.contract.web import OAuth2Auth
from studio.errors import AuthFailed, RateLimited, StudioError, UpstreamError
from studio.providers._http.body import Answer
from studio.providers._http.errors import retry_after

LIFETIME_S = 300.0
"""Assumed where the server does not say (RFC 6749, section 5.1, recommends that it does)."""
AHEAD_S = 30.0
"""A token is renewed this long before it ends, or in the last fifth of a short life."""
_TOKEN = re.compile(r"[\x21-\x7e]{1,16384}")
_CODES = frozenset({
    "invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type",
    "invalid_scope", "invalid_target",
})  # fmt: skip
_MAX_ANSWER = 65_536
Post = Callable[[dict[str, str], bytes, int], Awaitable[Answer]]


@dataclass(frozen=True)
class _Token:
    text: str
    renew_at: float


class TokenSource:
    """The connector's access token.

    Args:
        post: sends headers and a form to the token endpoint, with a bound on the answer's bytes.
        got: is told each new token.
        clock: seconds that never go back.
    """

    def __init__(
        self, auth: OAuth2Auth, post: Post, got: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._auth = auth
        self._post = post
        self._got = got
        self._clock = clock
        self._held: _Token | None = None
        self._fetching: asyncio.Task[str] | None = None

    async def token(self) -> str:
        """A token that is good for a while. All who wait share one request.

        Raises:
            AuthFailed: the server refused the client, or did not grant a scope.
            StudioError: it could not be asked.
        """
        if self._held is not None and self._clock() < self._held.renew_at:
            return self._held.text
        if self._fetching is None or self._fetching.done():
            # A task of its own: a caller that is cancelled must not take the token away from the others.
            self._fetching = asyncio.create_task(self._fetch(), name="studio-oauth2-token")
            self._fetching.add_done_callback(_seen)
        return await asyncio.shield(self._fetching)

    def spoil(self, token: str) -> None:
        """The upstream refused this token: the next caller gets another. A newer one that is held stays."""
        if self._held is not None and self._held.text == token:
            self._held = None

    async def close(self) -> None:
        """End a request that is under way."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)

    async def _fetch(self) -> str:
        headers, body = self._form()
        answer = await self._post(headers, body, _MAX_ANSWER)
        document = _json(answer)
        if answer.status != 200:
            raise _failed(answer, document)
        token = self._read(document)
        self._held = token
        self._got(token.text)
        return token.text

    def _form(self) -> tuple[dict[str, str], bytes]:
        auth = self._auth
        fields = {"grant_type": "client_credentials"}
        fields |= {
            name: value
            for name, value in (("scope", auth.scope), ("audience", auth.audience), ("resource", auth.resource))
            if value is not None
        }
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        secret = auth.client_secret.get_secret_value()
        if auth.client_auth == "client_secret_post":
            fields |= {"client_id": auth.client_id, "client_secret": secret}
        else:
            # Both parts are form-encoded first (RFC 6749, section 2.3.1).
            pair = f"{quote_plus(auth.client_id)}:{quote_plus(secret)}"
            headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        return headers, urlencode(fields).encode()

    def _read(self, document: dict[str, Any]) -> _Token:
        text, kind = document.get("access_token"), document.get("token_type")
        if not isinstance(text, str) or not _TOKEN.fullmatch(text):
            raise UpstreamError("the token endpoint's answer holds no access_token")
        if not isinstance(kind, str) or kind.lower() != "bearer":
            raise UpstreamError("the token endpoint gives tokens of a type other than Bearer")
        self._check_scope(document.get("scope"), text)
        return _Token(text, self._clock() + _good_for(document.get("expires_in")))

    def _check_scope(self, granted: Any, token: str) -> None:
        """Refuse a token that lacks a scope that was asked for: some servers drop unknown ones silently.

        Without `scope` in the answer a JWT's own claim decides; an opaque token then has what was
        asked for (RFC 6749, section 5.1). `…/.default` is Azure's name for "whatever is set up".
        """
        wanted = {scope for scope in (self._auth.scope or "").split() if not scope.endswith("/.default")}
        if not isinstance(granted, str):
            granted = _scope_claim(token)
        if not wanted or granted is None:
            return
        missing = sorted(wanted - set(granted.split()))
        if missing:
            raise AuthFailed(
                f"the token endpoint did not grant the scope {' '.join(missing)}; "
                "have it allowed for this client, or take it out of auth.scope"
            )


def _good_for(expires_in: Any) -> float:
    try:
        lifetime = max(float(expires_in), 0.0)
    except (TypeError, ValueError):
        lifetime = LIFETIME_S
    return lifetime - min(AHEAD_S, lifetime / 5)


def _seen(task: asyncio.Task[str]) -> None:
    """Where every waiter has gone, nobody else looks at the outcome."""
    if not task.cancelled():
        task.exception()


def _json(answer: Answer) -> dict[str, Any]:
    try:
        document = json.loads(answer.body)
    except (ValueError, RecursionError):
        document = None
    return document if isinstance(document, dict) else {}


def _failed(answer: Answer, document: dict[str, Any]) -> StudioError:
    code = document.get("error")
    named = f" ({code})" if code in _CODES else ""
    if code == "invalid_scope":
        return AuthFailed("the token endpoint does not give this client the scope in auth.scope (invalid_scope)")
    if answer.status in {400, 401, 403}:
        return AuthFailed(f"the token endpoint refused the client{named}; check client_id and client_secret")
    if answer.status == 429:
        return RateLimited("the token endpoint asks for fewer requests (429)", retry_after_s=retry_after(answer))
    return UpstreamError(f"the token endpoint answered {answer.status}{named}")


def _scope_claim(token: str) -> str | None:
    """The scopes that a JWT names; empty for one that names none, None for a token that is no JWT."""
    parts = token.split(".")
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (IndexError, ValueError, RecursionError):
        return None
    if not isinstance(claims, dict):
        return None
    scope = claims.get("scope", claims.get("scp", ""))
    return " ".join(map(str, scope)) if isinstance(scope, list) else str(scope)
