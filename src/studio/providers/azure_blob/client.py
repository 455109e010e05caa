"""azure-storage-blob over one guarded session, without its own retries, redirects and environment.

Imported on first use: the driver takes 200 ms.
"""

from __future__ import annotations

import asyncio
import base64
import io
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
from azure.core import MatchConditions
from azure.core.credentials import AzureSasCredential
from azure.core.pipeline.transport import AioHttpTransport
from azure.storage.blob import BlobBlock, BlobProperties, ContentSettings, generate_blob_sas
from azure.storage.blob.aio import BlobClient, BlobPrefix, ContainerClient

from studio.contract import canonical
from studio.errors import Conflict, StudioError, UpstreamError
from studio.providers._objects.parts import Content, Entry, Page

USER_AGENT = "studio-connectors"
_PIECE = 4 * 1024 * 1024
"""Bytes of one range request of a long read; each is in memory as a whole."""
_POLL_S = 0.2
_answers: ContextVar[list[aiohttp.ClientResponse]] = ContextVar("_answers")
"""Those of the driver's present call."""
_SENT_AT_ONCE = 64 * 1024
"""Bytes that aiohttp may send in one piece; of more, it gets a file to read from."""


class Container:
    """One container, as one credential or anonymously."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        *,
        url: str,
        account: str,
        container: str,
        key: str | None,
        sas: str | None,
        connect_s: float,
        read_s: float,
    ) -> None:
        self._account, self._name, self._key, self._sas = account, container, key, sas
        credential: Any = AzureSasCredential(sas) if sas else None
        if key is not None:
            credential = {"account_name": account, "account_key": key}
        self._client = ContainerClient(
            url,
            container,
            credential=credential,
            transport=_Transport(session=_Packed(http), session_owner=False, use_env_settings=False),
            retry_total=0,  # its retries sleep for 15 s and more; ours are bounded by effect and deadline
            permit_redirects=False,
            secondary_hostname=None,
            connection_timeout=connect_s,
            read_timeout=read_s,
            max_single_get_size=_PIECE,
            max_chunk_get_size=_PIECE,
            user_agent=USER_AGENT,
            user_agent_overwrite=True,
            user_agent_use_env=False,
        )

    async def page(self, prefix: str, delimiter: str | None, token: str | None, limit: int) -> Page:
        """One answer of a listing."""
        if delimiter is None:
            found: Any = self._client.list_blobs(name_starts_with=prefix or None, results_per_page=limit)
        else:
            found = self._client.walk_blobs(
                name_starts_with=prefix or None, delimiter=delimiter, results_per_page=limit
            )
        pages = found.by_page(continuation_token=token)
        result = Page()
        with _expected():
            async for item in await anext(pages):
                if isinstance(item, BlobPrefix):
                    result.prefixes.append(str(item.name))
                else:
                    result.entries.append(_entry(str(item.name), item))
            result.token = pages.continuation_token or None
        return result

    async def describe(self, name: str) -> Entry:
        """Properties of a blob."""
        with _expected():
            return _entry(name, await self._blob(name).get_blob_properties())

    async def read(self, name: str, offset: int, length: int | None, etag: str | None) -> Content:
        """A range; its first piece is read already."""
        same: dict[str, Any] = {"etag": f'"{etag}"', "match_condition": MatchConditions.IfNotModified} if etag else {}
        with _expected():
            found = await self._blob(name).download_blob(
                offset=offset or (0 if length is not None else None),
                length=length,
                max_concurrency=1,
                decompress=False,  # the bytes are the object's own, and a bomb stays folded
                **same,
            )
            entry = _entry(name, found.properties, _whole(found))
        if offset > entry.size:
            raise UpstreamError("the server does not answer the range that it was asked for")
        left = max(0, entry.size - offset)
        return Content(entry, left if length is None else min(left, length), _pieces(found))

    async def store(self, name: str, body: bytes, content_type: str, create_only: bool) -> Entry:
        """A blob of one piece."""
        with _expected():
            found = await self._blob(name).upload_blob(
                body,
                length=len(body),
                overwrite=not create_only,
                content_settings=ContentSettings(content_type=content_type),
                max_concurrency=1,
            )
        return _stored(name, len(body), found, content_type)

    async def store_blocks(
        self,
        name: str,
        parts: AsyncIterator[bytes],
        content_type: str,
        create_only: bool,
        retried: Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]],
    ) -> Entry:
        """A blob of blocks; it is there, whole, when their list is stored."""
        blob = self._blob(name)
        blocks: list[BlobBlock] = []
        size = 0
        if create_only:
            await self._must_be_free(blob)  # before the bytes travel; the condition below decides
        async for part in parts:
            block = base64.b64encode(f"{len(blocks):08d}".encode()).decode()
            await retried(_staging(blob, block, part))
            blocks.append(BlobBlock(block))
            size += len(part)
        only: dict[str, Any] = {"match_condition": MatchConditions.IfMissing} if create_only else {}
        with _expected():
            found = await blob.commit_block_list(
                blocks, content_settings=ContentSettings(content_type=content_type), **only
            )
        return _stored(name, size, found, content_type)

    async def duplicate(self, source: str, target: str) -> Entry:
        """A copy by the service, inside of the account."""
        origin, blob = self._blob(source), self._blob(target)
        entry = await self.describe(source)
        url = f"{origin.url}?{self._sas}" if self._sas and "?" not in origin.url else origin.url
        with _expected():
            found: Mapping[str, Any] = await blob.start_copy_from_url(url)
            state = found.get("copy_status")
            while state == "pending":
                await asyncio.sleep(_POLL_S)
                state = (await blob.get_blob_properties()).copy.status
        if state != "success":
            raise UpstreamError("the service gave the copy up")
        return _stored(target, entry.size, found, entry.content_type)

    async def remove(self, name: str) -> None:
        """Delete a blob that has no snapshots."""
        with _expected():
            await self._blob(name).delete_blob()

    def signed(self, name: str, rights: str, seconds: int) -> str:
        """A URL with a signature for one blob."""
        blob = self._blob(name)
        https: dict[str, Any] = {"protocol": "https"} if blob.url.startswith("https:") else {}
        end = datetime.now(UTC) + timedelta(seconds=seconds)
        signature = generate_blob_sas(
            self._account, self._name, name, account_key=self._key, permission=rights, expiry=end, **https
        )
        return f"{blob.url}?{signature}"

    def _blob(self, name: str) -> BlobClient:
        return self._client.get_blob_client(name)

    async def _must_be_free(self, blob: BlobClient) -> None:
        with _expected():
            taken = await blob.exists()
        if taken:
            raise Conflict("there is an object under this key already; nothing was stored")


class _Transport(AioHttpTransport):  # type: ignore[misc]
    """Sends through a session that is somebody else's to close."""

    async def close(self) -> None:
        """Leave the session alone."""

    def _get_request_data(self, request: Any) -> Any:
        data = super()._get_request_data(request)
        return io.BytesIO(data) if isinstance(data, bytes) and len(data) > _SENT_AT_ONCE else data

    async def send(self, request: Any, *, stream: bool = False, **config: Any) -> Any:
        """As the parent."""
        answer = await super().send(request, stream=stream, **config)
        _answers.get([]).append(answer.internal_response)
        return answer


