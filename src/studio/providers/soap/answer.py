"""Answers: the body as JSON by the WSDL's types, and faults as errors."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, NoReturn

from lxml import etree
from zeep.xsd import ComplexType
from zeep.xsd.elements import Any as AnyElement
from zeep.xsd.elements import Element as Declared
from zeep.xsd.types.simple import AnySimpleType

from studio.errors import AuthFailed, ResultBlocked, StudioError, UpstreamError
from studio.providers._http.body import Answer
from studio.providers._http.errors import refused
from studio.providers._http.redact import Redactor
from studio.providers.soap.arguments import TEXT, attributes_of, children, is_text, particle_of
from studio.providers.soap.service import Call, Service
from studio.providers.soap.values import value_of
from studio.providers.soap.xml import Element, NotXml, read_xml

_ENVELOPES = ("http://schemas.xmlsoap.org/soap/envelope/", "http://www.w3.org/2003/05/soap-envelope")
_XSI = "http://www.w3.org/2001/XMLSchema-instance"
_SHOWN = 500
_NOT_SHOWN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
_AUTH = frozenset({"FailedAuthentication", "InvalidSecurity", "InvalidSecurityToken", "SecurityTokenUnavailable"})
_NO_SOAP = "the endpoint does not answer in SOAP; check its address"
_TOO_LARGE = "the answer is larger than max_bytes={0}; ask for less, or have max_bytes raised"


class Fault(UpstreamError):
    """The service understood that it was spoken to, and answered with a fault."""


def body_of(answer: Answer, redactor: Redactor, limit: int) -> Element | None:
    """What stands in the body of the answered message; None for none.

    Raises:
        StudioError: a fault, or no message at all.
    """
    kind, status = answer.media_type, answer.status
    if status in {401, 407, 429} or 300 <= status < 400:
        raise refused(answer, redactor)
    if status < 300 and not answer.body:
        return None  # a one-way message was taken
    if kind == "multipart/related":
        raise UpstreamError("the answer has attachments (MTOM or SwA), which are not supported")
    if not kind.endswith(("/xml", "+xml")) or (answer.cut and status >= 300):
        raise refused(answer, redactor) if status >= 400 else UpstreamError(_NO_SOAP)
    if answer.cut:
        raise ResultBlocked(_TOO_LARGE.format(limit))
    body = _body(answer, redactor)
    content = next(iter(body), None)
    if (
        content is not None
        and etree.QName(content).localname == "Fault"
        and etree.QName(content).namespace in _ENVELOPES
    ):
        _raise_fault(content, redactor)
    if status >= 400:
        raise refused(answer, redactor)
    return content


def _body(answer: Answer, redactor: Redactor) -> Element:
    try:
        envelope = read_xml(answer.body)
    except NotXml as exc:
        if answer.status >= 400:
            raise refused(answer, redactor) from exc
        raise UpstreamError(f"the service's answer is not XML that can be read: it {exc}") from exc
    namespace = etree.QName(envelope).namespace
    body = envelope.find(f"{{{namespace}}}Body")
    if namespace not in _ENVELOPES or etree.QName(envelope).localname != "Envelope" or body is None:
        raise refused(answer, redactor) if answer.status >= 400 else UpstreamError(_NO_SOAP)
    return body


def _raise_fault(fault: Element, redactor: Redactor) -> NoReturn:
    """SOAP 1.1, section 4.4; SOAP 1.2 part 1, section 5.4."""
    soap = f"{{{etree.QName(fault).namespace}}}"
    codes = [fault.findtext("faultcode"), *(node.text for node in fault.iterfind(f"{soap}Code//{soap}Value"))]
    words = [code.rpartition(":")[2].strip() for code in codes if code]
    said = fault.findtext("faultstring") or fault.findtext(f"{soap}Reason/{soap}Text") or ""
    detail = fault.find("detail") if fault.find("detail") is not None else fault.find(f"{soap}Detail")
    more = " ".join("".join(detail.itertext()).split()) if detail is not None else ""
    text = _NOT_SHOWN.sub(" ", redactor.text(said.strip()))[:_SHOWN]
    text += f" ({_NOT_SHOWN.sub(' ', redactor.text(more))[:_SHOWN]})" if more and more != said else ""
    code = _NOT_SHOWN.sub(" ", redactor.text("/".join(words)))[:100]
    if _AUTH & {word.rpartition(".")[2] for word in words}:
        raise AuthFailed(f"the service refused the connector's credentials ({code}): {text}; check auth")
    raise Fault(f"the service answered with a fault, {code or 'without a code'}: {text or 'no reason given'}")


def result_of(content: Element | None, call: Call, service: Service) -> Any:
    """The answer's content as JSON; a wrapper with one element only is taken off.

    Raises:
        UpstreamError: it is nested beyond reason.
    """
    if content is None:
        return None
    declared = call.output
    try:
        value = _Reader(service.schema).value(content, declared.type if declared is not None else None)
    except RecursionError:
        raise UpstreamError("the service's answer is nested too deeply") from None
    if declared is not None and isinstance(declared.type, ComplexType):
        only = _only_key(declared.type)
        if only is not None and (value is None or (isinstance(value, dict) and set(value) <= {only})):
            return value.get(only) if value else None
    return value


def _only_key(kind: ComplexType) -> str | None:
    """The key of a type that holds one element and nothing else."""
    held = particle_of(kind)
    if held is None or isinstance(held, Declared) or attributes_of(kind):
        return None
    parts = children(held)
    return parts[0][0] if len(parts) == 1 and isinstance(parts[0][1], Declared) else None


class _Reader:
    def __init__(self, schema: Any) -> None:
        self._schema = schema
        self._members: dict[int, dict[str, tuple[str, Any]]] = {}

    def value(self, node: Element, kind: Any) -> Any:
        """An element by its type, or by the one that it names itself (`xsi:type`)."""
        if node.get(f"{{{_XSI}}}nil") in {"true", "1"}:
            return None
        kind = self._named(node) or kind
        if isinstance(kind, ComplexType):
            return self._complex(node, kind)
        if isinstance(kind, AnySimpleType) and not len(node):
            return value_of(kind, node.text or "")
        return self._untyped(node)

    def _named(self, node: Element) -> Any:
        name = node.get(f"{{{_XSI}}}type")
        if name is None:
            return None
        prefix, _, local = name.strip().rpartition(":")
        namespace = node.nsmap.get(prefix or None)
        try:
            return self._schema.get_type(etree.QName(namespace, local), fail_silently=True)
        except (ValueError, LookupError, AttributeError):
            return None
        except Exception:  # the library's own errors: the answer names a type that the WSDL does not have
            return None

    def _complex(self, node: Element, kind: ComplexType) -> Any:
        attributes = {found.qname.localname: (key, found.type) for key, found in attributes_of(kind)}
        shown: dict[str, Any] = {}
        for name, text in node.attrib.items():
            qname = etree.QName(name)
            if qname.namespace != _XSI:
                key, known = attributes.get(qname.localname, (qname.localname, None))
                shown[key] = value_of(known, str(text))
        if is_text(kind):
            return {TEXT: value_of(particle_of(kind).type, node.text or ""), **shown}  # type: ignore[union-attr]
        self._children(node, self._of(kind), shown)
        return shown or None

    def _children(self, node: Element, members: dict[str, tuple[str, Any]], shown: dict[str, Any]) -> None:
        """The children by their keys: a list where several may come, or where several did."""
        names = [etree.QName(child).localname for child in node]
        counts = Counter(names)
        for name, child in zip(names, node, strict=True):
            key, part = members.get(name, (name, None))
            value = self.value(child, part.type if part is not None else None)
            if counts[name] > 1 or (part is not None and part.accepts_multiple):
                shown.setdefault(key, []).append(value)
            else:
                shown[key] = value

    def _of(self, kind: ComplexType) -> dict[str, tuple[str, Any]]:
        """The elements of a type by local name: which namespace they have is something that servers get wrong."""
        known = self._members.get(id(kind))
        if known is None:
            known = self._members[id(kind)] = {}
            _collect(particle_of(kind), known)
        return known

    def _untyped(self, node: Element) -> Any:
        """An element that the WSDL says nothing of: its text, or its children and attributes by name."""
        own = [(etree.QName(name), text) for name, text in node.attrib.items()]
        shown: dict[str, Any] = {name.localname: str(text) for name, text in own if name.namespace != _XSI}
        self._children(node, {}, shown)
        text = node.text or ""
        if not shown:
            return text
        return {TEXT: text, **shown} if text.strip() else shown


def _collect(particle: Any, into: dict[str, tuple[str, Any]]) -> None:
    if particle is None or isinstance(particle, Declared):
        return
    for _, part in children(particle):
        if isinstance(part, Declared):
            into.setdefault(part.qname.localname, (part.attr_name, part))
        elif not isinstance(part, AnyElement):
            _collect(part, into)


def error_of(answer: Answer, redactor: Redactor, limit: int) -> StudioError | None:
    """The error that an answer stands for, if it does."""
    try:
        body_of(answer, redactor, limit)
    except StudioError as exc:
        return exc
    return None
