"""Credentials: each way to give them, what a wrong one does, and that none comes back."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.providers.rest_kit import api
from tests.upstreams.httpbin import Httpbin

from studio.contract.config import join_secrets
from studio.errors import AuthFailed, Forbidden, InvalidConfig, InvalidRequest, ResultBlocked
from studio.providers._http.client import Request
from studio.providers.rest.config import RestConfig
from studio.providers.rest.provider import Rest
from studio.services.connector_service import ConnectorService
from studio.settings import Settings
from studio.testing.harness import open_provider
from studio.testing.http import Received, reply, upstream

HOSTILE = ("p#ss@/:%w0rd", 'quo"te\\slash', "with space", "pässwörd", "a" * 500, "%41%42cdefg", "tab\tbed")
KEYS = {"access_key_id": "AKIDEXAMPLE", "secret_access_key": "wJalrXUtnFEMI/K7MDENG", "region": "r", "service": "s"}


def echo(request: Received) -> bytes:
    """Gives back everything that it got, in several spellings."""
    shown = {"line": request.line, "headers": dict(request.headers), "text": str(request.headers)}
    return reply(200, json.dumps(shown).encode(), Content_Type="application/json", Link=f"<{request.line}>")


@pytest.mark.parametrize("password", HOSTILE)
async def test_basic_takes_the_right_password_and_no_other(password: str) -> None:
    def check(request: Received) -> bytes:
        pair = base64.b64decode((request.header("Authorization") or "").removeprefix("Basic ")).decode()
        return reply(200 if pair == f"user@x:{password}" else 401, b"{}", Content_Type="application/json")

    async with upstream(check) as server:
        right = {"type": "basic", "username": "user@x", "password": password}
        async with api(server.url, auth=right) as rest:
            assert (await rest.ask("GET /"))["success"]
        async with api(server.url, auth={**right, "password": password + "x"}) as rest:
            with pytest.raises(AuthFailed) as caught:
                await rest.ask("GET /")
            assert password not in caught.value.message


async def test_httpbin_takes_basic_and_bearer(httpbin: Httpbin) -> None:
    basic = {"type": "basic", "username": "user", "password": "pass wörd"}
    async with api(httpbin.url, auth=basic) as rest:
        answer = await rest.ask("GET /basic-auth/user/{password}", password="pass wörd")
        assert answer["data"]["authenticated"] is True
        with pytest.raises(AuthFailed):
            await rest.ask("GET /basic-auth/user/other")
    async with api(httpbin.url, auth={"type": "bearer", "token": "tok3n.abc"}) as rest:
        assert (await rest.ask("GET /bearer"))["data"] == {"authenticated": True, "token": "[secret]"}
    async with api(httpbin.url) as rest:
        with pytest.raises(AuthFailed):
            await rest.ask("GET /bearer")


@pytest.mark.parametrize(
    ("auth", "header", "value"),
    [
        ({"type": "bearer", "token": "abc.def~1"}, "Authorization", "Bearer abc.def~1"),
        ({"type": "api_key", "key": "k-123456"}, "X-API-Key", "k-123456"),
        ({"type": "api_key", "in": "header", "name": "Ocp.Key", "key": "k-123456"}, "Ocp.Key", "k-123456"),
        ({"type": "none"}, "Authorization", None),
        (None, "Authorization", None),
    ],
)
async def test_a_variant_sets_its_header(auth: dict[str, Any] | None, header: str, value: str | None) -> None:
    async with upstream(echo) as server, api(server.url, **({"auth": auth} if auth else {})) as rest:
        await rest.ask("GET /")
    assert server.requests[0].header(header) == value


async def test_an_api_key_in_the_query_is_sent_and_never_comes_back() -> None:
    key = "k#y/with&odd=chars"
    async with (
        upstream(echo) as server,
        api(server.url, auth={"type": "api_key", "in": "query", "name": "key", "key": key}) as rest,
    ):
        answer = await rest.ask("GET /things", query={"a": 1}, full=True)
        assert server.requests[0].line.split()[1] == "/things?a=1&key=k%23y%2Fwith%26odd%3Dchars"
        assert answer["data"]["body"]["line"] == "GET /things?a=1&key=[secret] HTTP/1.1"
        assert answer["data"]["headers"]["link"] == "<GET /things?a=1&key=[secret] HTTP/1.1>"
        with pytest.raises(Forbidden):
            await rest.ask("GET /things", query={"key": "mine"})


async def test_a_next_page_does_not_carry_a_key_that_its_link_repeats() -> None:
    key = "k3y-canary-0123"
    page = reply(200, b"[1]", Content_Type="application/json", Link=f"</l?from=1&key={key}&again={key}>; rel=next")
    auth = {"type": "api_key", "in": "query", "name": "key", "key": key}
    async with upstream(page) as server, api(server.url, auth=auth) as rest:
        answer = await rest.ask("GET /l", paginate={"link": True, "max_pages": 1})
    assert answer["next_cursor"] == "/l?from=1&again=[secret]"


async def test_requests_are_signed_for_aws() -> None:
    async with upstream(echo) as server, api(server.url, auth={"type": "aws_sigv4", **KEYS}) as rest:
        await rest.ask("POST /x y?b=2&a=1".replace(" y", "%20y"), json={"a": 1})
    sent = server.requests[0]
    assert (sent.header("Authorization") or "").startswith("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/")
    assert "SignedHeaders=content-type;host;x-amz-date" in (sent.header("Authorization") or "")


def texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list):
        for item in value:
            yield from texts_in(item)
    elif isinstance(value, str):
        yield value


@pytest.mark.parametrize("secret", HOSTILE)
async def test_an_upstream_that_echoes_a_request_does_not_give_a_secret_away(secret: str) -> None:
    printable = secret.encode("ascii", "ignore").decode().replace("\t", "-")
    auth = {"type": "basic", "username": "u", "password": secret}

    def spill(request: Received) -> bytes:
        pair = base64.b64decode((request.header("Authorization") or " ").split()[1]).decode()
        texts = [pair, json.dumps(pair), str(dict(request.headers))]
        kind = "text/plain" if "text" in request.line else "application/json"
        body = "\n".join(texts) if "text" in request.line else json.dumps({"said": texts, pair: 1})
        return reply(500 if "fail" in request.line else 200, body.encode(), Content_Type=kind)

    async with upstream(spill) as server, api(server.url, auth=auth, headers={"X-Token": printable}) as rest:
        shown = [await rest.ask("GET /json"), await rest.ask("GET /text")]
        for path in ("/fail", "/failtext"):
            with pytest.raises(Exception, match="500") as caught:
                await rest.ask(f"GET {path}")
            shown.append(str(caught.value))  # type: ignore[arg-type]
    texts = list(texts_in(shown))
    assert any("[secret]" in text for text in texts)
    for form in (
        secret,
        printable,
        base64.b64encode(f"u:{secret}".encode()).decode(),
        json.dumps(secret)[1:-1],
        repr(secret),
    ):
        assert not [text for text in texts if form.strip("'") in text], form


async def test_a_secret_that_the_byte_cap_cuts_in_two_does_not_show_its_first_half() -> None:
    text = "x" * 1000 + " canary-0123456789-canary-0123456789 "
    async with upstream(reply(200, text.encode(), Content_Type="text/plain")) as server:
        for cap in range(1024, 1038):
            async with api(server.url, auth={"type": "bearer", "token": text[1001:-1]}, max_bytes=cap) as rest:
                assert "canary" not in (await rest.ask("GET /"))["data"]


async def test_without_the_redactor_the_echo_would_be_withheld_and_without_that_show_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("studio.providers._http.redact._forms", lambda secret: [])
    async with upstream(echo) as server, api(server.url, auth={"type": "bearer", "token": "tok3n-abc"}) as rest:
        with pytest.raises(ResultBlocked):
            await rest.ask("GET /")
        monkeypatch.setattr("studio.contract.withheld.Watch.check", lambda *_: None)
        assert "tok3n-abc" in json.dumps(await rest.ask("GET /"))


async def test_a_caller_sets_no_header_of_the_connector_or_the_connection() -> None:
    config = {"auth": {"type": "bearer", "token": "tok3n-abc"}, "headers": {"X-Tenant": "acme"}}
    async with upstream(echo) as server, api(server.url, **config, allowed_headers=["X-Trace", "X-Tenant"]) as rest:
        for name in (
            "Authorization", "authorization", "Host", "Cookie", "Connection", "Transfer-Encoding", "Content-Length",
            "TE", "Upgrade", "Proxy-Authorization", "Expect", "Accept-Encoding", "X-Tenant", "x-tenant", "X-Forwarded-For",
            "X-HTTP-Method-Override", "X-Other", "Te\r\nX",
        ):  # fmt: skip
            with pytest.raises(InvalidRequest, match="headers"):
                await rest.ask("GET /", headers={name: "x"})
        for value in ("a\r\nX-Evil: 1", "a\nb", "a\x00b"):
            with pytest.raises(InvalidRequest, match="X-Trace"):
                await rest.ask("GET /", headers={"X-Trace": value})
        assert not server.requests
        await rest.ask("GET /", headers={"x-trace": "1", "accept": "text/csv"})
    sent = server.requests[0]
    assert (sent.header("X-Trace"), sent.header("Accept"), sent.header("X-Tenant")) == ("1", "text/csv", "acme")
    assert len([name for name, _ in sent.headers if name.lower() == "accept"]) == 1


async def test_the_client_itself_drops_such_headers_whoever_built_the_request() -> None:
    config = {"auth": {"type": "api_key", "name": "X-Key", "key": "k-123456"}, "headers": {"X-Tenant": "acme"}}
    hostile = {"x-key": "1", "x-tenant": "2", "authorization": "3", "cookie": "4", "host": "5", "connection": "close"}
    async with upstream(echo) as server, api(server.url, **config) as rest:
        await rest.provider._client.fetch(Request("GET", "/", headers=hostile))
    sent = server.requests[0]
    assert [value for name, value in sent.headers if name.lower() in hostile] == [
        f"127.0.0.1:{server.port}", "acme", "k-123456",
    ]  # fmt: skip


async def test_nothing_is_kept_between_requests() -> None:
    async with upstream(reply(200, b"{}", Set_Cookie="session=abc; Path=/")) as server, api(server.url) as rest:
        for _ in range(3):
            await rest.ask("GET /")
    assert server.connections == 1
    assert all(request.header("Cookie") is None for request in server.requests)


@pytest.mark.parametrize(
    "config",
    [
        {"auth": {"type": "bearer", "token": "x\r\nEvil: 1"}},
        {"auth": {"type": "bearer", "token": ""}},
        {"auth": {"type": "basic", "username": "a:b", "password": "c"}},
        {"auth": {"type": "basic", "username": "a", "password": "c", "token": "d"}},
        {"auth": {"type": "magic"}},
        {"auth": {"type": "api_key", "name": "Host", "key": "c"}},
        {"auth": {"type": "bearer", "token": "x"}, "headers": {"authorization": "y"}},
        {"auth": {"type": "api_key", "name": "X-K", "key": "c"}, "headers": {"x-k": "y"}},
        {"headers": {"X-A": "1", "x-a": "2"}},
        {"headers": {"Transfer-Encoding": "chunked"}},
        {"headers": {"Bad Name": "x"}},
        {"headers": {"X": "line\nline"}},
        {"allowed_headers": ["X-HTTP-Method-Override"]},
        {"auth": {"type": "aws_sigv4", **KEYS, "region": "eu/west"}},
        {"ssl_ca": "not pem"},
        {"health_path": "/../x"},
        {"allowed_paths": []},
        {"allowed_paths": ["/a*"]},
        {"base_path": "/../x"},
        {"unknown": 1},
    ],
)
def test_a_config_that_cannot_mean_one_thing_is_refused_without_repeating_it(config: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfig) as caught:
        RestConfig.parse({"base_url": "http://h", **config})
    assert caught.value.fields


def test_secrets_are_split_from_the_rest_and_a_header_may_have_dots() -> None:
    given = {
        "base_url": "http://h",
        "headers": {"X.Dotted.Name": "one", "Plain": "two"},
        "auth": {
            "type": "oauth2_client_credentials",
            "token_url": "http://h/t",
            "client_id": "me",
            "client_secret": "s",
        },
    }
    public, secrets = RestConfig.parse(given).split()
    assert secrets == {r"headers.X\.Dotted\.Name": "one", "headers.Plain": "two", "auth.client_secret": "s"}
    assert "one" not in json.dumps(public)
    assert join_secrets(public, secrets) == given


def test_where_secrets_go_is_what_they_are_sealed_to() -> None:
    auth = {"type": "oauth2_client_credentials", "token_url": "http://h/t", "client_id": "me", "client_secret": "s"}

    def destination(**change: Any) -> str:
        config = RestConfig.parse({"base_url": "http://h", "auth": {**auth, **change.pop("auth", {})}, **change})
        return config.destination(config.split()[0])

    same = destination()
    assert destination(auth={"client_secret": "other"}) == same
    assert destination(max_rows=5) == same
    for change in (
        {"base_url": "http://h2"}, {"base_url": "https://h"}, {"base_url": "http://h/x"}, {"ssl_verify": False},
        {"auth": {"token_url": "http://evil/t"}}, {"auth": {"client_id": "you"}}, {"auth": {"scope": "more"}},
    ):  # fmt: skip
        assert destination(**change) != same, change


async def test_a_header_changes_alone_and_the_rest_stays(tmp_path: Path) -> None:
    async with upstream(echo) as server, ConnectorService(Settings(data_dir=tmp_path)) as service:
        made = await service.create(
            {"organization_id": "acme", "name": "x", "connector_type": "api", "provider": "rest",
             "config": {"base_url": server.url, "headers": {"X.A": "old-aaaa", "X-B": "bbbbbb"}}}
        )  # fmt: skip
        changed = await service.update(made["id"], {"config": {"headers": {"X.A": "new-aaaa"}}})
        assert sorted(changed["secrets_set"]) == ["headers.X-B", r"headers.X\.A"]
        await service.execute_query(made["id"], "GET /")
        assert (server.requests[0].header("X.A"), server.requests[0].header("X-B")) == ("new-aaaa", "bbbbbb")
        await service.update(made["id"], {"config": {"headers": {"X.A": None}}})
        await service.execute_query(made["id"], "GET /")
        assert server.requests[1].header("X.A") is None


async def test_secrets_stand_in_no_log_and_no_repr(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    config = {"auth": {"type": "basic", "username": "u", "password": "canary-pw"}, "headers": {"X-Key": "canary-hd"}}
    async with upstream(reply(500, b"no")) as server, api(server.url, **config) as rest:
        with pytest.raises(Exception, match="500"):
            await rest.ask("GET /")
        shown = repr(rest.provider.config) + repr(rest.provider) + repr(vars(rest.provider))
    assert "canary" not in caplog.text + shown


async def test_a_ca_that_is_no_certificate_is_a_wrong_config() -> None:
    pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    with pytest.raises(InvalidConfig, match="ssl_ca"):
        async with open_provider(Rest, {"base_url": "https://localhost", "ssl_ca": pem}):
            pass
