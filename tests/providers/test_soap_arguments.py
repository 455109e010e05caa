"""Arguments and signatures for the shapes that XML Schema knows. Needs no server."""

from __future__ import annotations

from typing import Any

import pytest
from tests.providers.soap_kit import service_of, written, wsdl

from studio.errors import InvalidRequest
from studio.providers.soap.describe import detail, signature
from studio.providers.soap.message import Messages

SEQ = "<x:sequence>{0}</x:sequence>"


def seq(*parts: str) -> str:
    return SEQ.format("".join(parts))


def el(name: str, kind: str = "x:string", **more: Any) -> str:
    return (
        f'<x:element name="{name}" type="{kind}" ' + " ".join(f'{key}="{value}"' for key, value in more.items()) + "/>"
    )


CHOICE = seq("<x:choice>", el("a"), el("b", "x:int"), seq(el("c"), el("d", minOccurs=0)), "</x:choice>")
OPTIONAL_CHOICE = '<x:choice minOccurs="0">' + el("a") + el("b") + "</x:choice>"
REPEATED = seq(el("k"), '<x:sequence minOccurs="0" maxOccurs="2">' + el("a") + el("b", minOccurs=0) + "</x:sequence>")
REPEATED_CHOICE = '<x:choice maxOccurs="unbounded">' + el("a", "x:int") + el("b", "x:boolean") + "</x:choice>"
OPTIONAL_SEQUENCE = seq(el("k"), '<x:sequence minOccurs="0">' + el("a") + el("b") + "</x:sequence>")
TYPES = (
    '<x:complexType name="Base"><x:sequence><x:element name="id" type="x:int"/></x:sequence><x:attribute name="v"/></x:complexType>'
    '<x:complexType name="More"><x:complexContent><x:extension base="t:Base"><x:sequence>'
    '<x:element name="name" type="x:string"/></x:sequence></x:extension></x:complexContent></x:complexType>'
    '<x:complexType name="Money"><x:simpleContent><x:extension base="x:decimal">'
    '<x:attribute name="currency" use="required" type="t:Currency"/></x:extension></x:simpleContent></x:complexType>'
    '<x:simpleType name="Currency"><x:restriction base="x:string"><x:enumeration value="EUR"/><x:enumeration value="CHF"/>'
    "</x:restriction></x:simpleType>"
    '<x:simpleType name="Numbers"><x:list itemType="x:int"/></x:simpleType>'
    '<x:simpleType name="Either"><x:union memberTypes="x:int x:string"/></x:simpleType>'
    '<x:complexType name="Tree"><x:sequence><x:element name="v" type="x:int"/>'
    '<x:element name="kids" type="t:Tree" minOccurs="0" maxOccurs="unbounded"/></x:sequence></x:complexType>'
    '<x:group name="G"><x:sequence><x:element name="g" type="x:string"/></x:sequence></x:group>'
)

