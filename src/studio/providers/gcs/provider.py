"""Google Cloud Storage: objects by key in one bucket, below one prefix."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal
from urllib.parse import quote
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, model_validator

from studio.contract import Destination, Pem, ProviderConfig, SecretPem, Text
from studio.contract.storage import Method, StorageConfig
from studio.contract.web import BaseUrl, Url, split_url
from studio.errors import Conflict, InvalidConfig, NotFound, StudioError, UpstreamError
from studio.providers._objects.parts import Content, Entry, Page, content_range
from studio.providers._objects.verbs import ObjectProvider
from studio.providers.gcs.errors import Refused, error_of
from studio.providers.gcs.sign import signed_url
from studio.providers.gcs.upload import Upload, only, strange

if TYPE_CHECKING:
    from studio.providers.gcs.http import Api

GOOGLE = "https://storage.googleapis.com"
TOKENS = "https://oauth2.googleapis.com/token"


class ServiceAccount(BaseModel):
    """The key of a service account: the JSON file that Google makes, as an object or as its text.

    Only the three fields below are used, and only of the type `service_account`: the other types
    name programs, files or servers that credentials would be fetched from or sent to.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, hide_input_in_errors=True)

    type: Literal["service_account"]
    client_email: Annotated[Text, Field(pattern=r"^[^@\s]+@[^@\s]+$")]
    private_key: SecretPem
    private_key_id: Text | None = None

    @model_validator(mode="before")
    @classmethod
    def _text_or_object(cls, given: Any) -> Any:
        if isinstance(given, str):
            try:
                given = json.loads(given)
            except (ValueError, RecursionError):
                raise ValueError("must be the JSON of a service account's key") from None
        return given


class GcsConfig(StorageConfig):
    """One bucket. Without a service account it is read anonymously; none is looked for anywhere else."""

    bucket: Annotated[Text, Field(pattern=r"^[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]$")] = Field(
        description="The bucket's name."
    )
    service_account: ServiceAccount | None = Field(None, description="Key of a service account; left out: anonymous.")
    endpoint: Annotated[BaseUrl | None, Destination()] = Field(
        None, description="URL of a service that speaks the same protocol; left out: Google's."
    )
    ssl_ca: Pem | None = Field(None, description="CA certificates that replace the system's, as PEM.")