class _Packed:
    """The session, which says that it unpacks what is packed; so the driver, which would without a bound, does not."""

    auto_decompress = True

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http

    async def __aenter__(self) -> _Packed:
        return self

    async def request(self, method: str, url: str, **more: Any) -> aiohttp.ClientResponse:
        return await self._http.request(method, url, **more)


@contextmanager
def _expected() -> Iterator[None]:
    """Around a call of the driver: its surprises are ours to name, and what it leaves open, to close.

    An answer of another shape than the protocol's it meets with whatever its code runs into.
    """
    token = _answers.set([])
    try:
        yield
    except BaseException as exc:
        for answer in _answers.get():
            answer.close()
        if isinstance(exc, TypeError | AttributeError | LookupError | ValueError | RecursionError):
            raise _strange() from exc
        raise
    finally:
        _answers.reset(token)


async def _pieces(found: Any) -> AsyncIterator[bytes]:
    pieces = found.chunks()
    while True:
        with _expected():
            piece = await anext(pieces, None)
        if piece is None:
            return
        yield piece


def _staging(blob: BlobClient, block: str, part: bytes) -> Callable[[], Awaitable[Any]]:
    async def stage() -> Any:
        with _expected():
            return await blob.stage_block(block, part, length=len(part))

    return stage


def _whole(found: Any) -> int:
    """The blob's size; of a range, the driver's `size` is the range's."""
    told = re.search(r"/(\d{1,15})$", str(found.properties.content_range or ""))
    if told is None:
        raise _strange()
    return int(told[1])


def _entry(name: str, found: BlobProperties, size: int | None = None) -> Entry:
    size = found.size if size is None else size
    if not isinstance(size, int):
        raise _strange()
    kind = found.content_settings.content_type if found.content_settings else None
    return Entry(name, size, canonical(found.last_modified), _etag(found.etag), kind)


def _stored(name: str, size: int, found: Mapping[str, Any], content_type: str | None) -> Entry:
    return Entry(name, size, canonical(found.get("last_modified")), _etag(found.get("etag")), content_type)


def _etag(text: Any) -> str | None:
    return str(text).strip('"') if text else None


def _strange() -> StudioError:
    return UpstreamError("the other side does not answer as Azure Blob Storage does; check the endpoint")
