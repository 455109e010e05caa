"""MinIO: objects by key in one bucket of a server of one's own, below one prefix."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, ClassVar, Self

from pydantic import AfterValidator, Field, model_validator

from studio.contract import Destination, Pem, ProviderConfig, Secret
from studio.contract.storage import StorageConfig
from studio.contract.web import split_url
from studio.providers._aws.config import KeyId, Region
from studio.providers.s3.protocol import S3Provider
from studio.providers.s3.provider import Bucket

if TYPE_CHECKING:
    from studio.providers._aws.session import Access


def _host_and_port(text: str) -> str:
    """As MinIO's own clients take it: `host[:port]`. `secure` says whether it is https."""
    if "/" in text:
        raise ValueError("must be host[:port], without scheme and path; secure chooses https")
    # Validated with a scheme whose default port nobody means, so that a given port is kept.
    url = split_url(f"http://{text}")
    host = f"[{url.host}]" if ":" in url.host else url.host
    return f"{host}:{url.port}" if re.search(r":\d+$", text) else host


class MinioConfig(StorageConfig):
    """One bucket of a MinIO server. Without keys it is read anonymously."""

    endpoint: Annotated[str, Destination(), Field(max_length=300), AfterValidator(_host_and_port)] = Field(
        description="The server, as host[:port]."
    )
    secure: Annotated[bool, Destination()] = Field(True, description="https; false: http.")
    access_key: KeyId | None = Field(None, description="Access key or user name; left out with its secret: anonymous.")
    secret_key: Secret | None = Field(None, description="Secret key or password.")
    bucket: Bucket = Field(description="The bucket's name.")
    region: Region = Field("us-east-1", description="The server's region, where it has one.")
    ssl_ca: Pem | None = Field(None, description="CA certificates that replace the system's, as PEM.")

    @model_validator(mode="after")
    def _keys_are_whole(self) -> Self:
        if (self.access_key is None) != (self.secret_key is None):
            raise ValueError("access_key and secret_key: give both, or none for anonymous access")
        return self


class Minio(S3Provider[MinioConfig]):
    """A bucket of a MinIO server."""

    kind = "minio"
    Config: ClassVar[type[ProviderConfig]] = MinioConfig

    @property
    def bucket(self) -> str:
        """The bucket's name."""
        return self.config.bucket

    def access(self) -> Access:
        """What the configuration says; MinIO is asked in path style."""
        from studio.providers._aws.session import Access

        config = self.config
        return Access(
            region=config.region,
            endpoint_url=f"{'https' if config.secure else 'http'}://{config.endpoint}",
            path_style=True,
            connections=config.pool_size,
            key_id=config.access_key,
            secret=config.secret_key.get_secret_value() if config.secret_key else None,
        )
