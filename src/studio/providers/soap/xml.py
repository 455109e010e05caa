"""XML from elsewhere, read without anything that XML can do: no DOCTYPE, no entities, no files, no network.

A DOCTYPE stands before the root element or nowhere (XML 1.0, section 2.8), so it is looked for
there, before a parser sees the text; in a CDATA section it is harmless.
"""

from __future__ import annotations

import re
from typing import Any, NoReturn, TypeAlias

from lxml import etree

from studio.contract.bounds import MAX_VALUES, too_many

Element: TypeAlias = Any
"""An element of lxml, which has no types of its own."""

_PROLOG = re.compile(r"(?:\s+|<\?(?!xml[\s?])[^?]*+(?:\?(?!>)[^?]*+)*+\?>|<!--[^-]*+(?:-(?!->)[^-]*+)*+-->)*+")
_DECLARATION = re.compile(r"\s*<\?xml\b([^?>]*+)\?>")
_ENCODING = re.compile(r"encoding\s*=\s*[\"']([A-Za-z0-9._-]{1,40})[\"']")
_BOMS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
_ENCODINGS = {
    "utf-8": "utf-8", "utf8": "utf-8", "us-ascii": "ascii", "ascii": "ascii", "iso-8859-1": "latin-1",
    "latin1": "latin-1", "iso-8859-15": "iso8859-15", "windows-1252": "cp1252",
}  # fmt: skip
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 has no way to write (section 2.2)."""


class NotXml(Exception):
    """Not well-formed, or with parts that are refused. The message is safe to show."""


def read_xml(content: bytes) -> Element:
    """The root element.

    Raises:
        NotXml: see there.
    """
    if too_many(content):
        _refuse(f"has more than {MAX_VALUES} elements; ask for less")
    text = _text(content)
    begin = _PROLOG.match(text)
    if begin is not None and text.startswith("<!", begin.end()):
        _refuse("has a DOCTYPE, which is never read")
    # The parser is told nothing that would make it act; the check above makes sure that there is no cause either.
    parser = etree.XMLParser(
        encoding="utf-8", resolve_entities=False, no_network=True, load_dtd=False, dtd_validation=False,
        attribute_defaults=False, huge_tree=False, remove_comments=True, remove_pis=True, recover=False,
    )  # fmt: skip
    try:
        root = etree.fromstring(text.encode(), parser)
    except (etree.XMLSyntaxError, UnicodeEncodeError, ValueError):
        _refuse("is not well-formed")
    if root.getroottree().docinfo.internalDTD is not None:
        _refuse("has a DOCTYPE, which is never read")
    return root


def _refuse(why: str) -> NoReturn:
    raise NotXml(why) from None


def _text(content: bytes) -> str:
    """The document as text, without its XML declaration."""
    encoding = next((name for bom, name in _BOMS if content.startswith(bom)), None)
    if encoding is None:
        said = _DECLARATION.match(content[:200].decode("latin-1"))
        named = _ENCODING.search(said[1]) if said else None
        encoding = _ENCODINGS.get(named[1].lower() if named else "utf-8")
    if encoding is None:
        _refuse("is in an encoding that is not read; UTF-8 is")
    try:
        text = content.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError:
        _refuse("is not in the encoding that it names")
    return _DECLARATION.sub("", text, count=1) if _DECLARATION.match(text) else text
