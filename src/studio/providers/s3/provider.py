"""Amazon S3, and what speaks its protocol: objects by key in one bucket, below one prefix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Self

from pydantic import AfterValidator, Field, model_validator

from studio.contract import Destination, Pem, ProviderConfig, Secret, Text
from studio.contract.storage import StorageConfig
from studio.contract.web import BaseUrl
from studio.providers.s3.protocol import S3Provider

if TYPE_CHECKING:
    from studio.providers.s3.session import Access


def _bucket(name: str) -> str:
    if ".." in name or name.endswith("--x-s3") or name.replace(".", "").isdigit():
        raise ValueError("must be the name of a general purpose bucket")
    return name


Bucket = Annotated[Text, Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$"), AfterValidator(_bucket)]
"""A bucket's plain name: no ARN and no access point, which would choose another host."""
Region = Annotated[Text, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$")]
KeyId = Annotated[Text, Field(pattern=r"^[!-~]{1,128}$")]


class S3Config(StorageConfig):
    """One bucket. Without keys it is read anonymously; no key is ever looked for anywhere else."""

    bucket: Bucket = Field(description="The bucket's name.")
    region: Region = Field("us-east-1", description="The bucket's region.")
    access_key_id: KeyId | None = Field(None, description="Access key id; left out with its secret: anonymous.")
    secret_access_key: Secret | None = Field(None, description="Secret of the access key.")
    session_token: Secret | None = Field(None, description="Token of temporary credentials.")
    endpoint_url: Annotated[BaseUrl | None, Destination()] = Field(
        None, description="URL of an S3-compatible service; left out: Amazon's, in the region."
    )
    path_style: bool | None = Field(
        None, description="The bucket in the path, not in the host name; left out: only with an endpoint_url."
    )
    ssl_ca: Pem | None = Field(None, description="CA certificates that replace the system's, as PEM.")

    @model_validator(mode="after")
    def _keys_are_whole(self) -> Self:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id and secret_access_key: give both, or none for anonymous access")
        if self.session_token is not None and self.access_key_id is None:
            raise ValueError("session_token: belongs to an access_key_id, which is not given")
        return self


class S3(S3Provider[S3Config]):
    """An Amazon S3 bucket, or one of a service that speaks its protocol."""

    kind = "s3"
    Config: ClassVar[type[ProviderConfig]] = S3Config

    @property
    def bucket(self) -> str:
        """The bucket's name."""
        return self.config.bucket

    @property
    def atomic_create(self) -> bool:  # type: ignore[override]
        """Amazon S3 knows If-None-Match; of its likes, not all do."""
        return self.config.endpoint_url is None

    def access(self) -> Access:
        """What the configuration says."""
        from studio.providers.s3.session import Access

        config = self.config
        return Access(
            region=config.region,
            endpoint_url=config.endpoint_url,
            path_style=config.endpoint_url is not None if config.path_style is None else config.path_style,
            connections=config.pool_size,
            key_id=config.access_key_id,
            secret=config.secret_access_key.get_secret_value() if config.secret_access_key else None,
            token=config.session_token.get_secret_value() if config.session_token else None,
        )