GOOD: dict[str, tuple[str, dict[str, Any], str]] = {
    "a sequence in its own order": (seq(el("a"), el("b")), {"b": "2", "a": "1"}, "<a>1</a><b>2</b>"),
    "all": ("<x:all>" + el("a") + el("b", minOccurs=0) + "</x:all>", {"a": "1"}, "<a>1</a>"),
    "an optional one left out": (seq(el("a", minOccurs=0)), {}, ""),
    "an optional null": (seq(el("a", minOccurs=0)), {"a": None}, ""),
    "a nillable null": (seq(el("a", nillable="true")), {"a": None}, '<a nil="true"></a>'),
    "an optional nillable null": (seq(el("a", nillable="true", minOccurs=0)), {"a": None}, '<a nil="true"></a>'),
    "a default left out": (seq(el("a", default="x")), {}, ""),
    "several": (seq(el("a", maxOccurs="unbounded")), {"a": ["1", "2"]}, "<a>1</a><a>2</a>"),
    "several from one": (seq(el("a", maxOccurs=3)), {"a": "1"}, "<a>1</a>"),
    "none of several": (seq(el("a", minOccurs=0, maxOccurs=3)), {"a": []}, ""),
    "the first alternative": (CHOICE, {"a": ""}, "<a></a>"),
    "a zero alternative": (CHOICE, {"b": 0}, "<b>0</b>"),
    "a sequence alternative": (CHOICE, {"c": "1"}, "<c>1</c>"),
    "an optional choice": (OPTIONAL_CHOICE, {}, ""),
    "a repeated sequence": (REPEATED, {"k": "", "_value_1": [{"a": "1"}, {"a": "2", "b": "3"}]}, "<k></k><a>1</a><a>2</a><b>3</b>"),
    "no repeated sequence": (REPEATED, {"k": ""}, "<k></k>"),
    "a repeated choice": (REPEATED_CHOICE, {"_value_1": [{"b": False}, {"a": 0}]}, "<b>false</b><a>0</a>"),
    "an optional sequence left out": (OPTIONAL_SEQUENCE, {"k": "x"}, "<k>x</k>"),
    "an inherited type": (seq(el("m", "t:More")), {"m": {"name": "n", "id": 1, "v": "x"}}, '<m v="x"><id>1</id><name>n</name></m>'),
    "text with an attribute": (seq(el("p", "t:Money")), {"p": {"_value_1": "1.50", "currency": "EUR"}}, '<p currency="EUR">1.50</p>'),
    "a list in one element": (seq(el("n", "t:Numbers")), {"n": [1, 2]}, "<n>1 2</n>"),
    "a union": (seq(el("e", "t:Either")), {"e": "x y"}, "<e>x y</e>"),
    "a tree": (seq(el("t", "t:Tree")), {"t": {"v": 1, "kids": [{"v": 2}, {"v": 3}]}}, "<t><v>1</v><kids><v>2</v></kids><kids><v>3</v></kids></t>"),
    "a group": (seq('<x:group ref="t:G"/>', el("a")), {"g": "1", "a": "2"}, "<g>1</g><a>2</a>"),
    "any type": (seq(el("a", "x:anyType")), {"a": "<x/>"}, "<a><x/></a>"),
    "an unqualified element": (seq('<x:element name="a" type="x:string" form="unqualified"/>'), {"a": "1"}, "<{}a>1</{}a>"),
    "an attribute": (seq(el("a")) + '<x:attribute name="z" type="x:int"/>', {"a": "1", "z": 2}, "!z"),
    "nothing": ("", {}, ""),
}  # fmt: skip
BAD: dict[str, tuple[str, dict[str, Any], str]] = {
    "two alternatives": (CHOICE, {"a": "1", "b": 2}, "only one of: a, b"),
    "parts of two alternatives": (CHOICE, {"a": "1", "d": "2"}, "only one of"),
    "an alternative without its first": (CHOICE, {"d": "1"}, r"arguments\.c: is missing"),
    "no alternative": (CHOICE, {}, "needs one of: a, b, c, d"),
    "too few": (seq(el("a", minOccurs=2, maxOccurs=3)), {"a": ["1"]}, "at least 2"),
    "too many": (seq(el("a", maxOccurs=2)), {"a": ["1", "2", "3"]}, "at most 2"),
    "too many turns": (REPEATED, {"k": "", "_value_1": [{"a": "1"}] * 3}, "at most 2"),
    "an unknown key in a turn": (REPEATED, {"k": "", "_value_1": [{"x": "1"}]}, r"arguments\._value_1\.0\.x"),
    "a turn that is no object": (REPEATED, {"k": "", "_value_1": ["a"]}, r"arguments\._value_1\.0: must be an object"),
    "a part of an optional sequence": (OPTIONAL_SEQUENCE, {"k": "x", "a": "1"}, r"arguments\.b: is missing"),
    "a missing inherited one": (seq(el("m", "t:More")), {"m": {"name": "n"}}, r"arguments\.m\.id: is missing"),
    "a missing attribute": (seq(el("p", "t:Money")), {"p": "1.50"}, r"arguments\.p\.currency: is missing"),
    "an attribute that is not listed": (seq(el("p", "t:Money")), {"p": {"_value_1": 1, "currency": "USD"}}, "EUR, CHF"),
    "no text beside an attribute": (seq(el("p", "t:Money")), {"p": {"currency": "EUR"}}, "must not be null"),
    "a list that is none": (seq(el("n", "t:Numbers")), {"n": "1 2"}, "must be a list"),
    "an item with a space": (seq(el("n", "t:Numbers")), {"n": ["1 2"]}, r"arguments\.n\.0: must be an integer"),
    "an object for any type": (seq(el("a", "x:anyType")), {"a": {"b": 1}}, "only single values"),
    "an object for a text": (seq(el("a")), {"a": {"b": 1}}, "must be a single value"),
    "a deep tree": (seq(el("t", "t:Tree")), {"t": {"v": 1}}, "nested too deeply"),
    "free XML": (seq(el("a"), "<x:any/>"), {"a": "1", "_value_1": "<x/>"}, "free XML"),
    "null where that may not be": (seq(el("a")), {"a": None}, "is missing"),
    "an encoded array": (
        '<x:complexContent><x:restriction base="t:Base"><x:attribute name="q" use="required"/></x:restriction></x:complexContent>',
        {}, "missing",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("body", "arguments", "sent"), GOOD.values(), ids=GOOD)
def test_arguments_become_what_the_types_describe(body: str, arguments: dict[str, Any], sent: str) -> None:
    expected = '<In z="2"><a>1</a></In>' if sent == "!z" else f"<In>{sent}</In>"
    assert written(wsdl(TYPES, body=body), arguments) == expected


@pytest.mark.parametrize(("body", "arguments", "said"), BAD.values(), ids=BAD)
def test_what_does_not_fit_is_named(body: str, arguments: dict[str, Any], said: str) -> None:
    if "deeply" in said:
        for _ in range(60):
            arguments = {"t": {"v": 1, "kids": [arguments["t"]]}}
    with pytest.raises(InvalidRequest, match=said):
        written(wsdl(TYPES, body=body), arguments)


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("boolean", [True, "false"], [1, 0, "yes", "", 1.5]),
        ("byte", [-128, "127"], [128, -129, 1.5, "1.0", True]),
        ("unsignedLong", [2**64 - 1, 0], [-1, 2**64]),
        ("positiveInteger", [1, "99999999999999999999999"], [0, "-1"]),
        ("negativeInteger", [-1], [0]),
        ("integer", ["+7", 2**70], ["", "1 2", "0x1", "1" * 1001, "١"]),
        ("decimal", ["1.50", 1, 0.1, "-.5"], ["1e3", "NaN", "", True, "1" * 1001, "1,5"]),
        ("double", [1, 0.1, "1e5", "nan", "-inf"], ["x", True, ""]),
        ("date", ["2026-01-31", "2026-01-31Z", "-0044-03-15+01:00"], ["2026-13-01", "2026-1-1", "", 20260131, "2026-01-31\n"]),
        ("dateTime", ["2026-01-31T12:00:00.123+02:00"], ["2026-01-31", "2026-01-31T25:00:00", "now"]),
        ("time", ["12:00:00", "24:00:00"], ["12:00", "12:60:00"]),
        ("duration", ["P1Y2M3DT4H5M6.7S", "-P1D", "PT0S"], ["P", "PT", "1D", "P1S"]),
        ("gYear", ["2026"], ["26"]),
        ("gYearMonth", ["2026-01"], ["2026"]),
        ("gMonthDay", ["--01-31"], ["01-31"]),
        ("gMonth", ["--01"], ["1"]),
        ("gDay", ["---31"], ["31"]),
        ("hexBinary", ["00ff", ""], ["0", "xy"]),
        ("base64Binary", ["AAEC", ""], ["AAE", "?", 5]),
        ("anyURI", ["http://x/?a&b"], [["x"]]),
        ("string", ["x", 5, 1.5], [True, None, {}]),
        ("token", ["a b"], [[]]),
    ],
)  # fmt: skip
def test_each_simple_type_takes_its_own_values_only(kind: str, good: list[Any], bad: list[Any]) -> None:
    text = wsdl(body=seq(el("a", f"x:{kind}")))
    service = service_of(text)
    messages = Messages(service, None, "http://x/")
    for value in good:
        messages.write(service.calls["Do"], {"a": value})
    for value in bad:
        with pytest.raises(InvalidRequest, match=r"arguments\.a"):
            messages.write(service.calls["Do"], {"a": value})


