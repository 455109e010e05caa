"""WSDLs from elsewhere: what is fetched, what is refused, and what a bomb costs."""

from __future__ import annotations

import contextlib
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.providers.soap_kit import XS, service_of, wsdl

from studio.errors import AuthFailed, EgressDenied, InvalidConfig, StudioError, UpstreamError
from studio.providers.soap.provider import Soap
from studio.testing.harness import call, open_provider
from studio.testing.http import Received, reply, upstream

TOKEN = "tok3n-canary-0123456789"


@pytest.fixture(autouse=True)
def _nobody_else_fetches(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The library's own ways to the network and to files lead nowhere, and are never taken."""
    import requests
    import zeep.transports

    taken: list[Any] = []
    monkeypatch.setattr(requests.Session, "request", lambda *args, **_: taken.append(args))
    monkeypatch.setattr(zeep.transports.Transport, "__init__", lambda *args, **_: taken.append(args))
    monkeypatch.setattr("zeep.transports.open", lambda *args, **_: taken.append(args), raising=False)
    yield
    assert not taken


def serving(pages: dict[str, str | bytes]) -> Any:
    """A server of documents, by path."""

    def serve(request: Received) -> bytes:
        path = request.line.split(" ")[1]
        page = pages.get(path)
        if page is None:
            return reply(404)
        return reply(200, page if isinstance(page, bytes) else page.replace("{port}", str(server.port)).encode())

    server: Any = None
    context = upstream(serve)

    class Serving:
        async def __aenter__(self) -> Any:
            nonlocal server
            server = await context.__aenter__()
            return server

        async def __aexit__(self, *exc: Any) -> Any:
            return await context.__aexit__(*exc)

    return Serving()


async def described(config: dict[str, Any]) -> Any:
    async with open_provider(Soap, config) as provider:
        return (await call(provider, "describe")).data


async def refused(config: dict[str, Any], said: str, error: type[StudioError] = InvalidConfig) -> None:
    with pytest.raises(error, match=said) as caught:
        await described(config)
    assert "canary" not in caught.value.message


def pinned(text: str) -> dict[str, Any]:
    return {"wsdl": text, "endpoint": "http://127.0.0.1:1/"}


IMPORTED = (
    f'<schema xmlns="{XS}" targetNamespace="urn:i"><simpleType name="I"><restriction base="int"/></simpleType></schema>'
)
USES = '<x:sequence><x:element name="i" type="i:I" xmlns:i="urn:i"/></x:sequence>'


async def test_imports_of_the_same_origin_are_fetched_once_each() -> None:
    inner = wsdl(
        '<x:import namespace="urn:i" schemaLocation="sub/i.xsd"/>', body=USES, address="http://127.0.0.1:{port}/s"
    )
    outer = (
        '<definitions xmlns="http://schemas.xmlsoap.org/wsdl/" xmlns:t="urn:t" targetNamespace="urn:o">'
        '<import namespace="urn:t" location="/a/inner.wsdl"/></definitions>'
    )
    circle = IMPORTED.replace(">", '><import namespace="urn:i2" schemaLocation="../sub/i2.xsd"/>', 1)
    back = f'<schema xmlns="{XS}" targetNamespace="urn:i2"><import namespace="urn:i" schemaLocation="i.xsd"/></schema>'
    pages = {"/a/s?wsdl": inner, "/a/sub/i.xsd": circle, "/a/sub/i2.xsd": back, "/o": outer, "/a/inner.wsdl": inner}
    async with serving(pages) as server:
        found = await described({"wsdl_url": f"{server.url}/a/s?wsdl"})
        assert found["operations"][0]["signature"] == "Do(i: int): string"
        assert [request.line.split(" ")[1] for request in server.requests] == [
            "/a/s?wsdl",
            "/a/sub/i.xsd",
            "/a/sub/i2.xsd",
        ]


@pytest.mark.parametrize(
    "location",
    [
        "{sink}/x.xsd", "//127.0.0.1:{sinkport}/x.xsd", "file://{canary}", "ftp://127.0.0.1/x",
        "http://169.254.169.254/latest", "http://user@127.0.0.1:{port}/x", "gopher://x/", "\\\\x\\y", "http://[::1]:{port}/x",
    ],
)  # fmt: skip
@pytest.mark.parametrize("how", ["import", "include", "redefine", "wsdl"])
async def test_no_import_leads_to_another_place(location: str, how: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary.xsd"
    canary.write_text(IMPORTED)
    pages: dict[str, str | bytes] = {}
    async with upstream(reply(200, IMPORTED.encode())) as sink, serving(pages) as server:
        place = (
            location.replace("{sinkport}", str(sink.port)).replace("{sink}", sink.url)
            .replace("{canary}", str(canary)).replace("{port}", str(server.port))
        )  # fmt: skip
        if how == "wsdl":
            pages["/s"] = wsdl(head=f'<import namespace="urn:i" location="{place}"/>')
        else:
            namespace = ' namespace="urn:i"' if how == "import" else ""
            pages["/s"] = wsdl(f'<x:{how}{namespace} schemaLocation="{place}"/>', body=USES)
        await refused({"wsdl_url": f"{server.url}/s", "endpoint": server.url}, "imports a document from")
        assert not sink.connections
        assert len(server.requests) == 1  # nor is the place looked for at home
        text = str(pages["/s"])
        await refused(pinned(text), "imports other documents")
        assert not sink.connections


async def test_a_path_means_one_of_the_server_and_never_a_file(tmp_path: Path) -> None:
    (tmp_path / "canary.xsd").write_text(IMPORTED)
    text = wsdl(f'<x:import namespace="urn:i" schemaLocation="{tmp_path}/canary.xsd"/>', body=USES)
    async with serving({"/s": text}) as server:
        await refused({"wsdl_url": f"{server.url}/s", "endpoint": server.url}, "404", UpstreamError)
        assert server.requests[-1].line == f"GET {tmp_path}/canary.xsd HTTP/1.1"


async def test_documents_are_few_and_small() -> None:
    many = {
        f"/{n}": f'<schema xmlns="{XS}" targetNamespace="urn:{n}"><import namespace="urn:{n + 1}" schemaLocation="/{n + 1}"/></schema>'
        for n in range(30)
    }
    pages: dict[str, str | bytes] = {"/s": wsdl('<x:import namespace="urn:0" schemaLocation="/0"/>'), **many}
    async with serving(pages) as server:
        await refused({"wsdl_url": f"{server.url}/s", "endpoint": server.url}, "more than 20 documents")
        assert len(server.requests) <= 21
    large = {f"/{n}": f'<schema xmlns="{XS}"><!--{"x" * 1_500_000}--></schema>' for n in range(2)}
    pages = {"/s": wsdl("".join(f'<x:include schemaLocation="/{n}"/>' for n in range(2))), **large}
    async with serving(pages) as server:
        await refused({"wsdl_url": f"{server.url}/s", "endpoint": server.url}, "larger than 2,097,152 bytes in all")
    async with serving({"/s": b"<a>" + b" " * 3_000_000}) as server:
        await refused({"wsdl_url": f"{server.url}/s", "endpoint": server.url}, "larger", UpstreamError)


async def test_the_wsdl_s_own_address_is_used_only_where_it_leads_home() -> None:
    async with upstream(reply(200)) as sink:
        for address in (sink.url, "http://169.254.169.254/", "", "jms:queue", f"http://127.0.0.1:{sink.port}/x"):
            async with serving({"/s?wsdl": wsdl(address=address)}) as server:
                await refused({"wsdl_url": f"{server.url}/s?wsdl"}, "endpoint")
        assert not sink.connections
    async with serving({"/s?wsdl": wsdl(address="http://127.0.0.1:{port}/here?q=1")}) as server:
        config = {"wsdl_url": f"{server.url}/s?wsdl", "read_operations": ["Do"]}
        async with open_provider(Soap, config) as provider:
            with pytest.raises(UpstreamError, match="404"):
                await call(provider, "call", operation="Do", arguments={"a": "x"})
        assert server.requests[-1].line == "POST /here?q=1 HTTP/1.1"


async def test_another_origin_gets_no_credentials_when_it_is_asked_for_the_wsdl() -> None:
    secret = {"auth": {"type": "bearer", "token": TOKEN}, "headers": {"X-Key": TOKEN}}
    async with serving({"/s": wsdl()}) as home, upstream(reply(200)) as api:
        await described({"wsdl_url": f"{home.url}/s", "endpoint": api.url, **secret})
        assert not any("canary" in value for _, value in home.requests[0].headers)
    async with serving({"/s": wsdl()}) as home:
        await described({"wsdl_url": f"{home.url}/s", "endpoint": home.url, **secret})
        assert home.requests[0].header("Authorization") == f"Bearer {TOKEN}"


async def test_a_wsdl_behind_a_redirect_or_a_refusal_is_not_had() -> None:
    async with upstream(reply(200, wsdl().encode())) as sink:
        async with upstream(reply(302, Location=sink.url)) as server:
            await refused({"wsdl_url": server.url}, "redirect", UpstreamError)
        assert not sink.connections
    async with upstream(reply(401, b"canary")) as server:
        await refused({"wsdl_url": server.url}, "credentials", AuthFailed)
    await refused({"wsdl_url": "http://169.254.169.254/?wsdl"}, "never dialled", EgressDenied)


BOMB = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))


