"""The XML reader by itself: each of its two guards against a DOCTYPE, encodings, and what is harmless."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from studio.providers.soap import xml as soap_xml
from studio.providers.soap.xml import NotXml, read_xml

DOCTYPES = [
    "<!DOCTYPE a>", "<!doctype a>", " \n<!DOCTYPE a>", "<!-- x --><!DOCTYPE a>", "<?pi a?b ?><!-- - -->\n<!DOCTYPE a>",
    "<?xml version='1.0'?><!DOCTYPE a>", "<?xml-stylesheet href='x'?><!DOCTYPE a [<!ENTITY e 'x'>]>", "<!DOCTYPE a SYSTEM 'x'>",
]  # fmt: skip


@pytest.mark.parametrize("prolog", DOCTYPES)
def test_a_doctype_is_refused_before_a_parser_sees_it(prolog: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("the parser was asked")

    monkeypatch.setattr(soap_xml.etree, "fromstring", never)
    with pytest.raises(NotXml, match="DOCTYPE"):
        read_xml(f"{prolog}<a/>".encode())


@pytest.mark.parametrize("prolog", [text for text in DOCTYPES if "doctype" not in text])
def test_a_doctype_that_slipped_past_is_refused_after_the_parser(prolog: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soap_xml, "_PROLOG", re.compile("(?!)"))
    with pytest.raises(NotXml, match=r"DOCTYPE"):
        read_xml(f"{prolog.strip()}<a/>".encode())


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("<a><![CDATA[<!DOCTYPE x>]]></a>", "<!DOCTYPE x>"),
        ("<!-- <!DOCTYPE x> --><a>b</a>", "b"),
        ("<?pi <!DOCTYPE x> ?><a>b</a>", "b"),
        ("<a>b<!-- c -->d<?pi e?>f</a>", "bdf"),
        ("<?xml version='1.0' encoding='UTF-8' standalone='yes'?>\r\n<a>\u00e4</a>", "\u00e4"),
        ("<a>&lt;&#38;&amp;</a>", "<&&"),
    ],
)
def test_what_only_looks_like_one_is_read(text: str, inside: str) -> None:
    assert read_xml(text.encode()).text == inside


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "iso-8859-1", "windows-1252"])
def test_usual_encodings_are_read(encoding: str) -> None:
    said = encoding.removesuffix("-sig")
    assert read_xml(f"<?xml version='1.0' encoding='{said}'?><a>\u00e4</a>".encode(encoding)).text == "\u00e4"


@pytest.mark.parametrize(
    "content",
    [
        b"", b"<", b"<a>", b"<a/><b/>", b"<a>&e;</a>", b"<a>\x00</a>", b"\xff\xfe<", b"<a>\xff</a>", b"{}",
        b"<?xml version='1.0' encoding='utf-7'?><a/>", b"<?xml version='1.0' encoding='ibm037'?><a/>",
        "<a/>".encode("utf-16-le"), "<a/>".encode("utf-32"), b"<a>" * 300 + b"</a>" * 300,
    ],
)  # fmt: skip
def test_what_is_not_plain_xml_is_refused(content: bytes) -> None:
    with pytest.raises(NotXml):
        read_xml(content)


@pytest.mark.parametrize(
    "text", ["<!--" * 25_000, "<?" * 50_000, "<?a" + "?" * 99_000, "<!--" + "-" * 99_000, " " * 100_000]
)
def test_a_prolog_is_looked_through_in_linear_time(text: str) -> None:
    start = time.process_time()
    with pytest.raises(NotXml):
        read_xml(text.encode())
    assert time.process_time() - start < 0.2


@given(st.text(st.sampled_from("<>!?-[]&;'\" aDOCTYPExml#=/")) | st.binary())
def test_nothing_but_an_element_or_a_refusal_comes_back(content: str | bytes) -> None:
    try:
        root = read_xml(content.encode() if isinstance(content, str) else content)
    except NotXml:
        return
    assert isinstance(root, etree._Element)
    assert root.getroottree().docinfo.internalDTD is None
