"""A connector's WSDL, fetched, read and made ready to call."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass

from studio.contract.network import Network
from studio.errors import InvalidConfig, UpstreamError
from studio.providers._http.client import HttpClient, Request
from studio.providers._http.errors import refused
from studio.providers.soap.config import MAX_WSDL, SoapConfig, WsseAuth, place
from studio.providers.soap.message import Messages
from studio.providers.soap.service import Service, read_service
from studio.providers.soap.wsdl import Shelf, gather

_HEADERS = {"Accept": "text/xml, application/wsdl+xml, application/xml, */*;q=0.5"}
_UTF8 = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Port:
    """One port of a service, and how to write to it. `target` is the path and query of its address."""

    service: Service
    messages: Messages
    target: str
    digest: str


async def read(config: SoapConfig, client: HttpClient, network: Network) -> Port:
    """The port that a connector is about.

    Raises:
        StudioError: the WSDL cannot be had or used, or leads elsewhere.
    """
    if config.wsdl is not None:
        shelf = await _pinned(config.wsdl)
    else:
        shelf = await _fetched(config, client, network)
    service = await asyncio.to_thread(
        read_service, shelf, service=config.service, port=config.port, version=config.soap_version
    )
    address = config.endpoint or _own_address(config, service.address)
    auth = config.auth if isinstance(config.auth, WsseAuth) else None
    return Port(service, Messages(service, auth, address), place(address).target, shelf.digest)


def _own_address(config: SoapConfig, address: str) -> str:
    """The address in the WSDL, if it leads where the WSDL came from: it is a document's word, not an admin's."""
    try:
        if place(address).url.origin == config.home.url.origin:
            return address
    except ValueError:
        pass
    raise InvalidConfig.at(
        "config.endpoint", "must be given: the address in the WSDL is missing, or of another origin than wsdl_url"
    )


async def _pinned(text: str) -> Shelf:
    async def fetch(_url: str) -> bytes:
        raise AssertionError("a pinned WSDL imports nothing")

    # The mark says UTF-8, whatever the text says of an encoding that it once had.
    return await gather(_UTF8 + text.encode(), None, fetch)


async def _fetched(config: SoapConfig, client: HttpClient, network: Network) -> Shelf:
    """The documents at `wsdl_url`. Another origin than the endpoint's is asked without credentials."""
    assert config.wsdl_url is not None
    async with AsyncExitStack() as stack:
        origin = place(config.wsdl_url).url
        if origin.origin != config.home.url.origin:
            bare = config.model_copy(update={"auth": None, "headers": {}})
            client = HttpClient(bare, origin, network)
            await client.open(stack)

        async def fetch(url: str) -> bytes:
            request = Request("GET", place(url).target, headers=_HEADERS, idempotent=True)
            answer = await client.send(request, limit=MAX_WSDL)
            if answer.status != 200:
                raise refused(answer, client.redactor)
            if answer.cut:
                raise UpstreamError(f"the WSDL is larger than {MAX_WSDL:,} bytes")
            return answer.body

        return await gather(await fetch(config.wsdl_url), config.wsdl_url, fetch)