@pytest.mark.parametrize(
    "prolog",
    [
        f'<!DOCTYPE x [<!ENTITY l0 "lol">{BOMB}]>',
        '<!DOCTYPE x [<!ENTITY e SYSTEM "file://{canary}">]>',
        '<!DOCTYPE x [<!ENTITY % p SYSTEM "{sink}/p"> %p;]>',
        '<!DOCTYPE x SYSTEM "{sink}/x.dtd">',
        "<!DOCTYPE definitions>",
    ],
)
async def test_no_doctype_is_read_in_a_wsdl_nor_in_what_it_imports(prolog: str, tmp_path: Path) -> None:
    (tmp_path / "canary").write_text("canary")
    async with upstream(reply(200)) as sink:
        prolog = prolog.replace("{canary}", f"{tmp_path}/canary").replace("{sink}", sink.url)
        await refused(pinned(prolog + wsdl()), "DOCTYPE")
        pages: dict[str, str | bytes] = {
            "/s": wsdl('<x:import namespace="urn:i" schemaLocation="i.xsd"/>', body=USES), "/i.xsd": prolog + IMPORTED,
        }  # fmt: skip
        async with serving(pages) as server:
            await refused({"wsdl_url": f"{server.url}/s", "endpoint": server.url}, "DOCTYPE")
        assert not sink.connections


