"""The S3 protocol below the storage verbs; what `s3` and `minio` share."""

from __future__ import annotations

import asyncio
import json
from abc import abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from studio.contract import canonical
from studio.contract.storage import ConfigT, Method
from studio.contract.web import Url, split_url
from studio.errors import Conflict, NotFound, StudioError, UpstreamError
from studio.providers._objects.parts import Content, Entry, Page, content_range
from studio.providers._objects.verbs import ObjectProvider
from studio.providers.s3.errors import error_of
from studio.providers.s3.rights import open_to

if TYPE_CHECKING:
    from studio.providers._aws.session import Access

_CLEAN_UP_S = 5.0


class S3Provider(ObjectProvider[ConfigT]):
    """A bucket behind the S3 protocol."""

    fixes: ClassVar[Mapping[str, str]] = {
        "resolve": "Check the endpoint, or the region: the host name is made of it.",
        "connect": "Check the endpoint's host and port, and firewalls in between.",
        "tls": "Check that the endpoint speaks TLS, and give its CA as ssl_ca if it has one of its own.",
        "login": "Check bucket, region and the keys; the account needs s3:ListBucket on the bucket.",
        "auth_failed": "Check the access key and its secret; after a rotation, update the connector.",
        "sample": "Give the account s3:GetObject on the bucket's objects.",
        "egress_denied": "Ask the operator to open the address with STUDIO_EGRESS_ALLOW.",
    }
    atomic_create = False
    """Whether the server surely knows If-None-Match. Older ones ignore it, and would overwrite."""
    copy_at_once: ClassVar[int] = 5 * 1024**3
    """Bytes that one CopyObject takes (S3 API); larger objects are copied in parts."""
    copy_part: ClassVar[int] = 1024**3

    @abstractmethod
    def access(self) -> Access:
        """Where to go, and as whom."""

    @property
    @abstractmethod
    def bucket(self) -> str:
        """The bucket's name."""

    async def open(self, stack: AsyncExitStack) -> None:
        """Make the client; it connects on first use."""
        # The driver's import and its models take half a second, which is not the event loop's.
        driver = await asyncio.to_thread(import_module, "studio.providers._aws.session")
        http = await self.session(stack)
        self._client = await driver.client("s3", stack, self.access(), http)

    def translate(self, exc: Exception) -> StudioError | None:
        """See `errors.py`."""
        return error_of(exc)

    def endpoint(self) -> Url:
        """The configured one, or the region's."""
        return split_url(self._client.meta.endpoint_url)

    # -- the holes --------------------------------------------------------------------------------

    async def page(self, prefix: str, delimiter: str | None, token: str | None, limit: int) -> Page:
        """ListObjectsV2."""
        found = await self._client.list_objects_v2(
            Bucket=self.bucket, Prefix=prefix, MaxKeys=limit, **_given(Delimiter=delimiter, ContinuationToken=token)
        )
        return Page(
            [_entry(one["Key"], one, one.get("Size", 0)) for one in found.get("Contents", ())],
            [one["Prefix"] for one in found.get("CommonPrefixes", ())],
            found.get("NextContinuationToken") if found.get("IsTruncated") else None,
        )

    async def describe(self, name: str) -> Entry:
        """HeadObject. Its refusals carry no reason, so a list that is refused as well tells it."""
        try:
            return await self._head(name)
        except Exception as exc:
            if isinstance(self.error(exc), NotFound | UpstreamError):
                await self._reason(name)
            raise

    async def _head(self, name: str) -> Entry:
        found = await self._client.head_object(Bucket=self.bucket, Key=name)
        return _entry(name, found, found["ContentLength"])

    async def _reason(self, name: str) -> None:
        """Raises what a list of that name says of bucket, keys or region; a lack of rights says nothing new."""
        try:
            await self.page(name, None, None, 1)
        except Exception as exc:
            if getattr(exc, "response", {}).get("Error", {}).get("Code") not in {"AccessDenied", "403"}:
                raise

    @asynccontextmanager
    async def opened(self, name: str, offset: int, length: int | None, etag: str | None) -> AsyncIterator[Content]:
        """GetObject with a range."""
        wanted = None
        if offset or length is not None:
            wanted = f"bytes={offset}-{offset + length - 1 if length is not None else ''}"
        found = await self._client.get_object(
            Bucket=self.bucket, Key=name, **_given(Range=wanted, IfMatch=etag and f'"{etag}"')
        )
        body = found["Body"]
        try:
            start, size = content_range(found.get("ContentRange"), found.get("ContentLength"))
            if start != offset:
                raise UpstreamError("the server does not answer the range that it was asked for")
            left = max(0, size - offset)
            content = Content(
                _entry(name, found, size),
                left if length is None else min(left, length),
                body.raw_stream.content.iter_any(),
            )
            yield content
        finally:
            body.close()

    async def store(self, name: str, body: bytes, content_type: str, create_only: bool) -> Entry:
        """PutObject."""
        if create_only and not self.atomic_create:
            await self._must_be_free(name)
        found = await self._client.put_object(
            Bucket=self.bucket, Key=name, Body=body, ContentType=content_type, **_only(create_only)
        )
        return _stored(name, len(body), found, content_type)

    async def store_parts(self, name: str, parts: AsyncIterator[bytes], content_type: str, create_only: bool) -> Entry:
        """A multipart upload; aborted on any failure, so that no part of it stays and is paid for."""
        if create_only:
            await self._must_be_free(name)  # before the bytes travel
        place = {"Bucket": self.bucket, "Key": name}
        begun = await self._client.create_multipart_upload(**place, ContentType=content_type)
        place["UploadId"] = begun["UploadId"]
        try:
            done: list[dict[str, Any]] = []
            size = 0
            async for part in parts:
                number = len(done) + 1
                send = partial(self._client.upload_part, **place, PartNumber=number, Body=part)
                sent = await self.retried(send)
                done.append({"PartNumber": number, "ETag": sent["ETag"]})
                size += len(part)
            found = await self._complete(place, done, create_only)
        except BaseException:
            await self._abort(place)
            raise
        return _stored(name, size, found, content_type)

    async def duplicate(self, source: str, target: str) -> Entry:
        """CopyObject, or UploadPartCopy for what is too large for it."""
        entry = await self.describe(source)
        place = {"Bucket": self.bucket, "Key": target}
        origin = {"Bucket": self.bucket, "Key": source}
        if entry.size <= self.copy_at_once:
            found = (await self._client.copy_object(**place, CopySource=origin))["CopyObjectResult"]
            return _entry(target, {**found, "ContentType": entry.content_type}, entry.size)
        begun = await self._client.create_multipart_upload(**place, **_given(ContentType=entry.content_type))
        place["UploadId"] = begun["UploadId"]
        try:
            done: list[dict[str, Any]] = []
            for start in range(0, entry.size, self.copy_part):
                end = min(start + self.copy_part, entry.size) - 1
                sent = await self._client.upload_part_copy(
                    **place, PartNumber=len(done) + 1, CopySource=origin, CopySourceRange=f"bytes={start}-{end}"
                )
                done.append({"PartNumber": len(done) + 1, "ETag": sent["CopyPartResult"]["ETag"]})
            found = await self._complete(place, done, False)
        except BaseException:
            await self._abort(place)
            raise
        return _stored(target, entry.size, found, entry.content_type)

    async def remove(self, name: str) -> None:
        """DeleteObject."""
        await self._client.delete_object(Bucket=self.bucket, Key=name)

    async def signed(self, name: str, method: Method, seconds: int) -> str:
        """A query-signed URL (SigV4)."""
        url: str = await self._client.generate_presigned_url(
            {"GET": "get_object", "PUT": "put_object"}[method],
            Params={"Bucket": self.bucket, "Key": name},
            ExpiresIn=seconds,
        )
        return url

    async def privileges(self) -> dict[str, Any]:
        """Ask to add a part to an upload that does not exist: who may write hears that, others that they may not."""
        name = f"{self.config.prefix}studio-connectors-test"
        writes: bool | None = None
        try:
            await self._client.upload_part(Bucket=self.bucket, Key=name, UploadId="0" * 32, PartNumber=1, Body=b"")
        except Exception as exc:
            code = str(getattr(exc, "response", {}).get("Error", {}).get("Code", ""))
            writes = {"NoSuchUpload": True, "AccessDenied": False, "403": False}.get(code)
        return {
            "enforced_by": "account" if writes is False else "service",
            "excess": [*(["s3:PutObject"] if writes else []), *await open_to(self._client, self.bucket)],
            "grant": [self._least()],
            "detail": "whether the account may delete cannot be told without deleting"
            if writes is not None
            else "whether the account may write cannot be told without writing",
        }

    # -- below ------------------------------------------------------------------------------------

    def _least(self) -> str:
        objects = f"arn:aws:s3:::{self.bucket}/{self.config.prefix}*"
        scope = {"Condition": {"StringLike": {"s3:prefix": f"{self.config.prefix}*"}}} if self.config.prefix else {}
        listing = {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": f"arn:aws:s3:::{self.bucket}", **scope}
        reading = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": objects}
        return json.dumps({"Version": "2012-10-17", "Statement": [listing, reading]})

    async def _must_be_free(self, name: str) -> None:
        try:
            await self._head(name)
        except Exception as exc:
            if isinstance(self.error(exc), NotFound):
                return
            raise
        raise Conflict("there is an object under this key already; nothing was stored")

    async def _complete(self, place: Mapping[str, str], done: list[dict[str, Any]], create_only: bool) -> Any:
        if create_only and not self.atomic_create:
            await self._must_be_free(place["Key"])
        return await self._client.complete_multipart_upload(
            **place, MultipartUpload={"Parts": done}, **_only(create_only)
        )

    async def _abort(self, place: Mapping[str, str]) -> None:
        """Best effort: the server may be what failed."""
        try:
            async with asyncio.timeout(_CLEAN_UP_S):
                await self._client.abort_multipart_upload(**place)
        except Exception:
            return


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _only(create_only: bool) -> dict[str, str]:
    return {"IfNoneMatch": "*"} if create_only else {}


def _entry(name: str, found: Mapping[str, Any], size: int) -> Entry:
    return Entry(
        name,
        int(size),
        canonical(found.get("LastModified")),
        str(found.get("ETag", "")).strip('"') or None,
        found.get("ContentType"),
    )


def _stored(name: str, size: int, found: Mapping[str, Any], content_type: str | None) -> Entry:
    return Entry(name, size, None, str(found.get("ETag", "")).strip('"') or None, content_type)
