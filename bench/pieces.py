"""What the whole pieces of work share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from studio.services.connector_service import ConnectorService

CALLERS = 16
"""Callers at once, and connections of either contender."""
MESSAGES = 10_000
Work = Callable[[], Awaitable[object]]
Pieces = dict[str, tuple[Work, Work]]
"""What is done, through the service and by the bare client."""


async def registered(service: ConnectorService, kind: str, family: str, config: dict[str, Any]) -> str:
    """A writable connector; its id."""
    made = await service.create(
        {
            "organization_id": "bench", "name": kind, "connector_type": family, "provider": kind,
            "config": {**config, "read_only": False, "pool_size": CALLERS, "timeout_s": 120, "max_rows": MESSAGES},
        }
    )  # fmt: skip
    return str(made["id"])


def aws(name: str, url: str, key: str, secret: str) -> Any:
    """A bare client of an AWS service, to be entered."""
    from aiobotocore.config import AioConfig
    from aiobotocore.session import get_session

    return get_session().create_client(
        name, region_name="us-east-1", endpoint_url=url, aws_access_key_id=key, aws_secret_access_key=secret,
        config=AioConfig(
            max_pool_connections=CALLERS, s3={"addressing_style": "path"}, proxies={},
            request_checksum_calculation="when_required", response_checksum_validation="when_required",
        ),
    )  # fmt: skip
