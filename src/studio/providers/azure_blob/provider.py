"""Azure Blob Storage: block blobs by name in one container, below one prefix."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field, SecretStr, model_validator

from studio.contract import Destination, Pem, ProviderConfig, Secret, Text
from studio.contract.config import secret_check
from studio.contract.storage import Method, StorageConfig
from studio.contract.web import BaseUrl, Url, split_url
from studio.errors import InvalidConfig, NotFound, StudioError
from studio.providers._objects.parts import Content, Entry, Page
from studio.providers._objects.verbs import ObjectProvider
from studio.providers.azure_blob.errors import error_of
from studio.providers.azure_blob.text import connection_fields, permissions, sas_fields

if TYPE_CHECKING:
    from studio.providers.azure_blob.client import Container


def _key(value: SecretStr) -> SecretStr:
    try:
        good = bool(base64.b64decode(value.get_secret_value(), validate=True))
    except (ValueError, binascii.Error):
        good = False
    if not good:
        raise ValueError("must be base64, as the portal shows it")
    return value


def _sas(value: SecretStr) -> SecretStr:
    return SecretStr(sas_fields(value.get_secret_value()))


class AzureBlobConfig(StorageConfig):
    """One container, and one of account_key, sas_token and connection_string; without any: anonymous.

    A connection_string is taken apart at once and never kept; a part of it that contradicts a field
    given beside it is refused.
    """

    account: Annotated[Text, Destination(), Field(pattern=r"^[a-z0-9]{3,24}$")] = Field(
        description="The storage account's name."
    )
    container: Annotated[Text, Field(pattern=r"^(\$root|[a-z0-9](-?[a-z0-9]){2,62})$")] = Field(
        description="The container's name."
    )
    account_key: Annotated[Secret, secret_check(_key)] | None = Field(None, description="Access key of the account.")
    sas_token: Annotated[Secret, secret_check(_sas)] | None = Field(
        None, description="Shared access signature; the way to give fewer rights than all."
    )
    endpoint: Annotated[BaseUrl | None, Destination()] = Field(
        None, description="URL of the account's blob service; left out: the account's in Azure's public cloud."
    )
    ssl_ca: Pem | None = Field(None, description="CA certificates that replace the system's, as PEM.")

    @model_validator(mode="before")
    @classmethod
    def _take_connection_string(cls, given: Any) -> Any:
        if not isinstance(given, dict) or "connection_string" not in given:
            return given
        fields = {name: value for name, value in given.items() if name != "connection_string"}
        for name, value in connection_fields(given["connection_string"]).items():
            if fields.setdefault(name, value) != value:
                raise ValueError(f"connection_string: contradicts the field {name}; give one of the two")
        return fields

    @model_validator(mode="after")
    def _one_credential(self) -> Self:
        if self.account_key is not None and self.sas_token is not None:
            raise ValueError("account_key and sas_token: give one of the two")
        return self


class AzureBlob(ObjectProvider[AzureBlobConfig]):
    """An Azure Blob Storage container."""

    kind = "azure_blob"
    Config: ClassVar[type[ProviderConfig]] = AzureBlobConfig
    exact_tokens = False
    put_headers: ClassVar[Mapping[str, str]] = {"x-ms-blob-type": "BlockBlob"}
    fixes: ClassVar[Mapping[str, str]] = {
        "resolve": "Check account or endpoint: the host name is made of it.",
        "connect": "Check the endpoint's host and port, and firewalls in between.",
        "tls": "Check that the endpoint speaks TLS, and give its CA as ssl_ca if it has one of its own.",
        "login": "Check account, container and credential; a SAS needs the permission list (l) on the container.",
        "auth_failed": "Check account and account_key or sas_token: keys are rotated, and a SAS ends.",
        "sample": "Give the SAS the permission read (r).",
        "egress_denied": "Ask the operator to open the address with STUDIO_EGRESS_ALLOW.",
    }

    _container: Container

    async def open(self, stack: AsyncExitStack) -> None:
        """Make the client; it connects on first use."""
        driver = await asyncio.to_thread(import_module, "studio.providers.azure_blob.client")
        config = self.config
        http = await self.session(stack)
        self._container = driver.Container(
            http,
            url=self.config.endpoint or f"https://{config.account}.blob.core.windows.net",
            account=config.account,
            container=config.container,
            key=config.account_key.get_secret_value() if config.account_key else None,
            sas=config.sas_token.get_secret_value() if config.sas_token else None,
            connect_s=config.connect_timeout_s,
            read_s=config.timeout_s,
        )

    def translate(self, exc: Exception) -> StudioError | None:
        """See `errors.py`."""
        return error_of(exc)

    def endpoint(self) -> Url:
        """The configured one, or the account's."""
        return split_url(self.config.endpoint or f"https://{self.config.account}.blob.core.windows.net")

    # -- the holes --------------------------------------------------------------------------------

    async def page(self, prefix: str, delimiter: str | None, token: str | None, limit: int) -> Page:
        """List Blobs."""
        return await self._container.page(prefix, delimiter, token, limit)

    async def describe(self, name: str) -> Entry:
        """Get Blob Properties."""
        return await self._container.describe(name)

    @asynccontextmanager
    async def opened(self, name: str, offset: int, length: int | None, etag: str | None) -> AsyncIterator[Content]:
        """Get Blob, a range at a time, all of them of the same version."""
        yield await self._container.read(name, offset, length, etag)

    async def store(self, name: str, body: bytes, content_type: str, create_only: bool) -> Entry:
        """Put Blob."""
        return await self._container.store(name, body, content_type, create_only)

    async def store_parts(self, name: str, parts: AsyncIterator[bytes], content_type: str, create_only: bool) -> Entry:
        """Blocks, and a list that makes a blob of them. Blocks in no list are dropped after a week."""
        return await self._container.store_blocks(name, parts, content_type, create_only, self.retried)

    async def duplicate(self, source: str, target: str) -> Entry:
        """Copy Blob."""
        return await self._container.duplicate(source, target)

    async def remove(self, name: str) -> None:
        """Delete Blob."""
        try:
            await self._container.remove(name)
        except Exception as exc:
            if not isinstance(self.error(exc), NotFound):
                raise

    async def signed(self, name: str, method: Method, seconds: int) -> str:
        """A service SAS for one blob."""
        if self.config.account_key is None:
            raise InvalidConfig("a URL can only be signed with an account_key, and this connector has none")
        return self._container.signed(name, "r" if method == "GET" else "cw", seconds)

    async def privileges(self) -> dict[str, Any]:
        """A SAS says itself what it allows; an account key allows everything."""
        config = self.config
        excess: list[str] | None = []
        if config.account_key is not None:
            excess = ["account key: every right on every container of the account"]
        elif config.sas_token is not None:
            excess = permissions(config.sas_token.get_secret_value())
        return {
            "enforced_by": "account" if excess == [] else "service",
            "excess": excess or [],
            "grant": [
                f"az storage container generate-sas --account-name {config.account} --name {config.container} "
                "--permissions rl --https-only --expiry <date>"
            ],
            "detail": None if excess is not None else "the SAS takes its permissions from a stored access policy",
        }
