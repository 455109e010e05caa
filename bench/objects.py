"""Objects through the service against the bare client: many small ones, and one of 256 MiB."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from bench.governed import started
from bench.pieces import CALLERS, Pieces, aws, registered
from studio.services.connector_service import ConnectorService

SMALL = 1000
MIB = 1 << 20
CHUNK = bytes(range(256)) * 4096


async def many(call: Callable[[int], Awaitable[object]], count: int = SMALL) -> None:
    """`count` calls from a few callers at once."""
    numbers = iter(range(count))

    async def caller() -> None:
        for number in numbers:
            await call(number)

    await asyncio.gather(*(caller() for _ in range(CALLERS)))


async def content() -> AsyncIterator[bytes]:
    """256 MiB."""
    for _ in range(256):
        yield CHUNK


@dataclass(frozen=True)
class Objects:
    """A bare client's own calls: small objects and large ones, by key."""

    put: Callable[[str, bytes], Awaitable[object]]
    get: Callable[[str], Awaitable[object]]
    put_large: Callable[[str], Awaitable[object]]


async def objects(service: ConnectorService, kind: str, config: dict[str, Any], bare: Objects) -> Pieces:
    """The pieces of a storage provider. The bare client has as many connections."""
    connector = await registered(service, kind, "storage", config)
    target = await service.target(connector)

    async def put(number: int) -> object:
        arguments = {"key": f"ours/{number}", "text": "x" * 1000}
        return await service.execute("put", arguments, connector_id=connector)

    async def get(number: int) -> object:
        return await service.execute("get", {"key": f"ours/{number}"}, connector_id=connector)

    async def put_large() -> object:
        return await service.upload(service.plan(target, "put", {"key": "ours-large"}, raw=True), content())

    async def get_large() -> None:
        planned = service.plan(target, "get", {"key": "ours-large"}, raw=True)
        async with service.download(planned) as found:
            async for _ in found.chunks:
                pass

    return {
        "1,000 small puts": (lambda: many(put), lambda: many(lambda number: bare.put(f"bare/{number}", b"x" * 1000))),
        "1,000 small gets": (lambda: many(get), lambda: many(lambda number: bare.get(f"bare/{number}"))),
        "one put of 256 MiB, streamed": (put_large, lambda: bare.put_large("bare-large")),
        "one get of 256 MiB, streamed": (get_large, lambda: bare.get("ours-large")),
    }


@asynccontextmanager
async def s3(service: ConnectorService) -> AsyncIterator[Pieces]:
    """SeaweedFS; bare: aiobotocore."""
    from tests.upstreams.seaweedfs import Seaweedfs

    with started(Seaweedfs()) as server:
        async with aws("s3", server.url, server.key, server.secret) as client:
            yield await objects(service, "s3", server.config(), _s3_objects(client, server.bucket))


@asynccontextmanager
async def minio(service: ConnectorService) -> AsyncIterator[Pieces]:
    """MinIO's gateway over a folder; bare: aiobotocore."""
    from tests.upstreams.minio import Minio

    with started(Minio()) as server:
        async with aws("s3", server.url, server.key, server.secret) as client:
            yield await objects(service, "minio", server.config(), _s3_objects(client, server.bucket))


def _s3_objects(client: Any, bucket: str) -> Objects:
    async def get(key: str) -> object:
        answer = await client.get_object(Bucket=bucket, Key=key)
        async with answer["Body"] as body:
            async for _ in body.iter_chunks(MIB):
                pass

    async def put_large(key: str) -> None:
        """Multipart by hand, 16 parts of 16 MiB: the client has no streamed put of unknown length."""
        upload = {"Bucket": bucket, "Key": key}
        upload["UploadId"] = (await client.create_multipart_upload(**upload))["UploadId"]
        parts = []
        for number in range(1, 17):
            part = await client.upload_part(**upload, PartNumber=number, Body=CHUNK * 16)
            parts.append({"ETag": part["ETag"], "PartNumber": number})
        await client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})

    return Objects(lambda key, body: client.put_object(Bucket=bucket, Key=key, Body=body), get, put_large)


@asynccontextmanager
async def gcs(service: ConnectorService) -> AsyncIterator[Pieces]:
    """An emulator behind a front that checks tokens; bare: the same API by aiohttp, with a token."""
    import aiohttp
    from tests.upstreams.gcs import Gcs
    from yarl import URL

    with started(Gcs()) as server:
        named = {"authorization": f"Bearer {server._token()}"}
        upload = f"{server.url}/upload/storage/v1/b/{server.bucket}/o"
        connector = aiohttp.TCPConnector(limit=CALLERS)
        async with aiohttp.ClientSession(connector=connector, headers=named) as http:

            async def put(key: str, body: bytes) -> None:
                async with http.post(upload, params={"uploadType": "media", "name": key}, data=body) as answer:
                    assert answer.status == 200, await answer.text()
                    await answer.read()

            async def put_large(key: str) -> None:
                """Resumable, by hand, 16 chunks of 16 MiB."""
                query, size = {"uploadType": "resumable", "name": key}, len(CHUNK) * 256
                async with http.post(upload, params=query, json={"name": key}) as answer:
                    query["upload_id"] = URL(answer.headers["location"]).query["upload_id"]
                for start in range(0, size, size // 16):
                    named = {"content-range": f"bytes {start}-{start + size // 16 - 1}/{size}"}
                    if start + size // 16 < size:
                        named["content-range"] = named["content-range"].rpartition("/")[0] + "/*"
                    async with http.put(upload, params=query, data=io.BytesIO(CHUNK * 16), headers=named) as answer:
                        assert answer.status in {200, 308}, await answer.text()

            async def get(key: str) -> None:
                path = f"{server.url}/storage/v1/b/{server.bucket}/o/{quote(key, safe='')}"
                async with http.get(path, params={"alt": "media"}) as answer:
                    assert answer.status == 200, await answer.text()
                    async for _ in answer.content.iter_any():
                        pass

            yield await objects(service, "gcs", server.config(), Objects(put, get, put_large))


@asynccontextmanager
async def azure_blob(service: ConnectorService) -> AsyncIterator[Pieces]:
    """Azurite, an emulator; bare: azure-storage-blob."""
    from azure.storage.blob.aio import ContainerClient
    from tests.upstreams.azurite import BUCKET, Azurite

    with started(Azurite()) as server:
        credential = {"account_name": server.storage_account, "account_key": server.key}
        async with ContainerClient(server.url, BUCKET, credential=credential) as client:

            async def put(key: str, body: bytes | AsyncIterator[bytes]) -> object:
                return await client.upload_blob(key, body, overwrite=True)

            async def get(key: str) -> None:
                async for _ in (await client.download_blob(key)).chunks():
                    pass

            yield await objects(
                service, "azure_blob", server.config(), Objects(put, get, lambda key: put(key, content()))
            )
