"""Resumable uploads: chunks of one object, each acknowledged (Google Cloud Storage, "Resumable uploads")."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from studio.errors import UpstreamError

if TYPE_CHECKING:
    from studio.providers.gcs.http import Api

_CLEAN_UP_S = 5.0


def only(create_only: bool) -> dict[str, str]:
    """The condition that there is no such object."""
    return {"ifGenerationMatch": "0"} if create_only else {}


def strange() -> UpstreamError:
    """An answer of another shape than the protocol's."""
    return UpstreamError("the other side does not answer as Google Cloud Storage does; check the endpoint")


class Upload:
    """One upload. It holds a chunk back, because the last one has to say that it is the last."""

    def __init__(self, api: Api, path: str, query: Mapping[str, str], content_type: str) -> None:
        self._api = api
        self._path = path
        self._query = query
        self._content_type = content_type
        self._sent = 0
        self._held = b""

    @classmethod
    async def begin(cls, api: Api, path: str, name: str, content_type: str, condition: Mapping[str, str]) -> Upload:
        """Start one. Of the address that the server names for it, only the upload's id counts."""
        async with api.request(
            "POST",
            path,
            query={"uploadType": "resumable", "name": name, **condition},
            headers={"Content-Type": "application/json", "X-Upload-Content-Type": content_type},
            body=json.dumps({"name": name, "contentType": content_type}).encode(),
        ) as answer:
            found = parse_qs(urlsplit(answer.headers.get("Location", "")).query).get("upload_id", [""])[0]
        if not found:
            raise strange()
        return cls(api, path, {"uploadType": "resumable", "name": name, "upload_id": found}, content_type)

    async def add(self, chunk: bytes) -> None:
        """One more chunk: a multiple of 256 KiB, unless it is the last."""
        if self._held:
            end = self._sent + len(self._held) - 1
            async with self._put(f"bytes {self._sent}-{end}/*", 308) as answer:
                if answer.headers.get("Range") != f"bytes=0-{end}":
                    raise UpstreamError("the server kept another part than it was sent; nothing was stored")
            self._sent = end + 1
        self._held = chunk

    async def finish(self) -> dict[str, Any]:
        """Send the last chunk; the object's metadata."""
        total = self._sent + len(self._held)
        async with self._put(f"bytes {self._sent}-{total - 1}/{total}", 200, 201) as answer:
            return await self._api.object(answer)

    async def cancel(self) -> None:
        """Best effort: an upload that is not finished is dropped after a week anyway."""
        try:
            async with asyncio.timeout(_CLEAN_UP_S):
                async with self._api.request("DELETE", self._path, query=self._query, accepted=frozenset({204, 499})):
                    pass
        except Exception:
            return

    def _put(self, span: str, *accepted: int) -> Any:
        return self._api.request(
            "PUT",
            self._path,
            query=self._query,
            headers={"Content-Range": span, "Content-Type": self._content_type},
            body=self._held,
            accepted=frozenset(accepted),
        )
