"""botocore without an environment: one session for all AWS connectors, and clients that dial through the gate.

botocore fills every blank from `AWS_*` variables, `~/.aws`, plug-ins and instance metadata. Here it
has none of these to ask: a connector without keys is anonymous. Imported on first use: 300 ms.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import cache
from traceback import clear_frames
from typing import Any

import aiohttp
from aiobotocore.config import AioConfig  # type: ignore[import-untyped]
from aiobotocore.credentials import AioCredentialResolver  # type: ignore[import-untyped]
from aiobotocore.httpsession import AIOHTTPSession  # type: ignore[import-untyped]
from aiobotocore.session import AioSession  # type: ignore[import-untyped]
from botocore import UNSIGNED  # type: ignore[import-untyped]
from botocore import configprovider as provided
from botocore.loaders import Loader  # type: ignore[import-untyped]
from botocore.tokens import TokenProviderChain  # type: ignore[import-untyped]

from studio.providers._aws.role import RoleKeys

USER_AGENT = "studio-connectors"


for _talker in ("botocore", "aiobotocore"):
    # At DEBUG they write whole requests, session tokens included, into whatever log the process keeps.
    logging.getLogger(_talker).setLevel(logging.INFO)


class CleanSession(AioSession):  # type: ignore[misc]
    """A session that knows only what it is told."""

    def _register_config_store(self) -> None:
        chains = provided.ConfigChainFactory(session=self, environ={})
        make = provided._create_config_chain_mapping
        mapping = make(chains, provided.BOTOCORE_DEFAUT_SESSION_VARIABLES)
        for name, variables in (
            ("s3", provided.DEFAULT_S3_CONFIG_VARS),
            ("proxies_config", provided.DEFAULT_PROXIES_CONFIG_VARS),
        ):
            mapping[name] = provided.SectionConfigProvider(name, self, make(chains, variables))
        self._components.register_component("config_store", provided.ConfigValueStore(mapping=mapping))

    def _register_data_loader(self) -> None:
        # Without ~/.aws/models and AWS_DATA_PATH, which could redefine the service.
        loader = Loader(extra_search_paths=[Loader.BUILTIN_DATA_PATH], include_default_search_paths=False)
        self._components.register_component("data_loader", loader)

    def _create_credential_resolver(self) -> Any:
        return AioCredentialResolver(providers=[])

    def _create_token_resolver(self) -> Any:
        return TokenProviderChain(providers=[])

    def _create_csm_monitor(self) -> None:
        """No monitoring over UDP."""

    def _register_client_plugins(self, client: Any) -> None:
        """No plug-ins, which an environment variable could name."""

    @property
    def full_config(self) -> Mapping[str, Any]:
        """What the shared files would hold."""
        return {"profiles": {}}


@cache
def shared() -> CleanSession:
    """The session of this process: its models take 12 MiB and 150 ms. To be made in a thread."""
    session = CleanSession()
    session.warm_up_loader_caches("s3")
    return session


@dataclass(frozen=True)
class Access:
    """Where a client goes, and as whom: without a key anonymous, with a role as that.

    `external_id` is the organization's id, never something that a config says: a role that trusts this
    service's account for one organization cannot be used by another one (the "confused deputy" of the
    AWS IAM guide).
    """

    region: str
    endpoint_url: str | None
    connections: int
    path_style: bool = False
    key_id: str | None = None
    secret: str | None = None
    token: str | None = None
    role_arn: str | None = None
    external_id: str | None = None


async def client(service: str, stack: AsyncExitStack, access: Access, http: aiohttp.ClientSession) -> Any:
    """A client of an AWS service (`s3`, `sqs` …) whose requests go through `http`; closed with `stack`."""
    session = await asyncio.to_thread(shared)
    signed = "s3v4" if service == "s3" else "v4"
    made = await stack.enter_async_context(
        session.create_client(
            service,
            region_name=access.region,
            endpoint_url=access.endpoint_url,
            aws_access_key_id=access.key_id,
            aws_secret_access_key=access.secret,
            aws_session_token=access.token,
            config=AioConfig(
                signature_version=signed if access.key_id else UNSIGNED,
                http_session_cls=_through(http),
                max_pool_connections=access.connections,
                proxies={},
                user_agent=USER_AGENT,
                retries={"total_max_attempts": 1, "mode": "standard"},  # ours is bounded by effect and deadline
                request_checksum_calculation="when_required",  # others are not known to S3-compatible servers
                response_checksum_validation="when_required",
                ignore_configured_endpoint_urls=True,
                s3={"addressing_style": "path" if access.path_style else "auto", "use_arn_region": False},
            ),
        )
    )
    made.meta.events.register("before-call.s3", _stay)
    made._make_api_call = _letting_go(made._make_api_call)
    if access.role_arn is not None:
        keys = replace(access, role_arn=None, external_id=None)
        sts = await client("sts", stack, keys, http)
        made._request_signer._credentials = RoleKeys(sts, access.role_arn, access.external_id)
    return made


def _letting_go(call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """The call, whose failure keeps no frame of the driver: one holds its own exception, and so the whole answer."""

    async def called(*arguments: Any, **named: Any) -> Any:
        try:
            return await call(*arguments, **named)
        except Exception as exc:
            clear_frames(exc.__traceback__)
            if exc.__context__ is not None:
                clear_frames(exc.__context__.__traceback__)
            raise

    return called


def _stay(context: dict[str, Any], **_: Any) -> None:
    """Let botocore believe that it has followed a redirect to another region already: it follows one only."""
    context["s3_redirect"]["redirected"] = True


def _through(http: aiohttp.ClientSession) -> type[Any]:
    """botocore's idea of an HTTP session, on top of ours."""

    class Through(AIOHTTPSession):  # type: ignore[misc]
        async def _get_session(self, proxy_url: str | None) -> Any:
            return _Plain(http)

    return Through


class _Plain:
    """Requests without proxies and without redirects, whatever botocore asks for."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http

    async def request(
        self, method: str, *, url: Any, headers: Any, data: Any, chunked: bool | None, **_: Any
    ) -> aiohttp.ClientResponse:
        headers.pop("Expect", None)  # a server that does not know 100-continue would be waited for
        return await self._http.request(method, url, headers=headers, data=data, chunked=chunked, allow_redirects=False)
