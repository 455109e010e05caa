"""What a connector to an AWS service, or to one that speaks its protocol, has in its config."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field, model_validator

from studio.contract import Destination, Pem, ProviderConfig, Secret, Text
from studio.contract.web import BaseUrl

if TYPE_CHECKING:
    from studio.providers._aws.session import Access

Region = Annotated[Text, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$")]
KeyId = Annotated[Text, Field(pattern=r"^[!-~]{1,128}$")]
RoleArn = Annotated[Text, Field(pattern=r"^arn:aws(-[a-z]{2,10}){0,2}:iam::[0-9]{12}:role/[A-Za-z0-9+=,.@_/-]{1,200}$")]


class AwsConfig(ProviderConfig):
    """Where, and as whom. Without keys requests are anonymous; no key is ever looked for anywhere else."""

    region: Region = Field("us-east-1", description="The region.")
    access_key_id: KeyId | None = Field(None, description="Access key id; left out with its secret: anonymous.")
    secret_access_key: Secret | None = Field(None, description="Secret of the access key.")
    session_token: Secret | None = Field(None, description="Token of temporary credentials.")
    role_arn: RoleArn | None = Field(
        None, description="A role to assume with the keys; the external id is always the organization's id."
    )
    endpoint_url: Annotated[BaseUrl | None, Destination()] = Field(
        None,
        description="URL of a compatible service, and of its STS; left out: Amazon's, in the region.",
    )
    ssl_ca: Pem | None = Field(None, description="CA certificates that replace the system's, as PEM.")

    @model_validator(mode="after")
    def _keys_are_whole(self) -> Self:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id and secret_access_key: give both, or none for anonymous access")
        for name in ("session_token", "role_arn"):
            if getattr(self, name) is not None and self.access_key_id is None:
                raise ValueError(f"{name}: belongs to an access_key_id, which is not given")
        return self

    def access(self, *, external_id: str | None, path_style: bool = False) -> Access:
        """What this says. `external_id` is the organization's id."""
        from studio.providers._aws.session import Access

        return Access(
            region=self.region,
            endpoint_url=self.endpoint_url,
            connections=self.pool_size,
            path_style=path_style,
            key_id=self.access_key_id,
            secret=self.secret_access_key.get_secret_value() if self.secret_access_key else None,
            token=self.session_token.get_secret_value() if self.session_token else None,
            role_arn=self.role_arn,
            external_id=external_id,
        )