def groups(depth: int, width: int) -> str:
    parts = [
        f'<x:group name="g{n}"><x:sequence>{f"""<x:group ref="t:g{n + 1}"/>""" * width}</x:sequence></x:group>'
        for n in range(depth)
    ]
    last = f'<x:group name="g{depth}"><x:sequence><x:element name="a" type="x:int"/></x:sequence></x:group>'
    return "".join(parts) + last


def heirs(own: int, number: int) -> str:
    base = "".join(f'<x:element name="e{n}" type="x:int"/>' for n in range(own))
    heir = '<x:complexType name="H{0}"><x:complexContent><x:extension base="t:B"><x:sequence/></x:extension></x:complexContent></x:complexType>'
    return f'<x:complexType name="B"><x:sequence>{base}</x:sequence></x:complexType>' + "".join(
        heir.format(n) for n in range(number)
    )


def chain(length: int) -> str:
    link = '<x:complexType name="C{0}"><x:complexContent><x:extension base="t:C{1}"><x:sequence/></x:extension></x:complexContent></x:complexType>'
    return (
        "".join(link.format(n, n + 1) for n in range(length))
        + f'<x:complexType name="C{length}"><x:sequence/></x:complexType>'
    )


BOMBS = {
    "groups in groups": (groups(30, 10), '<x:group ref="t:g0"/>'),
    "many heirs of a large base": (heirs(3000, 3000), "<x:sequence/>"),
    "a long line of heirs": (chain(4000), '<x:sequence><x:element name="c" type="t:C0"/></x:sequence>'),
    "many elements": ("".join(f'<x:element name="e{n}" type="x:int"/>' for n in range(30_000)), "<x:sequence/>"),
    "deep nesting": ("", "<x:sequence>" * 240 + "</x:sequence>" * 240),
    "deeper than is read": ("", "<x:sequence>" * 3000 + "</x:sequence>" * 3000),
    "a group of itself": (
        '<x:group name="g0"><x:sequence><x:group ref="t:g0"/></x:sequence></x:group>',
        '<x:group ref="t:g0"/>',
    ),
    "a type that extends itself": (
        chain(1).replace("t:C1", "t:C0"),
        '<x:sequence><x:element name="c" type="t:C0"/></x:sequence>',
    ),
}