def test_rpc_parts_and_single_values_are_arguments_too() -> None:
    rpc = wsdl(style="rpc", parts='<part name="a" type="x:int"/><part name="b" type="t:Base"/>', schema=TYPES)
    assert written(rpc, {"a": 1, "b": {"id": 2}}) == "<Do><{}a>1</{}a><{}b><id>2</id></{}b></Do>"
    single = wsdl('<x:element name="In" type="x:int"/>')
    assert written(single, {"In": 5}) == "<In>5</In>"
    for arguments in ({}, {"in": 5}, {"In": 5, "a": 1}):
        with pytest.raises(InvalidRequest, match="arguments"):
            written(single, arguments)
    empty = wsdl(parts="")
    assert written(empty, {}) == ""
    with pytest.raises(InvalidRequest, match="takes no arguments"):
        written(empty, {"a": 1})


SIGNATURES = {
    CHOICE: 'Do((a: string | b: int | c: string, d?: string)): string',
    OPTIONAL_CHOICE: "Do((a: string | b: string)?): string",
    REPEATED: "Do(k: string, _value_1?: { a: string; b?: string }[]): string",
    REPEATED_CHOICE: "Do(_value_1: { (a: int | b: boolean) }[]): string",
    seq(el("m", "t:More", maxOccurs=9)): "Do(m: More[]): string",
    seq(el("n", "t:Numbers"), el("c", "t:Currency", maxOccurs=2)): 'Do(n: list of int, c: ("EUR" | "CHF")[]): string',
    seq(el("e", "t:Either"), el("a", "x:anyType", minOccurs=0)): "Do(e: text, a?: any): string",
    seq("<x:element name='i'><x:complexType>" + seq(el("j")) + "</x:complexType></x:element>"): "Do(i: { j: string }): string",
}  # fmt: skip


