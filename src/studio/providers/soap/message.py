"""Envelopes: SOAP 1.1 and 1.2, WS-Addressing where the WSDL asks for it, WS-Security by user name."""

from __future__ import annotations

import base64
import hashlib
import os
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from lxml import etree

from studio.providers.soap.arguments import write_body
from studio.providers.soap.config import WsseAuth
from studio.providers.soap.service import Call, Service
from studio.providers.soap.xml import Element

_OASIS = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss"
WSSE = f"{_OASIS}-wssecurity-secext-1.0.xsd"
WSU = f"{_OASIS}-wssecurity-utility-1.0.xsd"
_PROFILE = f"{_OASIS}-username-token-profile-1.0"
_BASE64 = f"{_OASIS}-soap-message-security-1.0#Base64Binary"
_WSA = "http://www.w3.org/2005/08/addressing"


class Messages:
    """Writes the messages of one port.

    Args:
        auth: WS-Security, where the connector uses it.
        address: where they go, for WS-Addressing.
    """

    def __init__(
        self,
        service: Service,
        auth: WsseAuth | None,
        address: str,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._service = service
        self._auth = auth
        self._address = address
        self._now = now

    def headers(self, action: str) -> dict[str, str]:
        """The HTTP headers of a message (SOAP 1.1, section 6.1; SOAP 1.2 part 2, section 7.1.4)."""
        accept = "text/xml, application/soap+xml, multipart/related;q=0.1"
        if self._service.version == "1.1":
            return {"Content-Type": "text/xml; charset=utf-8", "SOAPAction": f'"{action}"', "Accept": accept}
        named = f'; action="{action}"' if action else ""
        return {"Content-Type": f"application/soap+xml; charset=utf-8{named}", "Accept": accept}

    def write(self, call: Call, arguments: dict[str, Any]) -> bytes:
        """A call's message. Raises InvalidRequest: an argument is unknown, missing or does not fit."""
        envelope, body = self._envelope(call.addressing)
        write_body(body, call, arguments, self._service.enumerations)
        return _bytes(envelope)

    def empty(self) -> bytes:
        """A message that calls no operation, to see who answers."""
        envelope, body = self._envelope(None)
        etree.SubElement(body, "{urn:studio:probe}Probe")
        return _bytes(envelope)

    def _envelope(self, addressing: str | None) -> tuple[Element, Element]:
        namespace = self._service.envelope
        envelope = etree.Element(f"{{{namespace}}}Envelope", nsmap={"soap": namespace})
        header = etree.SubElement(envelope, f"{{{namespace}}}Header")
        if self._auth is not None:
            self._secure(header, self._auth)
        if addressing:
            for name, text in (
                ("Action", addressing),
                ("MessageID", f"urn:uuid:{uuid.uuid4()}"),
                ("To", self._address),
            ):
                etree.SubElement(header, f"{{{_WSA}}}{name}").text = text
        return envelope, etree.SubElement(envelope, f"{{{namespace}}}Body")

    def _secure(self, header: Element, auth: WsseAuth) -> None:
        """A UsernameToken (UsernameToken Profile 1.1, section 3): the password, or a digest that proves it once."""
        security = etree.SubElement(header, f"{{{WSSE}}}Security", nsmap={"wsse": WSSE, "wsu": WSU})
        security.set(f"{{{self._service.envelope}}}mustUnderstand", "1")
        token = etree.SubElement(security, f"{{{WSSE}}}UsernameToken")
        etree.SubElement(token, f"{{{WSSE}}}Username").text = auth.username
        password = etree.SubElement(token, f"{{{WSSE}}}Password")
        nonce, created = os.urandom(16), self._now().strftime("%Y-%m-%dT%H:%M:%S.") + "000Z"
        secret = auth.password.get_secret_value()
        if auth.password_type == "text":  # noqa: S105 - a word of the profile
            password.set("Type", f"{_PROFILE}#PasswordText")
            password.text = secret
        else:
            password.set("Type", f"{_PROFILE}#PasswordDigest")
            password.text = digest(nonce, created, secret)
        shown = etree.SubElement(token, f"{{{WSSE}}}Nonce", EncodingType=_BASE64)
        shown.text = base64.b64encode(nonce).decode()
        etree.SubElement(token, f"{{{WSU}}}Created").text = created


def digest(nonce: bytes, created: str, password: str) -> str:
    """`Base64(SHA-1(nonce + created + password))`, as the profile has it."""
    hashed = hashlib.sha1(nonce + created.encode() + password.encode(), usedforsecurity=False)
    return base64.b64encode(hashed.digest()).decode()


def _bytes(envelope: Element) -> bytes:
    written: bytes = etree.tostring(envelope, xml_declaration=True, encoding="utf-8")
    return written
