"""Amazon S3, and what speaks its protocol: objects by key in one bucket, below one prefix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import AfterValidator, Field

from studio.contract import ProviderConfig, Text
from studio.contract.storage import StorageConfig
from studio.providers._aws.config import AwsConfig
from studio.providers.s3.protocol import S3Provider

if TYPE_CHECKING:
    from studio.providers._aws.session import Access


def _bucket(name: str) -> str:
    if ".." in name or name.endswith("--x-s3") or name.replace(".", "").isdigit():
        raise ValueError("must be the name of a general purpose bucket")
    return name


Bucket = Annotated[Text, Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$"), AfterValidator(_bucket)]
"""A bucket's plain name: no ARN and no access point, which would choose another host."""


class S3Config(AwsConfig, StorageConfig):
    """One bucket. Without keys it is read anonymously; no key is ever looked for anywhere else."""

    bucket: Bucket = Field(description="The bucket's name.")
    path_style: bool | None = Field(
        None, description="The bucket in the path, not in the host name; left out: only with an endpoint_url."
    )


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
        config = self.config
        path_style = config.endpoint_url is not None if config.path_style is None else config.path_style
        return config.access(external_id=self.organization_id, path_style=path_style)