@pytest.mark.parametrize(("schema", "body"), BOMBS.values(), ids=BOMBS)
async def test_a_bomb_costs_little_and_never_ends_the_process(schema: str, body: str) -> None:
    start = time.process_time()
    tracemalloc.start()
    with contextlib.suppress(InvalidConfig):
        await described(pinned(wsdl(schema, body=body)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 1024 * 1024
    assert time.process_time() - start < 10  # tracing makes it several times slower


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<a/>", "cannot be used|no such service"),
        ("<definitions", "not well-formed"),
        (wsdl(action="x&#13;&#10;Evil: 1"), "soapAction"),
        (wsdl(action="x&quot;y"), "soapAction"),
        (wsdl(body='<x:sequence><x:element name="a" type="t:Nope"/></x:sequence>'), "cannot be used"),
        (wsdl().replace('binding="t:B"', 'binding="t:Nope"'), "no such service|cannot be used"),
        (wsdl(schema='<x:element name="e" type="q:Array" xmlns:q="http://schemas.xmlsoap.org/soap/encoding/"/>'), "cannot be used"),
        (wsdl().replace("schemas.xmlsoap.org/soap/http", "schemas.xmlsoap.org/soap/smtp"), "no such service"),
    ],
)  # fmt: skip
async def test_a_wsdl_that_cannot_be_used_says_so(text: str, said: str) -> None:
    await refused(pinned(text), said)


def test_service_port_and_version_choose() -> None:
    both = wsdl().replace(
        "<service name", wsdl(version="1.2").partition("<binding")[2].partition("<service")[0].join(["<binding", "<service name"])
        .replace('name="B"', 'name="B2"').replace("<s:", '<s2:').replace("</s:", "</s2:"),
    ).replace("xmlns:t=", 'xmlns:s2="http://schemas.xmlsoap.org/wsdl/soap12/" xmlns:t=', 1).replace(
        "</port>", '</port><port name="Port2" binding="t:B2"><s2:address location="http://x/"/></port>'
    )  # fmt: skip
    assert (service_of(both).port, service_of(both).version) == ("Port", "1.1")
    assert (service_of(both, version="1.2").port, service_of(both, port="Port2").version) == ("Port2", "1.2")
    for choice in ({"service": "X"}, {"port": "X"}, {"port": "Port", "version": "1.2"}):
        with pytest.raises(InvalidConfig, match=r"it has: S\.Port \(SOAP 1\.1\), S\.Port2 \(SOAP 1\.2\)"):
            service_of(both, **choice)


def test_the_schema_of_xml_attributes_is_here_already() -> None:
    for location in ("", 'schemaLocation="http://www.w3.org/2001/xml.xsd"'):
        schema = f'<x:import namespace="http://www.w3.org/XML/1998/namespace" {location}/>'
        text = wsdl(schema, body='<x:sequence/><x:attribute ref="xml:lang"/>')
        assert "Do" in service_of(text).calls


def test_documents_that_are_the_same_are_read_once() -> None:
    text = wsdl(action="urn:once")
    assert service_of(text).schema is service_of(text).schema
    assert service_of(text).schema is not service_of(wsdl(action="urn:twice")).schema


def test_a_text_that_names_another_encoding_is_still_read() -> None:
    assert "Do" in service_of("\ufeff" + '<?xml version="1.0" encoding="utf-8"?>' + wsdl()).calls


async def test_a_pinned_text_is_utf8_whatever_it_says_of_itself() -> None:
    found = await described(pinned('<?xml version="1.0" encoding="UTF-16"?>' + wsdl()))
    assert found["operations"]
