"""One port of a WSDL, read by zeep: its operations, and the types of what they take and give."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from zeep import Settings
from zeep.wsdl import Document
from zeep.wsdl.bindings.soap import Soap11Binding, Soap12Binding, SoapBinding

from studio.errors import InvalidConfig
from studio.providers.soap.wsdl import ROOT, WSDL, XSD, Shelf
from studio.providers.soap.xml import read_xml

_KEPT = 32
_ACTION = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]*")
_RESTRICTION = f"{{{XSD}}}restriction"


class _FromShelf:
    """What zeep calls a transport; this one knows the shelf and nothing else."""

    binding_classes = (Soap11Binding, Soap12Binding)

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    def load(self, name: str) -> bytes:
        """A document of the shelf. Raises KeyError."""
        return self._shelf.documents[name]


@dataclass(frozen=True)
class Call:
    """One operation of a port. `input` and `output` are zeep's elements below the message's body."""

    name: str
    action: str
    addressing: str | None
    """The `Action` of WS-Addressing, where the WSDL asks for that."""
    documentation: str
    input: Any
    output: Any
    wrapped: bool
    """Whether `input` is the body itself, because several parts stand in it."""


@dataclass(frozen=True)
class _Texts:
    """What zeep leaves out, and callers need most: enumerations, and the operations' descriptions."""

    enumerations: dict[str, tuple[str, ...]]
    documentation: dict[str, str]


@dataclass(frozen=True)
class Service:
    """A port, ready to be used; shared by all who have the same documents."""

    service: str
    port: str
    version: Literal["1.1", "1.2"]
    address: str
    calls: Mapping[str, Call]
    schema: Any
    enumerations: Mapping[str, tuple[str, ...]]
    """Allowed texts of simple types, by `{namespace}name`."""
    envelope: str
    """The namespace of the envelope."""


@lru_cache(maxsize=_KEPT)
def _document(shelf: Shelf) -> tuple[Any, _Texts]:
    settings = Settings(
        strict=True, forbid_dtd=True, forbid_entities=True, forbid_external=True, xml_huge_tree=False, force_https=False
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transport: Any = _FromShelf(shelf)
        document = Document(io.BytesIO(shelf.documents[ROOT]), transport, settings=settings)
    return document, _texts(shelf)


def read_service(shelf: Shelf, *, service: str | None, port: str | None, version: str | None) -> Service:
    """The port that a connector is about. Costs tens of milliseconds and more: call it in a thread.

    Raises:
        InvalidConfig: the WSDL cannot be used, or has no such port.
    """
    try:
        document, texts = _document(shelf)
        return _service(document, texts, service, port, version)
    except InvalidConfig:
        raise
    except (RecursionError, Exception) as exc:  # whatever a hostile document makes the library raise
        raise InvalidConfig(
            "the WSDL cannot be used: it is incomplete, contradicts itself, or refers elsewhere"
        ) from exc


def _service(document: Any, texts: _Texts, service: str | None, port: str | None, version: str | None) -> Service:
    found = [
        (offered, name, entry)
        for offered in document.services.values()
        if service in (None, offered.name)
        for name, entry in offered.ports.items()
        if port in (None, name) and version in (None, _version(entry.binding))
    ]
    if not found:
        known = ", ".join(
            f"{offered.name}.{name} (SOAP {_version(entry.binding)})"
            for offered in document.services.values()
            for name, entry in offered.ports.items()
        )
        raise InvalidConfig(f"the WSDL has no such service, port and soap_version; it has: {known[:1000] or 'none'}")
    offered, name, entry = found[0]
    binding = entry.binding
    return Service(
        service=str(offered.name),
        port=str(name),
        version=_version(binding),
        address=str((entry.binding_options or {}).get("address") or ""),
        calls={str(key): _call(operation, texts) for key, operation in binding._operations.items()},
        schema=document.types,
        enumerations=texts.enumerations,
        envelope=binding.nsmap["soap-env"],
    )


def _version(binding: SoapBinding) -> Literal["1.1", "1.2"]:
    return "1.2" if isinstance(binding, Soap12Binding) else "1.1"


def _call(operation: Any, texts: _Texts) -> Call:
    action = operation.soapaction or ""
    addressing = operation.abstract.wsa_action
    if not _ACTION.fullmatch(action):
        raise InvalidConfig("the WSDL has a soapAction that no header can hold")
    taken, given = operation.input, operation.output
    return Call(
        name=str(operation.name),
        action=action,
        addressing=addressing,
        documentation=texts.documentation.get(str(operation.name), ""),
        input=getattr(taken, "body", None),
        output=getattr(given, "body", None),
        wrapped=bool(getattr(taken, "_is_body_wrapped", False)),
    )


def _texts(shelf: Shelf) -> _Texts:
    found = _Texts({}, {})
    for content in shelf.documents.values():
        root = read_xml(content)
        for operation in root.iter(f"{{{WSDL}}}operation"):
            text = " ".join((operation.findtext(f"{{{WSDL}}}documentation") or "").split())
            if text:
                found.documentation[operation.get("name", "")] = text[:2000]
        for schema in root.iter(f"{{{XSD}}}schema"):
            for node in schema.findall(f"{{{XSD}}}simpleType"):
                values = tuple(
                    entry.get("value", "") for entry in node.iterfind(f"{_RESTRICTION}/{{{XSD}}}enumeration")
                )
                if values:
                    found.enumerations[f"{{{schema.get('targetNamespace', '')}}}{node.get('name')}"] = values
    return found
