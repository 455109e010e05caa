"""What an answer becomes: JSON, text, binary, rows, pages, and where the caps cut."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.providers.rest_kit import api
from tests.upstreams.httpbin import Httpbin

from studio.contract.values import canonical
from studio.errors import InvalidRequest, ResultBlocked, UpstreamError
from studio.providers._http.body import Answer
from studio.providers._http.redact import Redactor
from studio.providers.rest.answer import body_of
from studio.providers.rest.pages import next_link
from studio.testing.http import Received, reply, upstream


def as_json(value: Any, **headers: str) -> bytes:
    return reply(200, json.dumps(value).encode(), Content_Type="application/json", **headers)


async def got(answer: bytes, query: str = "GET /", **config: Any) -> Any:
    async with upstream(answer) as server, api(server.url, **config) as rest:
        return await rest.ask(query)


async def test_httpbin_answers_in_every_form(httpbin: Httpbin) -> None:
    async with api(httpbin.url) as rest:
        assert (await rest.ask("GET /json"))["data"]["slideshow"]["title"]
        assert (await rest.ask("GET /gzip"))["data"]["gzipped"] is True
        assert (await rest.ask("GET /html"))["data"].startswith("<!DOCTYPE html>")
        assert "Wake up" in (await rest.ask("GET /xml"))["data"]
        image = (await rest.ask("GET /image/png"))["data"]
        assert image["content_type"] == "image/png"
        assert base64.b64decode(image["base64"]).startswith(b"\x89PNG")
        assert len(base64.b64decode((await rest.ask("GET /stream-bytes/1000"))["data"]["base64"])) == 1000
        assert "∮" in (await rest.ask("GET /encoding/utf8"))["data"]
        head = await rest.ask("HEAD /get")
        assert (head["data"]["status"], head["data"]["body"]) == (200, None)
        assert head["data"]["headers"]["content-type"] == "application/json"
        assert (await rest.ask("DELETE /status/204"))["data"] is None


async def test_httpbin_gets_every_kind_of_parameter(httpbin: Httpbin) -> None:
    async with api(httpbin.url, allowed_headers=["X-Trace"]) as rest:
        answer = await rest.ask(
            "POST /anything/{what}?fixed=1&who={who}", what="a b", who="x&y=1", query={"list": [1, 2], "none": None, "t": True},
            headers={"X-Trace": "t-1"}, json={"deep": [1, {"ü": None}]},
        )  # fmt: skip
        data = answer["data"]
        assert data["args"] == {"fixed": "1", "who": "x&y=1", "list": ["1", "2"], "t": "true"}
        assert (data["headers"]["X-Trace"], data["headers"]["Content-Type"]) == ("t-1", "application/json")
        assert data["json"] == {"deep": [1, {"ü": None}]}
        assert (await rest.ask("POST /post", form={"a": "1 2", "b": [1, 2]}))["data"]["form"] == {
            "a": "1 2",
            "b": ["1", "2"],
        }
        text = await rest.ask("POST /post", body="<x/>", headers={"content-type": "application/xml"})
        assert (text["data"]["data"], text["data"]["headers"]["Content-Type"]) == ("<x/>", "application/xml")
        raw = await rest.ask("PUT /put", body={"base64": base64.b64encode(b"\x00\xff").decode()})
        assert raw["data"]["headers"]["Content-Length"] == "2"


@pytest.mark.parametrize(
    ("query", "params", "named"),
    [
        ("GET /users/{id}", {}, "id"),
        ("GET /users/{id}", {"id": 1, "other": 2}, "other"),
        ("GET /x?a={a}", {}, "a"),
        ("GET", {}, "query"),
        ("/users", {}, "query"),
        ("TRACE /", {}, "query"),
        ("CONNECT /", {}, "query"),
        ("GET users", {}, "path"),
        ("GET http://evil/", {}, "path"),
        ("GET /a{b", {}, "path"),
        ("GET /a#b", {}, "path"),
        ("GET /a GET /b", {}, "query"),
        ("GET /a\r\nX: y", {}, "query"),
        ("POST /a", {"json": 1, "body": "x"}, "body"),
        ("POST /a", {"body": {"base64": "***"}}, "body.base64"),
        ("POST /a", {"body": 7}, "body"),
        ("GET /a", {"query": {"a": {"b": 1}}}, "query.a"),
        ("GET /a", {"query": "a=b"}, "query"),
        ("GET /a", {"paginate": {}}, "paginate"),
        ("GET /a", {"paginate": {"link": True, "cursor_field": "x", "cursor_param": "y"}}, "paginate"),
        ("GET /a", {"full": "yes"}, "full"),
        ("GET /a", {"query": {"a": "\ud800"}}, "query.a"),
        ("POST /a", {"body": "\ud800"}, "body"),
        ("POST /a", {"json": "\ud800"}, "json"),
    ],
)  # fmt: skip
async def test_a_call_that_is_wrong_is_refused_by_the_name_of_what_is_wrong(
    query: str, params: dict[str, Any], named: str
) -> None:
    async with upstream(as_json({})) as server, api(server.url) as rest:
        with pytest.raises(InvalidRequest) as caught:
            await rest.ask(query, **params)
        assert any(error.field.removeprefix("params.").startswith(named) for error in caught.value.fields), (
            caught.value.fields
        )
    assert not server.requests


async def test_full_gives_status_and_useful_headers_beside_the_body() -> None:
    answer = reply(
        201, b'{"id": 1}', Content_Type="application/json", Location="/things/1", ETag='"1"', Set_Cookie="s=1",
        X_RateLimit_Remaining="9", Server="x", WWW_Authenticate="Basic",
    )  # fmt: skip
    async with upstream(answer) as server, api(server.url) as rest:
        data = (await rest.ask("POST /things", json={}, full=True))["data"]
    assert data["status"] == 201
    assert data["body"] == {"id": 1}
    assert set(data["headers"]) == {"content-length", "content-type", "location", "etag", "x-ratelimit-remaining"}


@pytest.mark.parametrize(("count", "truncated"), [(4, False), (5, False), (6, True)])
async def test_rows_of_an_array_are_capped_and_truncated_is_exact(count: int, truncated: bool) -> None:
    result = await got(as_json([{"n": n} for n in range(count)]), max_rows=5)
    assert (result["row_count"], result["truncated"]) == (min(count, 5), truncated)
    assert result["data"] == [{"n": n} for n in range(min(count, 5))]


async def test_an_array_over_the_byte_cap_keeps_its_whole_leading_items() -> None:
    rows = [{"n": n, "text": "ü" * 20} for n in range(500)]
    result = await got(as_json(rows), max_bytes=5000)
    assert result["truncated"]
    assert result["data"] == rows[: result["row_count"]]
    assert 30 < result["row_count"] < 100


async def test_an_object_over_the_byte_cap_is_withheld_and_says_what_to_do() -> None:
    for answer in (
        as_json({"text": "x" * 5000}),
        as_json(["x" * 5000]),
        reply(200, b"\x00" * 5000, Content_Type="image/png"),
    ):
        with pytest.raises(ResultBlocked, match="max_bytes"):
            await got(answer, max_bytes=1024)


@settings(max_examples=300, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=20,
    ),
    st.integers(0, 200),
)
def test_json_arrives_in_canonical_form_and_cut_arrays_are_a_prefix(value: Any, cut: int) -> None:
    from multidict import CIMultiDict

    def read(text: str, *, cut: bool = False) -> Any:
        answer = Answer(
            200, CIMultiDict({"Content-Type": "application/json"}), text.encode("utf-8", "surrogatepass"), cut
        )
        return body_of(answer, Redactor([]), 10).value

    text = json.dumps(value)
    assert read(text) == canonical(json.loads(text))
    orjson.dumps(read(text))
    text = json.dumps([value] * 5)
    try:
        items = read(text[: min(cut, len(text) - 1)], cut=True)
    except ResultBlocked:
        return
    assert items is None or items == canonical(json.loads(text))[: len(items)]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("9007199254740991", 9007199254740991),
        ("9007199254740992", "9007199254740992"),
        ("-9007199254740993", "-9007199254740993"),
        ("1" * 5000, "1" * 5000),
        ("[1e999, -1e999, NaN, Infinity]", ["Infinity", "-Infinity", "NaN", "Infinity"]),
        ('"\\ud83d\\ude00"', "😀"),
        ('["\\ud800", {"\\udc00": 1}]', ["\ufffd", {"\ufffd": 1}]),
        ('\ufeff{"a": 1}', {"a": 1}),
    ],
)
async def test_odd_json_becomes_something_that_can_be_sent_on(text: str, value: Any) -> None:
    result = await got(reply(200, text.encode(), Content_Type="application/problem+json; charset=utf-8"))
    assert result["data"] == value
    orjson.dumps(result)


@pytest.mark.parametrize("text", ["{", "", "nope", "[" * 500 + "]" * 500, "[" * 100_000, "\x00", '{"a": 1} x', "\xff"])
async def test_what_is_not_json_is_an_error_of_ours(text: str) -> None:
    answer = reply(200, text.encode("latin-1"), Content_Type="application/json")
    if not text:
        assert (await got(answer))["data"] is None
        return
    with pytest.raises(UpstreamError, match="JSON"):
        await got(answer)


@pytest.mark.parametrize(
    ("kind", "body", "value"),
    [
        ("text/plain; charset=iso-8859-1", "é".encode("latin-1"), "é"),
        ("text/csv; charset=utf-16", "a,b".encode("utf-16"), "a,b"),
        ("text/plain; charset=unicode_escape", rb"\x41", r"\x41"),
        ("text/plain; charset=zlib", b"x", "x"),
        ("text/plain; charset=nonsense", "é".encode(), "é"),
        ("text/plain", b"\xff", "\ufffd"),
        ("application/atom+xml", b"<a/>", "<a/>"),
        ("", b"just text", "just text"),
    ],
)
async def test_text_is_decoded_by_its_charset(kind: str, body: bytes, value: str) -> None:
    assert (await got(reply(200, body, Content_Type=kind)))["data"] == value


async def test_an_error_answer_is_quoted_short_and_plain() -> None:
    for body, kind, quoted in (
        (b'{"message": "no such field"}', "application/json", "no such field"),
        (b"line\r\nline\x1b[31m\x00", "text/plain", "line line [31m"),
        (b"<html>big page</html>", "text/html", None),
        (b"\x00\x01", "image/png", None),
    ):
        with pytest.raises(UpstreamError) as caught:
            await got(reply(422, body, Content_Type=kind))
        assert (quoted in caught.value.message) if quoted else ('"' not in caught.value.message)
    with pytest.raises(UpstreamError) as caught:
        await got(reply(400, b"x" * 100_000, Content_Type="text/plain"))
    assert len(caught.value.message) < 700


async def test_304_is_an_answer_without_a_body() -> None:
    result = await got(reply(304, ETag='"1"'), "GET /")
    assert (result["success"], result["data"]) == (True, None)


# -- pages ----------------------------------------------------------------------------------------


def pages(total: int, size: int) -> Any:
    """An API with `total` items, both with links and with cursors."""

    def answer(request: Received) -> bytes:
        target = urlsplit(request.line.split()[1])
        start = int(parse_qs(target.query).get("from", ["0"])[0])
        items, more = list(range(start, min(start + size, total))), start + size < total
        if "/cursor" in target.path:
            return as_json({"data": {"items": items}, "meta": {"next": start + size if more else None}})
        links = f'</v1/list?from={start + size}&keep=1>; rel="next", </v1/list?from=0>; rel=first'
        return as_json(items, **({"Link": links} if more else {}))

    return answer


CURSOR = {"cursor_field": "meta.next", "cursor_param": "from", "items_field": "data.items"}


@pytest.mark.parametrize("how", [{"link": True}, CURSOR])
@pytest.mark.parametrize(
    ("total", "max_rows", "rows", "truncated"),
    [(25, 100, 25, False), (25, 25, 25, False), (26, 25, 25, True), (0, 5, 0, False)],
)
async def test_pages_are_put_together_and_truncated_is_exact(
    how: dict[str, Any], total: int, max_rows: int, rows: int, truncated: bool
) -> None:
    path = "GET /list" if "link" in how else "GET /cursor"
    async with upstream(pages(total, 10)) as server, api(server.url + "/v1", max_rows=max_rows) as rest:
        result = await rest.ask(path, paginate=how)
    assert result["data"] == list(range(rows))
    assert (result["row_count"], result["truncated"], result["next_cursor"]) == (rows, truncated, None)


async def test_pages_end_at_their_bound_and_tell_where_to_go_on() -> None:
    async with upstream(pages(1000, 10)) as server, api(server.url + "/v1") as rest:
        linked = await rest.ask("GET /list", paginate={"link": True, "max_pages": 3})
        assert (linked["row_count"], linked["truncated"], linked["next_cursor"]) == (30, True, "/list?from=30&keep=1")
        further = await rest.ask(f"GET {linked['next_cursor']}", paginate={"link": True, "max_pages": 1})
        assert further["data"][0] == 30
        counted = await rest.ask("GET /cursor", paginate={**CURSOR, "max_pages": 2}, query={"from": 5, "x": 1})
        assert (counted["row_count"], counted["next_cursor"]) == (20, "25")
        assert len(server.requests) == 6
        small = await rest.ask("GET /cursor", paginate={**CURSOR, "max_pages": 50})
        assert small["row_count"] == 500


async def test_pages_together_keep_to_max_bytes() -> None:
    async with (
        upstream(pages(100_000, 100)) as server,
        api(server.url + "/v1", max_bytes=4096, max_rows=100_000) as rest,
    ):
        for path, how in (("/list", {"link": True}), ("/cursor", CURSOR)):
            result = await rest.ask(f"GET {path}", paginate={**how, "max_pages": 1000})
            assert result["truncated"]
            assert len(json.dumps(result["data"])) <= 4096
            assert result["data"] == list(range(result["row_count"]))
    assert len(server.requests) < 40


@pytest.mark.parametrize(
    "place",
    [
        "http://127.0.0.1:{sink}/v1/list",
        "//127.0.0.1:{sink}/",
        "/v1/../admin",
        "/admin",
        "/v1/secret",
        "file:///etc/passwd",
    ],
)
async def test_a_next_link_leads_nowhere_else(place: str) -> None:
    async with upstream(as_json([])) as sink:
        link = f"<{place.format(sink=sink.port)}>; rel=next"
        async with (
            upstream(as_json([1], Link=link)) as server,
            api(server.url + "/v1", allowed_paths=["/list"]) as rest,
        ):
            with pytest.raises(UpstreamError, match="outside"):
                await rest.ask("GET /list", paginate={"link": True})
        assert not sink.connections


async def test_pages_that_go_in_a_circle_are_noticed() -> None:
    async with upstream(as_json([1], Link="</list?from=1>; rel=next")) as server, api(server.url) as rest:
        with pytest.raises(UpstreamError, match="circle"):
            await rest.ask("GET /list", paginate={"link": True, "max_pages": 1000})
    assert len(server.requests) == 2


async def test_pages_are_for_reading_lists_only() -> None:
    async with upstream(as_json({"a": 1})) as server, api(server.url) as rest:
        for query, params in (("POST /x", {"json": {}}), ("GET /x", {})):
            with pytest.raises(InvalidRequest):
                await rest.ask(query, paginate={"link": True}, **params)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('<a>; rel="next"', "a"), ("<a>; rel=next", "a"), ('<a>; rel="prev next"', "a"), ('<a>; title="x, y"; rel="next"', "a"),
        ('<a>; rel=prev, <b>; rel=next', "b"), ("<a>; rel=nextish", None), ("<a>", None), ("", None), ("<" * 100_000, None),
        ('<a>; title="rel=next"', None), ("<a>;rel=next;x=y", "a"), ("<a" + ";x=" * 50_000, None),
    ],
)  # fmt: skip
def test_links_are_read_as_rfc_8288_says(text: str, found: str | None) -> None:
    assert next_link(text) == found
