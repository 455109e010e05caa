"""A value never leaves its segment, and allowed paths hold whatever the spelling."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, unquote, urlsplit

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.providers.rest_kit import api
from tests.upstreams.httpbin import Httpbin

from studio.errors import Forbidden, InvalidRequest
from studio.providers._http.path import Pattern, Template, allowed, literal
from studio.providers.rest.config import RestConfig
from studio.testing.http import reply, upstream

NASTY = st.text(
    st.sampled_from("./\\%2eEfF5cC;?#&=+:@ {}[]\x00\r\n\t\u2025\u2024\uff0e\uff0f\u2044\u2215\ud800aé日"), max_size=12
)
ESCAPES = (
    "..", "../x", "..%2fx", "%2e%2e", "%252e%252e", ".%2e/", "..\\x", "..;/x", "..;x", ". .", "%2f", "%5c", "a/b",
    "a%2Fb", "a%252Fb", "a%25252Fb", "\uff0e\uff0e", "\u2025", "a\uff0fb", "%c0%ae%c0%ae", "", " ", "a\x00b", "a\nb",
)  # fmt: skip


def sent(template: str, **values: Any) -> str:
    return Template.parse(template).fill(values).raw


@settings(max_examples=1500)
@given(NASTY | st.text(max_size=20))
@example("..%2f..%2fadmin")
@example("?admin=1")
def test_a_value_fills_exactly_one_segment_or_is_refused(value: str) -> None:
    try:
        raw = sent("/users/{id}/posts", id=value)
    except InvalidRequest:
        return
    split = urlsplit("http://h" + raw)
    assert (split.query, split.fragment, split.netloc) == ("", "", "h")
    parts = split.path.split("/")
    assert len(parts) == 4
    assert (parts[1], parts[3]) == ("users", "posts")
    assert unquote(parts[2]) == value
    meant = parts[2]
    for _ in range(4):  # whoever decodes once more still finds one segment
        meant = unquote(meant)
        assert "/" not in meant
        assert "\\" not in meant
        assert meant not in {".", ".."}


@pytest.mark.parametrize("value", ESCAPES)
def test_every_known_spelling_of_a_way_out_is_refused(value: str) -> None:
    with pytest.raises(InvalidRequest, match="id"):
        sent("/users/{id}", id=value)
    with pytest.raises(InvalidRequest):
        literal(f"/users/{value}/x" if "/" not in value else f"/users/{value}/../x")


def test_two_harmless_values_cannot_join_to_a_way_out() -> None:
    with pytest.raises(InvalidRequest):
        sent("/a/{x}{y}/b", x=".", y=".")
    with pytest.raises(InvalidRequest):
        sent("/a/.{x}/b", x=".")


def test_ordinary_values_travel_as_they_are() -> None:
    assert sent("/users/{id}", id="a b?c#d&e=f+g;h") == "/users/a%20b%3Fc%23d%26e%3Df%2Bg%3Bh"
    assert sent("/files/{name}.json", name="été") == "/files/%C3%A9t%C3%A9.json"
    assert sent("/n/{a}/{b}/{c}", a=1, b=2.5, c=True) == "/n/1/2.5/true"
    assert sent("/v1/things:batchGet") == "/v1/things:batchGet"
    assert sent("/users/") == "/users/"
    assert sent("/notes/{text}", text="a%20b") == "/notes/a%2520b"


def test_a_value_that_is_no_scalar_or_missing_is_named() -> None:
    for value in (None, [1], {"a": 1}):
        with pytest.raises(InvalidRequest, match="id"):
            sent("/users/{id}", id=value)
    with pytest.raises(InvalidRequest, match="id: is missing"):
        sent("/users/{id}")


PART = st.sampled_from(["a", "b", "admin", "*", "é"])
PATTERNS = st.lists(PART, min_size=1, max_size=4).flatmap(
    lambda parts: st.sampled_from(["/" + "/".join(parts), "/" + "/".join([*parts, "**"])])
)
PATHS = st.lists(st.sampled_from(["a", "b", "admin", "é", ""]), min_size=1, max_size=5)


@settings(max_examples=1000)
@given(PATTERNS, PATTERNS, PATHS)
def test_a_pattern_that_covers_another_lets_all_of_its_paths_through(outer: str, inner: str, parts: list[str]) -> None:
    wide, narrow = Pattern.parse(outer), Pattern.parse(inner)
    if wide.covers(narrow) and narrow.matches(parts):
        assert wide.matches(parts)


def test_patterns_mean_what_they_say() -> None:
    one, below = Pattern.parse("/users/*"), Pattern.parse("/users/**")
    for path, in_one, in_below in (
        ("/users/7", True, True), ("/users", False, True), ("/users/7/x", False, True), ("/users/", False, True),
        ("/Users/7", False, False), ("/usersx/7", False, False), ("/", False, False),
    ):  # fmt: skip
        assert (one.matches(literal(path).parts), below.matches(literal(path).parts)) == (in_one, in_below), path


@settings(max_examples=1000)
@given(st.lists(NASTY, min_size=1, max_size=4))
def test_no_spelling_of_a_path_gets_past_the_allowed_ones(parts: list[str]) -> None:
    """The judge: a server that decodes twice, folds slashes and removes dot segments."""
    rules = [Pattern.parse("/users/*")]
    try:
        path = literal("/" + "/".join(parts))
    except InvalidRequest:
        return
    if allowed(rules, path.parts):
        assert _as_a_lax_server_reads(path.raw)[:1] == ["users"]
        assert len(_as_a_lax_server_reads(path.raw)) == 2


def _as_a_lax_server_reads(raw: str) -> list[str]:
    read = unquote(unquote(raw)).replace("\\", "/")
    found: list[str] = []
    for part in (piece.partition(";")[0] for piece in read.split("/")):
        if part == "..":
            found = found[:-1]
        elif part not in {"", "."}:
            found.append(part)
    return found


def test_the_lax_server_would_be_fooled_without_the_check() -> None:
    assert _as_a_lax_server_reads("/users/" + quote("../admin", safe="")) == ["admin"]
    assert _as_a_lax_server_reads("/users/..%252fadmin") == ["admin"]


async def test_a_path_outside_is_refused_before_anything_is_sent() -> None:
    async with (
        upstream(reply(200, b"{}", Content_Type="application/json")) as server,
        api(server.url, allowed_paths=["/users/*", "/open/**"]) as rest,
    ):
        await rest.ask("GET /users/7")
        await rest.ask("GET /open")
        for path in ("/admin", "/users", "/users/7/keys", "/users//7", "/", "/users/../admin"):
            with pytest.raises((Forbidden, InvalidRequest)):
                await rest.ask(f"GET {path}")
        with pytest.raises(Forbidden, match=r"/users/\*"):
            await rest.ask("GET /{what}", what="admin")
    assert [request.line.split()[1] for request in server.requests] == ["/users/7", "/open"]


async def test_the_base_path_is_in_front_of_every_path_and_counts_for_the_allowed_ones() -> None:
    async with (
        upstream(reply(200, b"{}", Content_Type="application/json")) as server,
        api(server.url + "/v1", base_path="/teams/7", allowed_paths=["/teams/*/users/*"]) as rest,
    ):
        await rest.ask("GET /users/1")
        with pytest.raises(Forbidden):
            await rest.ask("GET /teams/8/users/1")
    assert server.requests[0].line.split()[1] == "/v1/teams/7/users/1"


@pytest.mark.parametrize(
    ("stored", "wanted", "fits"),
    [
        ({}, {"base_path": "/a"}, True),
        ({"base_path": "/a"}, {"base_path": "/a/b"}, True),
        ({"base_path": "/a"}, {"base_path": "/ab"}, False),
        ({"base_path": "/a"}, {"base_path": ""}, False),
        ({"allowed_paths": ["/a/**"]}, {"allowed_paths": ["/a/*", "/a/b/c"]}, True),
        ({"allowed_paths": ["/a/*"]}, {"allowed_paths": ["/a/**"]}, False),
        ({"allowed_paths": ["/a/*"]}, {"allowed_paths": ["/a/*", "/b"]}, False),
        ({}, {"allowed_paths": ["/b"]}, True),
        ({"allowed_headers": ["X-A"]}, {"allowed_headers": ["x-a"]}, True),
        ({"allowed_headers": ["X-A"]}, {"allowed_headers": ["X-B"]}, False),
        ({"follow_redirects": 1}, {"follow_redirects": 2}, False),
    ],
)
def test_an_override_only_narrows(stored: dict[str, Any], wanted: dict[str, Any], fits: bool) -> None:
    base = {"base_url": "http://h"}
    one, other = RestConfig.parse({**base, **stored}), RestConfig.parse({**base, **stored, **wanted})
    rules = RestConfig.overridable()
    assert all(rules[name].allows(one.value(name), other.value(name)) for name in wanted) == fits


def test_nothing_that_leads_elsewhere_may_be_overridden() -> None:
    closed = {"base_url", "auth", "headers", "ssl_verify", "ssl_ca", "openapi", "health_path"}
    assert not closed & set(RestConfig.overridable())


@pytest.mark.parametrize(
    "url",
    [
        "ftp://h", "file:///etc/passwd", "http://user:pw@h", "http://h?x=1", "http://h#x", "//h", "h", "http://", "",
        "http://h/..", "http://h/%2e%2e/x", "http://h/a%2fb", "http://h/a//b", "http://h\\@x", "http://h\nx", "http://h:0",
        "http://h:65536", "http://2130706433", "http://0x7f000001", "http://127.1", "http://0177.0.0.1", "http://h:1:2",
        "http://[::1", "http://[fe80::1%25eth0]", "http://h /x", "http+unix://x", "http://ex%61mple",
    ],
)  # fmt: skip
def test_a_base_url_is_http_host_port_and_path_only(url: str) -> None:
    with pytest.raises(ValidationError):
        RestConfig(base_url=url)


async def test_a_real_server_finds_the_value_in_one_segment(httpbin: Httpbin) -> None:
    async with api(httpbin.url) as rest:
        for value in ("a b", "a?b=c", "a#b", "100%", "a;b", "a&b=c", "é", "日本", "'\"<>", "a:b@c"):
            answer = await rest.ask("GET /anything/{value}", value=value)
            assert answer["data"]["url"].startswith(f"{httpbin.url}/anything/")
            assert unquote(answer["data"]["url"].removeprefix(f"{httpbin.url}/anything/")) == value
            assert answer["data"]["args"] == {}
