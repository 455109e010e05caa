"""WSDLs written by the tests, and what a provider makes of them."""

from __future__ import annotations

import asyncio
from typing import Any

from lxml import etree

from studio.providers.soap.message import Messages
from studio.providers.soap.service import Service, read_service
from studio.providers.soap.wsdl import gather

SOAP = {"1.1": "http://schemas.xmlsoap.org/wsdl/soap/", "1.2": "http://schemas.xmlsoap.org/wsdl/soap12/"}
XS = "http://www.w3.org/2001/XMLSchema"

DOCUMENT = """<definitions xmlns="http://schemas.xmlsoap.org/wsdl/" xmlns:t="urn:t" xmlns:s="{soap}"
  xmlns:x="http://www.w3.org/2001/XMLSchema" xmlns:wsam="http://www.w3.org/2007/05/addressing/metadata" targetNamespace="urn:t">
{head}<types><x:schema targetNamespace="urn:t" elementFormDefault="qualified">{schema}</x:schema>{more}</types>
<message name="In">{parts}</message><message name="Out"><part name="r" element="t:Out"/></message>
<portType name="P"><operation name="Do"><documentation> What it  does. </documentation>
<input message="t:In" {wsa}/><output message="t:Out"/></operation></portType>
<binding name="B" type="t:P"><s:binding style="{style}" transport="http://schemas.xmlsoap.org/soap/http"/>
<operation name="Do"><s:operation soapAction="{action}"/><input><s:body use="literal" namespace="urn:t"/></input>
<output><s:body use="literal" namespace="urn:t"/></output></operation></binding>
<service name="S"><port name="Port" binding="t:B"><s:address location="{address}"/></port></service></definitions>"""

IN = '<x:element name="In"><x:complexType>{0}</x:complexType></x:element>'
OUT = '<x:element name="Out" type="x:string"/>'


def wsdl(schema: str = "", *, body: str | None = None, version: str = "1.1", **changes: str) -> str:
    """A WSDL with one operation `Do`. `body` is what its argument's type holds."""
    fields = {
        "head": "", "more": "", "parts": '<part name="p" element="t:In"/>', "style": "document", "action": "urn:t/Do",
        "address": "http://127.0.0.1:1/", "wsa": "", **changes,
    }  # fmt: skip
    taken = IN.format(body if body is not None else '<x:sequence><x:element name="a" type="x:string"/></x:sequence>')
    return DOCUMENT.format(soap=SOAP[version], schema=schema + ("" if 'name="In"' in schema else taken) + OUT, **fields)


def service_of(text: str, **choice: Any) -> Service:
    """The port that the provider would use."""

    async def never(_url: str) -> bytes:
        raise AssertionError("nothing may be fetched")

    shelf = asyncio.run(gather(text.encode(), None, never))
    return read_service(shelf, **{"service": None, "port": None, "version": None, **choice})


def written(text: str, arguments: dict[str, Any]) -> str:
    """The body of the message that a call would send, canonical and without namespaces."""
    service = service_of(text)
    sent = Messages(service, None, "http://x/").write(service.calls["Do"], arguments)
    body = etree.fromstring(sent).find("{*}Body")
    return "".join(shown(node) for node in body)


def shown(node: Any) -> str:
    """An element as `<name a="b">…</name>`, with `{}` before a name that has no namespace."""
    qname = etree.QName(node)
    name = qname.localname if qname.namespace == "urn:t" else "{}" + qname.localname
    own = "".join(f' {etree.QName(key).localname}="{value}"' for key, value in node.attrib.items())
    return f"<{name}{own}>{node.text or ''}{''.join(map(shown, node))}</{name}>"
