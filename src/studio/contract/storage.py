"""The verbs of the storage family: objects by key, below one stored prefix.

A caller's key is relative to the connector's `prefix`, and what an operation answers is too: the
prefix is never seen, and no spelling of a key leads out of it. Every member has the same verbs;
`studio.providers._objects.verbs` writes them once over the few calls in which the services differ.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, Field

from studio.contract.config import BELOW, LOWER, Overridable, ProviderConfig
from studio.contract.keys import MAX_KEY_BYTES, checked_key, verb_and_key
from studio.contract.operation import Batch, Download, byte_form, operation
from studio.contract.probe import Probe
from studio.contract.provider import Provider
from studio.models import Effect, Result


def _checked_prefix(prefix: str) -> str:
    """A stored prefix is a folder: it ends with a slash, so that `team` never covers `team-b`."""
    checked_key(prefix)
    return prefix if not prefix or prefix.endswith("/") else f"{prefix}/"


TO_FALSE = Overridable(lambda stored, wanted: bool(stored) or not wanted, "may only be set to false")
Prefix = Annotated[str, Field(max_length=MAX_KEY_BYTES), AfterValidator(_checked_prefix)]
"""The folder of a bucket that a connector is about; empty is the whole bucket."""
Key = Annotated[
    str,
    Field(min_length=1, max_length=MAX_KEY_BYTES, description="The object's key, below the connector's prefix."),
    AfterValidator(checked_key),
]
KeyPrefix = Annotated[
    str, Field(max_length=MAX_KEY_BYTES, description="What the keys begin with."), AfterValidator(checked_key)
]
Cursor = Annotated[str | None, Field(max_length=8192, description="next_cursor of the page before.")]
Limit = Annotated[int | None, Field(ge=1, description="Rows to answer at most; max_rows if left out.")]
Offset = Annotated[int, Field(ge=0, description="First byte to read.")]
Length = Annotated[int | None, Field(ge=1, description="Bytes to read at most.")]
ContentType = Annotated[
    str | None,
    Field(max_length=255, pattern=r"^[!-~]+/[!-~]+(; ?[ -~]+)?$", description="Media type; guessed if left out."),
]
CreateOnly = Annotated[bool, Field(description="Only create: an object that is there already is a conflict.")]
Encoding = Annotated[
    Literal["auto", "text", "json", "base64"],
    Field(description="How to answer the content; auto: JSON if it is, else text if it is UTF-8, else base64."),
]
Form = Annotated[
    Literal["auto", "csv", "ndjson", "json", "parquet", "text"],
    Field(description="What the content is; auto goes by the key's ending, then by the content type."),
]
Delimiter = Annotated[Literal["/"] | None, Field(description="List folders as one row each; left out: all keys.")]
Columns = Annotated[tuple[str, ...] | None, Field(strict=False, description="Only these columns, in this order.")]
Separator = Annotated[str, Field(min_length=1, max_length=1, description="Of CSV: what stands between fields.")]
Header = Annotated[bool, Field(description="Of CSV: whether the first record names the columns.")]
AsText = Annotated[str | None, Field(description="The content, as text; stored as UTF-8.")]
AsBase64 = Annotated[str | None, Field(description="The content, as base64 (RFC 4648, section 4).")]
Method = Annotated[Literal["GET", "PUT"], Field(description="What the URL is for.")]
Seconds = Annotated[int | None, Field(ge=1, le=3600, description="Life of the URL, seconds; 60 if left out.")]
ConfigT = TypeVar("ConfigT", bound="StorageConfig")


class StorageConfig(ProviderConfig):
    """The fields that every storage provider has."""

    prefix: Annotated[Prefix, BELOW] = Field("", description="Folder that all keys are below; empty: the whole bucket.")
    allow_presign: Annotated[bool, TO_FALSE] = Field(
        False, description="Allow presign: whoever holds such a URL needs no other right until it expires."
    )
    presign_max_s: Annotated[int, LOWER] = Field(60, ge=1, le=3600, description="Longest life of a URL, seconds.")
    max_object_bytes: Annotated[int, LOWER] = Field(
        5 * 1024**3, ge=1, le=5 * 1024**4, description="Bytes of one object that is streamed in or out."
    )


def _presign_effect(arguments: Mapping[str, Any]) -> Effect:
    return Effect.WRITE if arguments.get("method") == "PUT" else Effect.READ


class StorageProvider(Provider[ConfigT]):
    """Objects in one bucket or container."""

    family: ClassVar[str] = "storage"

    @operation(Effect.READ)
    @abstractmethod
    async def list(
        self, prefix: KeyPrefix = "", delimiter: Delimiter = None, cursor: Cursor = None, limit: Limit = None
    ) -> Result:
        """List one page of keys: key, type (object or prefix), size, modified, etag.

        With the delimiter, keys that share a folder below the prefix are one row of the type prefix.
        `next_cursor` continues; it is null at the end, and `truncated` says the same.
        """

    @operation(Effect.READ)
    @abstractmethod
    async def head(self, key: Key) -> dict[str, Any]:
        """Describe one object: key, size, modified, etag, content_type."""

    @operation(Effect.READ)
    @abstractmethod
    async def get(self, key: Key, offset: Offset = 0, length: Length = None, encoding: Encoding = "auto") -> Result:
        """Read one object, or a range of its bytes, up to max_bytes.

        `truncated` says that bytes of what was asked for are missing; offset + length continues.
        """

    @byte_form("get")
    @abstractmethod
    def read(self, key: Key, offset: Offset = 0, length: Length = None) -> AbstractAsyncContextManager[Download]:
        """The object's bytes in constant memory, up to max_object_bytes."""

    @operation(Effect.READ)
    @abstractmethod
    def rows(
        self,
        key: Key,
        form: Form = "auto",
        columns: Columns = None,
        separator: Separator = ",",
        header: Header = True,
    ) -> AsyncIterator[Batch]:
        """Read an object as rows: CSV, NDJSON, a JSON array, Parquet, or lines of text.

        Only as much of it is fetched as the rows need. `.gz` is unpacked.
        """

    @operation(Effect.WRITE)
    @abstractmethod
    async def put(
        self,
        key: Key,
        text: AsText = None,
        base64: AsBase64 = None,
        content_type: ContentType = None,
        if_none_match: CreateOnly = False,
    ) -> dict[str, Any]:
        """Store one object; what was there under the key is replaced."""

    @byte_form("put")
    @abstractmethod
    async def write(
        self,
        chunks: AsyncIterator[bytes],
        key: Key,
        content_type: ContentType = None,
        if_none_match: CreateOnly = False,
    ) -> dict[str, Any]:
        """Store one object of any size in constant memory, up to max_object_bytes; all of it or nothing."""

    @operation(Effect.WRITE, idempotent=True)
    @abstractmethod
    async def copy(self, source: Key, target: Key) -> dict[str, Any]:
        """Copy one object below the prefix; what was there under the target is replaced."""

    @operation(Effect.DELETE, idempotent=True)
    @abstractmethod
    async def delete(self, key: Key) -> dict[str, Any]:
        """Delete one object. It is no error if there is none."""

    @operation(_presign_effect)
    @abstractmethod
    async def presign(self, key: Key, method: Method = "GET", expires_s: Seconds = None) -> dict[str, Any]:
        """Make a URL that reads or stores one object without credentials, until it expires.

        Off unless the connector's allow_presign is true.
        """

    @classmethod
    def native(cls, query: str, params: Mapping[str, Any] | None) -> tuple[str, dict[str, Any]]:
        """A verb and a key: `list logs/`, `get logs/:name`, `put …`; see `verb_and_key`."""
        return verb_and_key(query, params or {})

    async def probe(self, probe: Probe) -> None:
        """Stages: resolve, connect, tls (for https), login (a list of one key), privileges, sample."""
        await self.reach(probe)
        with probe.stage("login"):
            await self.ping()
        with probe.stage("privileges"):
            probe.privileges = await self.privileges()
        with probe.stage("sample") as stage:
            stage.detail = await self.sample()

    @abstractmethod
    async def reach(self, probe: Probe) -> None:
        """The stages up to an open connection: resolve, connect, tls."""

    @abstractmethod
    async def privileges(self) -> dict[str, Any]:
        """What can be told of the account's rights without writing (see `Probe.privileges`)."""

    @abstractmethod
    async def sample(self) -> str | None:
        """Read the first bytes of the first object; what that showed, in words."""
