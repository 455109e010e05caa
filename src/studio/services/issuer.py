"""The OpenID provider that an operator configured: its keys, fetched and kept, and whose a token of it is.

Nothing is fetched before the first token comes, and a token that was seen before costs one hash.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

from studio.contract.network import Network
from studio.contract.web import WebConfig, split_url
from studio.errors import StudioError, Unauthenticated, Unreachable, UpstreamError
from studio.models import Principal
from studio.providers._http.client import HttpClient, Request
from studio.providers._http.errors import translate
from studio.security import oidc
from studio.security.oidc import Key, Rules
from studio.settings import is_safe_url

logger = logging.getLogger(__name__)
FRESH_S = 300.0
"""Keys older than this are fetched again, while the old ones go on serving."""
STALE_S = 3600.0
"""Keys older than this do not serve any more: an issuer that cannot be asked for so long says nothing."""
PAUSE_S = 10.0
"""Between two fetches, whatever comes: tokens with invented key ids cannot make this service ask more often."""
MAX_CACHED = 10_000
_LIMITS = WebConfig(timeout_s=5, connect_timeout_s=3, max_bytes=1 << 18, pool_size=1)
_NO_KEYS = "the OIDC issuer's keys cannot be had at the moment; the service's log says why, and API keys still work"
_WELL_KNOWN = "/.well-known/openid-configuration"


class Issuer:
    """Tells whose a token is.

    Args:
        network: the gate that the issuer's own address passes.
        clock, wall: seconds that never go back, and seconds since 1970.
    """

    def __init__(
        self,
        rules: Rules,
        network: Network,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._rules = rules
        self._network = network
        self._clock = clock
        self._wall = wall
        self._keys: list[Key] | None = None
        self._published: bytes = b""
        self._fetched_at = self._tried_at = -STALE_S
        self._fetching: asyncio.Task[None] | None = None
        self._known: dict[bytes, tuple[Principal, float]] = {}

    async def identify(self, token: str) -> Principal:
        """Whose this token is.

        A token that held is known by its digest until it expires, or until the issuer's keys change.

        Raises:
            Unauthenticated: it does not hold.
            Forbidden: it holds, but gives nothing here.
            Unreachable, UpstreamError: the issuer's keys cannot be had.
        """
        # At each call, also for known tokens: they would not notice otherwise that a key was withdrawn.
        await self._keep_fresh()
        digest = hashlib.sha256(token.encode()).digest()
        known = self._known.get(digest)
        if known is not None and self._wall() < known[1]:
            return known[0]
        self._known.pop(digest, None)
        kid, algorithm = oidc.read_header(token)
        claims = oidc.verify(token, await self._key(kid, algorithm), self._rules)
        principal = oidc.principal_of(claims, self._rules)
        if len(self._known) >= MAX_CACHED:
            del self._known[next(iter(self._known))]
        self._known[digest] = principal, float(claims["exp"])
        return principal

    async def close(self) -> None:
        """End a fetch that is under way."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)

    async def _key(self, kid: str | None, algorithm: str) -> Key:
        key = oidc.key_named(self._keys or (), kid, algorithm)
        if key is None and self._may_fetch():
            await self._fetch()  # one for all who wait: the issuer may have changed its keys
            key = oidc.key_named(self._keys or (), kid, algorithm)
        if key is None:
            raise Unauthenticated(oidc.BAD_TOKEN)
        return key

    async def _keep_fresh(self) -> None:
        age = self._clock() - self._fetched_at
        if age < FRESH_S:
            return
        if age < STALE_S:
            if self._may_fetch():
                self._begin()
            return
        if not self._may_fetch():
            raise Unreachable(_NO_KEYS, retry_after_s=PAUSE_S)
        await self._fetch()

    def _may_fetch(self) -> bool:
        return self._fetching is not None or self._clock() - self._tried_at >= PAUSE_S

    def _begin(self) -> asyncio.Task[None]:
        if self._fetching is None:
            self._tried_at = self._clock()
            self._fetching = asyncio.create_task(self._refresh(), name="studio-oidc-keys")
            self._fetching.add_done_callback(self._fetched)
        return self._fetching

    async def _fetch(self) -> None:
        try:
            # A task of its own: a caller that is cancelled must not take the keys away from the others.
            await asyncio.shield(self._begin())
        except Exception as exc:
            raise Unreachable(_NO_KEYS, retry_after_s=PAUSE_S) from exc

    def _fetched(self, task: asyncio.Task[None]) -> None:
        self._fetching = None
        if task.cancelled() or (exc := task.exception()) is None:
            return
        known = exc if isinstance(exc, StudioError) else translate(exc) if isinstance(exc, Exception) else None
        logger.warning("the OIDC issuer's keys were not fetched: %s", known.message if known else type(exc).__name__)

    async def _refresh(self) -> None:
        async with asyncio.timeout(_LIMITS.timeout_s * 2), AsyncExitStack() as stack:
            place = await self._discover(stack)
            published = await self._get(stack, place)
        try:
            keys = oidc.keys_of(oidc.parse_object(published))
        except ValueError as exc:
            raise UpstreamError("the OIDC issuer's jwks_uri answers no JWK set") from exc
        if published != self._published:
            self._known.clear()  # what a withdrawn key signed is not taken on trust
        self._keys, self._published, self._fetched_at = keys, published, self._clock()

    async def _discover(self, stack: AsyncExitStack) -> str:
        """The `jwks_uri` (OpenID Connect Discovery 1.0, section 4)."""
        try:
            found: dict[str, Any] = oidc.parse_object(
                await self._get(stack, self._rules.issuer.rstrip("/") + _WELL_KNOWN)
            )
        except ValueError as exc:
            raise UpstreamError(f"the OIDC issuer's {_WELL_KNOWN} answers no JSON object") from exc
        if found.get("issuer") != self._rules.issuer:
            raise UpstreamError("the OIDC issuer calls itself by another name than STUDIO_OIDC_ISSUER, spelled exactly")
        place = found.get("jwks_uri")
        if not isinstance(place, str) or not is_safe_url(place):
            raise UpstreamError("the OIDC issuer's jwks_uri is not an https URL (http on loopback only)")
        return place

    async def _get(self, stack: AsyncExitStack, text: str) -> bytes:
        """One answer, through the gate, without redirects, bounded in time and bytes."""
        try:
            url = split_url(text)
        except ValueError as exc:
            raise UpstreamError(f"a URL of the OIDC issuer {exc}") from exc
        client = HttpClient(_LIMITS, url, self._network)
        await client.open(stack)
        answer = await client.fetch(Request("GET", url.path, headers={"Accept": "application/json"}))
        if answer.cut:
            raise UpstreamError("the OIDC issuer's answer is larger than 256 KiB")
        return answer.body