@pytest.mark.parametrize(("body", "line"), SIGNATURES.items())
def test_a_signature_says_what_may_be_given(body: str, line: str) -> None:
    service = service_of(wsdl(TYPES, body=body))
    assert signature(service.calls["Do"], service) == line


def test_detail_holds_each_type_once_with_what_it_inherits() -> None:
    service = service_of(wsdl(TYPES, body=seq(el("t", "t:Tree"), el("m", "t:More"), el("p", "t:Money"))))
    assert detail(service.calls["Do"], service) == {
        "signature": "Do(t: Tree, m: More, p: Money): string",
        "documentation": "What it does.",
        "types": {
            "Tree": "{ v: int; kids?: Tree[] }",
            "More": "{ id: int; name: string; v?: any }",
            "Money": '{ _value_1: decimal; currency: "EUR" | "CHF" }',
        },
    }


def test_ws_addressing_is_used_where_the_wsdl_asks_for_it() -> None:
    for wsa, asked in (('wsam:Action="urn:act"', True), ("", False)):
        service = service_of(wsdl(wsa=wsa, version="1.2"))
        sent = Messages(service, None, "http://x/y").write(service.calls["Do"], {"a": "1"})
        assert (b"urn:act</" in sent, b"http://x/y</" in sent) == (asked, asked)
        assert b"2003/05/soap-envelope" in sent
