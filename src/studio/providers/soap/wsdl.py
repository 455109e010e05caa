"""A WSDL and what it imports, gathered first and then shelved: the library that reads it never loads a thing.

Documents come in through the connector's own client, from the WSDL's own origin only, a few and
small. Each reference between them is rewritten to a name on the shelf.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from urllib.parse import urljoin

from lxml import etree

from studio.contract.web import split_url
from studio.errors import InvalidConfig, StudioError
from studio.providers.soap.config import MAX_WSDL, place
from studio.providers.soap.xml import Element, NotXml, read_xml

MAX_DOCUMENTS = 20
MAX_ELEMENTS = 50_000
MAX_EXPANDED = 200_000
"""Elements of all types with those of their bases and groups in place; a few kilobytes can ask for billions."""
XSD = "http://www.w3.org/2001/XMLSchema"
WSDL = "http://schemas.xmlsoap.org/wsdl/"
_XML = "http://www.w3.org/XML/1998/namespace"
_REFERENCES = {
    f"{{{WSDL}}}import": "location",
    f"{{{XSD}}}import": "schemaLocation",
    f"{{{XSD}}}include": "schemaLocation",
    f"{{{XSD}}}redefine": "schemaLocation",
}
_XML_SCHEMA = (
    f'<schema xmlns="{XSD}" targetNamespace="{_XML}"><attribute name="lang" type="string"/>'
    '<attribute name="space" type="string"/><attribute name="base" type="anyURI"/><attribute name="id" type="ID"/>'
    '<attributeGroup name="specialAttrs"><attribute ref="xml:base"/><attribute ref="xml:lang"/>'
    '<attribute ref="xml:space"/></attributeGroup></schema>'
).encode()
_XML_PLACE = "/xml.xsd"
ROOT = "/0"

Fetch = Callable[[str], Awaitable[bytes]]


class Shelf:
    """All documents of one WSDL, by the names that they call each other; `ROOT` is the first.

    Two with the same contents are equal. `digest` is the SHA-256 over all of them.
    """

    def __init__(self, documents: dict[str, bytes]) -> None:
        self.documents = documents
        parts = (name.encode() + b"\0" + content for name, content in sorted(documents.items()))
        self.digest = hashlib.sha256(b"\0".join(parts)).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shelf) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


async def gather(content: bytes, url: str | None, fetch: Fetch) -> Shelf:
    """The documents of a WSDL.

    Args:
        content: the WSDL itself.
        url: where it came from; None for a pinned text, which may import nothing.
        fetch: gets a document of the same origin.

    Raises:
        StudioError: something is malformed, too much, or elsewhere.
    """
    names = {url: ROOT}
    shelved: dict[str, bytes] = {_XML_PLACE: _XML_SCHEMA}
    waiting: list[tuple[str | None, bytes]] = [(url, content)]
    total = len(content)
    roots: list[Element] = []
    while waiting:
        at, raw = waiting.pop(0)
        root = _root(raw)
        roots.append(root)
        for node, attribute in _references(root):
            target = _target(node, attribute, at)
            if target is not None and target not in names:
                names[target] = f"/{len(names)}"
                _require(len(names) <= MAX_DOCUMENTS, f"consists of more than {MAX_DOCUMENTS} documents")
                found = await fetch(target)
                total += len(found)
                _require(total <= MAX_WSDL, f"is larger than {MAX_WSDL:,} bytes in all")
                waiting.append((target, found))
            node.set(attribute, _XML_PLACE if target is None else names[target])
        shelved[names[at]] = etree.tostring(root)
    _require_modest(roots)
    return Shelf(shelved)


def _root(content: bytes) -> Element:
    try:
        return read_xml(content)
    except NotXml as exc:
        raise _wrong(str(exc)) from exc


def _references(root: Element) -> list[tuple[Element, str]]:
    found = [(node, _REFERENCES[node.tag]) for node in root.iter(*_REFERENCES)]
    return [
        (node, attribute)
        for node, attribute in found
        if node.get(attribute) or (node.get("namespace") == _XML and node.tag == f"{{{XSD}}}import")
    ]


def _target(node: Element, attribute: str, at: str | None) -> str | None:
    """The URL that a reference means; None for the schema of `xml:` attributes, which is here already."""
    if node.get("namespace") == _XML:
        return None
    if at is None:
        raise _wrong("imports other documents; put everything into one, or give wsdl_url")
    url: str = urljoin(at, node.get(attribute, "").strip()).partition("#")[0]
    try:
        inside = place(url).url.origin == split_url(at.partition("?")[0]).origin
    except (ValueError, StudioError) as exc:
        raise _wrong("imports a document from a place that cannot be judged") from exc
    _require(inside, "imports a document from another origin than its own, which is never fetched")
    return url


def _require_modest(roots: list[Element]) -> None:
    """Refuse documents that unfold into more than a process can hold."""
    _require(sum(1 for root in roots for _ in root.iter()) <= MAX_ELEMENTS, f"has more than {MAX_ELEMENTS:,} elements")
    sizes = _Sizes(roots)
    try:
        total = sum(sizes.of(name) for name in sizes.parts)
    except RecursionError:
        raise _wrong("has types that are nested too deeply") from None
    _require(total <= MAX_EXPANDED, "has types that unfold into too many elements")


class _Sizes:
    """How many elements each global type and group has, with its base and its groups in place.

    Names are taken without their namespaces; of two the larger counts.
    """

    def __init__(self, roots: list[Element]) -> None:
        self.parts: dict[str, list[tuple[int, list[str]]]] = {}
        for root in roots:
            for node in root.iter(*(f"{{{XSD}}}{kind}" for kind in ("complexType", "group", "attributeGroup"))):
                name = node.get("name")
                if name is not None:
                    self.parts.setdefault(name, []).append((1 + sum(1 for _ in node.iter()), _uses(node)))
        self._known: dict[str, int] = {}

    def of(self, name: str) -> int:
        """The size, at most a little above what is allowed."""
        if name not in self._known:
            self._known[name] = 0  # a circle adds nothing, and is refused later on
            sizes = [own + sum(self.of(used) for used in uses) for own, uses in self.parts.get(name, ())]
            self._known[name] = min(max(sizes, default=0), MAX_EXPANDED + 1)
        return self._known[name]


def _uses(node: Element) -> list[str]:
    """Local names of the groups and the base that a definition takes in."""
    refs = [inner.get("ref") for inner in node.iter(f"{{{XSD}}}group", f"{{{XSD}}}attributeGroup")]
    bases = [inner.get("base") for inner in node.iter(f"{{{XSD}}}extension", f"{{{XSD}}}restriction")]
    return [text.rpartition(":")[2] for text in (*refs, *bases) if text]


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise _wrong(otherwise)


def _wrong(why: str) -> StudioError:
    return InvalidConfig(f"the WSDL {why}")