class Gcs(ObjectProvider[GcsConfig]):
    """A Google Cloud Storage bucket."""

    kind = "gcs"
    Config: ClassVar[type[ProviderConfig]] = GcsConfig
    exact_tokens = False
    part_bytes = 16 * 1024 * 1024
    fixes: ClassVar[Mapping[str, str]] = {
        "resolve": "Check the endpoint, and that this machine's DNS knows it.",
        "connect": "Check the endpoint's host and port, and firewalls in between.",
        "tls": "Check that the endpoint speaks TLS, and give its CA as ssl_ca if it has one of its own.",
        "login": "Check bucket and service_account; the account needs storage.objects.list on the bucket.",
        "auth_failed": "Check service_account: its key may have been deleted; make a new one and update the connector.",
        "sample": "Give the account storage.objects.get on the bucket.",
        "egress_denied": "Ask the operator to open the address with STUDIO_EGRESS_ALLOW.",
    }

    _api: Api

    async def open(self, stack: AsyncExitStack) -> None:
        """Make the session; it connects, and asks for a token, on first use."""
        driver = await asyncio.to_thread(import_module, "studio.providers.gcs.http")
        config = self.config
        http = await self.session(stack)
        given, account = config.service_account, None
        if given is not None:
            pem = given.private_key.get_secret_value()
            account = await asyncio.to_thread(driver.Account.load, given.client_email, pem, given.private_key_id)
        tokens = f"{config.endpoint}/token" if config.endpoint else TOKENS
        self._api = driver.Api(http, config.endpoint or GOOGLE, tokens, account)
        self._bucket = f"/storage/v1/b/{quote(config.bucket, safe='')}"

    def translate(self, exc: Exception) -> StudioError | None:
        """See `http.py`."""
        return error_of(exc)

    def endpoint(self) -> Url:
        """The configured one, or Google's."""
        return split_url(self.config.endpoint or GOOGLE)

    # -- the holes --------------------------------------------------------------------------------

    async def page(self, prefix: str, delimiter: str | None, token: str | None, limit: int) -> Page:
        """Objects: list."""
        wanted = {"prefix": prefix, "delimiter": delimiter, "pageToken": token, "maxResults": str(limit)}
        try:
            found = await self._api.json("GET", f"{self._bucket}/o", query={k: v for k, v in wanted.items() if v})
        except Refused as exc:
            exc.bucket = exc.status == 404  # a list of nothing is no error
            raise
        try:
            entries = [_entry(item) for item in found.get("items", ())]
            prefixes = [str(name) for name in found.get("prefixes", ())]
        except (TypeError, AttributeError, LookupError, ValueError):
            raise strange() from None
        token = found.get("nextPageToken")
        return Page(entries, prefixes, token if isinstance(token, str) and token else None)

    async def describe(self, name: str) -> Entry:
        """Objects: get."""
        async with self._there(name):
            return await self._known("GET", self._object(name))

    @asynccontextmanager
    async def _there(self, name: str) -> AsyncIterator[None]:
        """Of a 404 that may mean either, a list tells whether it is the bucket that is missing."""
        try:
            yield
        except Refused as exc:
            if exc.status == 404 and not exc.message.startswith("No such object"):
                await self.page(name, None, None, 1)
            raise

    @asynccontextmanager
    async def opened(self, name: str, offset: int, length: int | None, etag: str | None) -> AsyncIterator[Content]:
        """Objects: get, with `alt=media` and a range. Stored gzip is not unpacked on the way."""
        headers = {"Accept-Encoding": "gzip"}
        if offset or length is not None:
            headers["Range"] = f"bytes={offset}-{offset + length - 1 if length is not None else ''}"
        query = {"alt": "media", **({"ifGenerationMatch": etag} if etag else {})}
        async with AsyncExitStack() as stack:
            async with self._there(name):
                ask = self._api.request("GET", self._object(name), query=query, headers=headers)
                answer = await stack.enter_async_context(ask)
            start, size = content_range(answer.headers.get("Content-Range"), answer.headers.get("Content-Length"))
            if start != offset:
                raise UpstreamError("the server does not answer the range that it was asked for")
            left = max(0, size - offset)
            entry = Entry(
                name,
                size,
                _http_date(answer.headers.get("Last-Modified")),
                answer.headers.get("X-Goog-Generation"),
                answer.headers.get("Content-Type"),
            )
            yield Content(entry, left if length is None else min(left, length), answer.content.iter_any())

    async def store(self, name: str, body: bytes, content_type: str, create_only: bool) -> Entry:
        """Objects: insert, metadata and content in one request (RFC 2387)."""
        mark = uuid4().hex
        head = json.dumps({"name": name, "contentType": content_type}).encode()
        parts = [
            f"--{mark}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n".encode(), head,
            f"\r\n--{mark}\r\nContent-Type: {content_type}\r\n\r\n".encode(), body, f"\r\n--{mark}--\r\n".encode(),
        ]  # fmt: skip
        return await self._known(
            "POST",
            f"/upload{self._bucket}/o",
            query={"uploadType": "multipart", **only(create_only)},
            headers={"Content-Type": f"multipart/related; boundary={mark}"},
            body=b"".join(parts),
        )

    async def store_parts(self, name: str, parts: AsyncIterator[bytes], content_type: str, create_only: bool) -> Entry:
        """A resumable upload; the object is there when its last chunk is, and not before."""
        if create_only:
            await self._must_be_free(name)  # before the bytes travel
        upload = await Upload.begin(self._api, f"/upload{self._bucket}/o", name, content_type, only(create_only))
        try:
            async for part in parts:
                await upload.add(part)
            if create_only and self.config.endpoint is not None:
                await self._must_be_free(name)  # not every server keeps the condition until the end
            return _entry(await upload.finish())
        except BaseException:
            await upload.cancel()
            raise

    async def duplicate(self, source: str, target: str) -> Entry:
        """Objects: rewrite, as often as it takes."""
        path = f"{self._object(source)}/rewriteTo{self._object(target).removeprefix('/storage/v1')}"
        query: dict[str, str] = {}
        while True:
            found = await self._api.json("POST", path, query=query, headers={"Content-Type": "application/json"})
            if found.get("done", True):
                try:
                    return _entry(found["resource"])
                except (TypeError, AttributeError, LookupError, ValueError):
                    raise strange() from None
            query = {"rewriteToken": str(found.get("rewriteToken", ""))}

    async def remove(self, name: str) -> None:
        """Objects: delete."""
        try:
            async with self._api.request("DELETE", self._object(name)):
                return
        except Exception as exc:
            if not isinstance(self.error(exc), NotFound):
                raise

    async def signed(self, name: str, method: Method, seconds: int) -> str:
        """A V4 signed URL."""
        account = self._api.account
        if account is None:
            raise InvalidConfig("a URL can only be signed with a service_account, and this connector has none")
        url = self.endpoint()
        path = f"{url.path}/{quote(self.config.bucket, safe='')}/{quote(name, safe='/~')}"
        return await asyncio.to_thread(signed_url, account, url.origin, path, method, seconds, datetime.now(UTC))

    async def privileges(self) -> dict[str, Any]:
        """Ask which of a few permissions the account has (Buckets: testIamPermissions)."""
        asked = ["storage.objects.create", "storage.objects.delete", "storage.objects.update"]
        held: list[str] | None = None
        try:
            query = "&".join(f"permissions={name}" for name in asked)
            found = await self._api.json("GET", f"{self._bucket}/iam/testPermissions?{query}")
            held = [name for name in found.get("permissions", ()) if name in asked]
        except Exception as exc:
            if self.translate(exc) is None:
                raise
        return {
            "enforced_by": "account" if held == [] else "service",
            "excess": held or [],
            "grant": [
                f"gcloud storage buckets add-iam-policy-binding gs://{self.config.bucket} "
                "--member=serviceAccount:<client_email> --role=roles/storage.objectViewer"
            ],
            "detail": None if held is not None else "the server does not tell what the account may do",
        }

    # -- below ------------------------------------------------------------------------------------

    def _object(self, name: str) -> str:
        return f"{self._bucket}/o/{quote(name, safe='')}"

    async def _known(self, method: str, path: str, **more: Any) -> Entry:
        try:
            return _entry(await self._api.json(method, path, **more))
        except (TypeError, AttributeError, LookupError, ValueError):
            raise strange() from None

    async def _must_be_free(self, name: str) -> None:
        try:
            await self.describe(name)
        except Exception as exc:
            if isinstance(self.error(exc), NotFound):
                return
            raise
        raise Conflict("there is an object under this key already; nothing was stored")


def _entry(item: Mapping[str, Any]) -> Entry:
    return Entry(
        str(item["name"]),
        int(item.get("size", 0)),
        item.get("updated"),
        str(item["generation"]) if "generation" in item else None,
        item.get("contentType"),
    )


def _http_date(text: str | None) -> str | None:
    from email.utils import parsedate_to_datetime

    try:
        return parsedate_to_datetime(text or "").astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except ValueError:
        return None
