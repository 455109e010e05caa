"""The `soap` provider on a real service: conformance, calls, WS-Security, faults, hostile answers."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree
from tests import poison
from tests.servers import certificates
from tests.upstreams.soap import SoapService

from studio.errors import (
    AuthFailed,
    InvalidConfig,
    InvalidRequest,
    OverrideNotAllowed,
    ReadOnly,
    ResultBlocked,
    StudioError,
    Unreachable,
    UpstreamError,
)
from studio.models import Effect
from studio.providers.soap.config import SoapConfig
from studio.providers.soap.message import digest
from studio.providers.soap.provider import Soap
from studio.services.connector_service import ConnectorService
from studio.settings import Settings
from studio.testing.api import ApiConformance
from studio.testing.harness import call, open_provider
from studio.testing.http import Received, reply, upstream

pytestmark = pytest.mark.server

PAGE = Path(__file__).parents[2] / "docs" / "providers" / "soap.md"
ENV11 = "http://schemas.xmlsoap.org/soap/envelope/"
ENV12 = "http://www.w3.org/2003/05/soap-envelope"
PORTS = ("soap11", "soap12", "basic", "text11", "text12", "digest11", "digest12")
THING = {
    "text": "ä <b>&amp;</b> ]]> \u2028", "number": "12345678901234567890", "small": -1, "amount": "1.50", "ratio": 0.1,
    "yes": False, "day": "2026-01-31", "at": "2026-01-31T12:00:00Z", "raw": "AAEC", "many": ["a", ""],
}  # fmt: skip


class TestSoap(ApiConformance):
    """The family's suite."""

    kind = "soap"
    endpoint = "endpoint"
    one = "version"
    slow = "slow"
    slow_params: ClassVar[dict[str, Any]] = {"seconds": 10}
    broken = "fail"
    broken_params: ClassVar[dict[str, Any]] = {"text": "it broke"}
    write = "saveUser"
    write_params: ClassVar[dict[str, Any]] = {"user": {"name": "x"}}

    @pytest.fixture
    async def config(self, soap_service: SoapService) -> dict[str, Any]:
        reads = ["version", "slow", "fail"]
        return {"wsdl": soap_service.wsdl(), "endpoint": soap_service.url(), "read_operations": reads}


def auth_of(service: SoapService, path: str) -> dict[str, Any]:
    """The config of a port with the credentials that it wants."""
    if path == "basic":
        return service.config(path, auth={"type": "basic", "username": service.user, "password": service.password})
    if path[:-2] in {"text", "digest"}:
        return service.config(path, auth=service.wsse(path[:-2]))
    return service.config(path)


@pytest.fixture(params=PORTS)
async def any_port(request: pytest.FixtureRequest, soap_service: SoapService) -> AsyncIterator[Any]:
    async with open_provider(Soap, {**auth_of(soap_service, request.param), "read_only": False}) as provider:
        yield provider


@pytest.fixture
async def port(soap_service: SoapService) -> AsyncIterator[Any]:
    async with open_provider(Soap, soap_service.config(read_only=False)) as provider:
        yield provider


async def ask(provider: Any, name: str, **arguments: Any) -> Any:
    return (await call(provider, "call", operation=name, arguments=arguments)).data


def envelope(body: str, namespace: str = ENV11) -> bytes:
    return f'<e:Envelope xmlns:e="{namespace}"><e:Body>{body}</e:Body></e:Envelope>'.encode()


def answers(body: str | bytes, status: int = 200, kind: str = "text/xml") -> bytes:
    content = envelope(body) if isinstance(body, str) else body
    return reply(status, content, Content_Type=kind)


def fake(service: SoapService, url: str, **changes: Any) -> Any:
    """A provider with the real service's WSDL, on a server of the test's own."""
    config = {"wsdl": service.wsdl(), "endpoint": url, "read_only": False, "read_operations": ["version"]}
    return open_provider(Soap, {**config, **changes})


# -- calls ----------------------------------------------------------------------------------------


async def test_every_kind_of_port_takes_arguments_and_answers_json(any_port: Any) -> None:
    assert await ask(any_port, "version") == "1.0"
    assert await ask(any_port, "add", a=40, b=2) == 42
    assert await ask(any_port, "same", thing=THING) == THING
    users = await call(any_port, "call", operation="users", arguments={"count": 2})
    assert users.data["User"][1] == {
        "kind": "x", "id": 1, "name": "User 1", "role": "member", "tags": {"string": ["a", "b"]}, "balance": "1.50",
    }  # fmt: skip
    assert (users.row_count, users.truncated) == (2, False)


async def test_a_write_arrives_as_it_was_given(port: Any, soap_service: SoapService) -> None:
    user = {
        "name": "</name><role>admin</role>&x; <![CDATA[",
        "tags": {"string": ["<", '"']},
        "kind": '" x="',
        "role": "member",
    }
    key = await ask(port, "saveUser", user=user)
    assert soap_service.state()["users"][str(key)] == {**user, "tags": user["tags"]["string"]}  # type: ignore[index]


async def test_arguments_are_checked_before_anything_is_sent(port: Any, soap_service: SoapService) -> None:
    await ask(port, "version")
    before = soap_service.state()["calls"]
    for name, arguments, said in (
        ("ad", {}, "did you mean add"),
        ("nope", {}, "it has: version, add"),
        ("add", {}, "arguments.a: is missing"),
        ("add", {"a": None}, "arguments.a"),
        ("add", {"a": 1, "c": 2}, "arguments.c: is not known; known: a, b"),
        ("add", {"a": 1, "bb": 2}, "did you mean b"),
        ("add", {"a": "x"}, "arguments.a: must be an integer"),
        ("add", {"a": True}, "arguments.a: must be an integer"),
        ("add", {"a": 2**31}, "between -2147483648 and 2147483647"),
        ("version", {"a": 1}, "arguments.a: is not known"),
        ("saveUser", {"user": {}}, "arguments.user.name: is missing"),
        ("saveUser", {"user": "x"}, "arguments.user: must be an object"),
        ("saveUser", {"user": {"name": "x", "role": "root"}}, "arguments.user.role: must be one of: member, admin"),
        ("saveUser", {"user": {"name": ["x"]}}, "arguments.user.name: must be a single value"),
        ("saveUser", {"user": {"name": "x", "tags": {"strin": []}}}, "arguments.user.tags.strin.*did you mean string"),
        ("echo", {"text": "\x00"}, "cannot carry"),
        ("echo", {"text": "\ud800"}, "cannot carry"),
        ("same", {"thing": {"day": "31.1.2026"}}, "2026-01-31"),
        ("same", {"thing": {"at": "2026-01-31 12:00"}}, "2026-01-31T12"),
        ("same", {"thing": {"yes": 1}}, "true or false"),
        ("same", {"thing": {"amount": "1e5"}}, "decimal"),
        ("same", {"thing": {"raw": "?"}}, "base64"),
        ("same", {"thing": {"ratio": "x"}}, "must be a number"),
        ("same", {"thing": {"many": {"a": 1}}}, "arguments.thing.many.0"),
    ):
        with pytest.raises(InvalidRequest, match=said):
            await ask(port, name, **arguments)
    assert soap_service.state()["calls"] == before


def test_no_argument_ever_becomes_xml(soap_service: SoapService) -> None:
    """Texts, keys and nesting of any kind: the service gets the text, or the call is refused."""

    async def all_of_it() -> None:
        async with open_provider(Soap, soap_service.config(read_only=False)) as provider:

            async def send(text: str) -> None:
                try:
                    answer = await ask(provider, "echo", text=text)
                except InvalidRequest:
                    assert re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]", text)
                    return
                assert (answer or "") == text

            loop = asyncio.get_running_loop()

            @settings(max_examples=150, deadline=None)
            @given(text=st.text() | st.text(st.sampled_from("<>&;/!-[]?\"' \r\n\taCDATx#38")))
            def generated(text: str) -> None:
                asyncio.run_coroutine_threadsafe(send(text), loop).result(10)

            await asyncio.to_thread(generated)

    asyncio.run(all_of_it())


async def test_execute_query_takes_an_operation_s_name_and_its_arguments() -> None:
    assert Soap.native(" add ", {"a": 1}) == ("call", {"operation": "add", "arguments": {"a": 1}})
    assert Soap.native("version", None) == ("call", {"operation": "version", "arguments": None})


async def test_describe_lists_signatures_then_one_operation_with_its_types(port: Any) -> None:
    listed = (await call(port, "describe")).data
    lines = {line["signature"]: line["effect"] for line in listed["operations"]}
    assert lines["add(a: int, b?: int): integer"] == "read"
    assert lines["saveUser(user: User): int"] == "write"
    assert lines["crash(): nothing"] == "write"
    assert (await call(port, "describe", operation="add")).data == {
        "effect": "read", "signature": "add(a: int, b?: int): integer", "documentation": "Add two numbers.",
    }  # fmt: skip
    types = (await call(port, "describe", operation="saveUser")).data["types"]
    assert types == {
        "User": '{ id?: int; name: string; role?: "member" | "admin"; tags?: stringArray; balance?: decimal; kind?: string }',
        "stringArray": "{ string?: string[] }",
    }
    with pytest.raises(InvalidRequest, match="did you mean"):
        await call(port, "describe", operation="saveuser")


async def test_lists_are_cut_at_max_rows_and_answers_bounded_by_max_bytes(soap_service: SoapService) -> None:
    async with open_provider(Soap, soap_service.config(max_rows=3, max_bytes=4096)) as provider:
        four = await call(provider, "call", operation="users", arguments={"count": 4})
        assert (len(four.data["User"]), four.row_count, four.truncated) == (3, 3, True)
        with pytest.raises(ResultBlocked, match="max_bytes"):
            await ask(provider, "users", count=500)


async def test_a_large_answer_is_read_without_holding_the_loop_up(soap_service: SoapService) -> None:
    async with open_provider(Soap, soap_service.config(max_rows=5000)) as provider:
        assert len((await ask(provider, "users", count=3000))["User"]) == 3000


# -- reads and writes -----------------------------------------------------------------------------


async def test_only_listed_operations_run_on_a_read_only_connector(soap_service: SoapService, tmp_path: Path) -> None:
    async with ConnectorService(Settings(data_dir=tmp_path / "s")) as service:
        body = {"organization_id": "acme", "name": "it", "connector_type": "api", "provider": "soap"}
        config = soap_service.config(read_only=False, read_operations=["version", "add"])
        made = await service.create({**body, "config": config})
        narrow = {"read_only": True, "read_operations": ["version"]}
        await service.attach_to_agent(made["id"], "agent-1", "book", narrow)
        assert (await service.execute_query(agent_id="agent-1", alias="book", query="version"))["data"] == "1.0"
        before = soap_service.state()
        for query, params in (
            ("saveUser", {"user": {"name": "x"}}),
            ("add", {"a": 1}),
            ("Version", None),
            ("version\u200b", None),
        ):
            with pytest.raises(ReadOnly):
                await service.execute_query(agent_id="agent-1", alias="book", query=query, params=params)
        assert soap_service.state() == before
        with pytest.raises(OverrideNotAllowed):
            await service.attach_to_agent(made["id"], "agent-1", "more", {"read_operations": ["saveUser"]})
        assert (await service.execute_query(made["id"], "add", {"a": 1}))["data"] == 1


def test_policy_sees_a_write_wherever_an_operation_is_not_listed() -> None:
    """So an agent key that may only read is held on a connector that may write."""
    for reads in (["version"], [], None):
        operation = Soap.operation("call", Soap.operations_for({"read_operations": reads}))
        for name in ("version", "Version", "version ", "saveUser"):
            effect = operation.effect_of({"operation": name})
            assert effect is (Effect.READ if reads and name == "version" else Effect.WRITE)
    assert Soap.operations_for({})["describe"].effect is Effect.READ


async def test_a_provider_that_only_reads_refuses_to_write_by_itself(soap_service: SoapService) -> None:
    async with upstream(answers("<x/>")) as server, fake(soap_service, server.url, read_only=True) as provider:
        with pytest.raises(ReadOnly, match="read_operations"):
            await ask(provider, "saveUser", user={"name": "x"})
    assert not server.requests


async def test_a_read_may_be_sent_again_and_a_write_never_is(soap_service: SoapService) -> None:
    async with upstream(b"") as server, fake(soap_service, server.url) as provider:
        with pytest.raises(Unreachable):
            await ask(provider, "saveUser", user={"name": "x"})
        assert len(server.requests) == 1
        with pytest.raises(Unreachable):
            await ask(provider, "version")
        assert len(server.requests) == 4


# -- WS-Security ----------------------------------------------------------------------------------


def test_the_digest_is_that_of_the_profile() -> None:
    hashed = hashlib.sha1(b"nonce" + b"2026-01-31T12:00:00.000Z" + "schlüssel".encode()).digest()
    assert digest(b"nonce", "2026-01-31T12:00:00.000Z", "schlüssel") == base64.b64encode(hashed).decode()


async def test_a_digest_does_not_hold_the_password_and_is_never_the_same_twice(soap_service: SoapService) -> None:
    async with (
        upstream(answers('<versionResponse xmlns="urn:book"/>')) as server,
        fake(soap_service, server.url, auth=soap_service.wsse("digest")) as provider,
    ):
        await ask(provider, "version")
        await ask(provider, "version")
    tokens = [etree.fromstring(request.body).findtext(".//{*}Nonce") for request in server.requests]
    assert len(set(tokens)) == 2
    for request in server.requests:
        assert soap_service.password.encode() not in request.body
        assert request.header("Authorization") is None
        assert etree.fromstring(request.body).find(".//{*}Security").get(f"{{{ENV11}}}mustUnderstand") == "1"
        created = etree.fromstring(request.body).findtext(".//{*}Created")
        assert abs((datetime.now(UTC) - datetime.fromisoformat(created)).total_seconds()) < 10


@pytest.mark.parametrize("how", ["text", "digest"])
@pytest.mark.parametrize("version", ["11", "12"])
async def test_a_wrong_password_is_auth_failed_and_nothing_repeats_it(
    soap_service: SoapService, how: str, version: str, tmp_path: Path
) -> None:
    wrong = 'wr0ng#@/:%" <canary>'
    config = soap_service.config(how + version, auth=soap_service.wsse(how, password=wrong))
    async with open_provider(Soap, config) as provider:
        with pytest.raises(AuthFailed) as caught:
            await ask(provider, "version")
        assert "canary" not in caught.value.message
    async with ConnectorService(Settings(data_dir=tmp_path / "s")) as service:
        tested = await service.test_config({"connector_type": "api", "provider": "soap", "config": config})
    assert (tested["success"], tested["code"]) == (False, "auth_failed")
    assert [stage["name"] for stage in tested["stages"]][-1] == "auth"
    assert "canary" not in json.dumps(tested)


async def test_a_service_that_wants_text_does_not_take_a_digest(soap_service: SoapService) -> None:
    async with open_provider(Soap, soap_service.config("text11", auth=soap_service.wsse("digest"))) as provider:
        with pytest.raises(AuthFailed):
            await ask(provider, "version")


async def test_no_log_holds_a_credential_or_a_value(
    soap_service: SoapService, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    bad = answers('<addResponse xmlns="urn:book"><addResult>canary-value</addResult></addResponse>')
    async with open_provider(Soap, auth_of(soap_service, "text11")) as provider:
        await ask(provider, "echo", text="canary-value")
    async with upstream(bad) as server, fake(soap_service, server.url) as provider:
        assert await ask(provider, "add", a=1) == "canary-value"
    assert soap_service.password not in caplog.text
    assert "canary" not in caplog.text


# -- the test of a connection ---------------------------------------------------------------------


async def test_a_test_calls_a_read_without_arguments_or_nothing(soap_service: SoapService, tmp_path: Path) -> None:
    async with ConnectorService(Settings(data_dir=tmp_path / "s")) as service:
        body = {"connector_type": "api", "provider": "soap"}
        for reads, said in (
            (["add", "version"], "version answers"),
            (["add"], "no operation was called"),
            ([], "no operation"),
        ):
            before = soap_service.state()["calls"]
            config = soap_service.config(read_operations=reads)
            tested = await service.test_config({**body, "config": config})
            assert tested["success"], tested
            assert [stage["name"] for stage in tested["stages"]] == ["resolve", "connect", "wsdl", "auth", "sample"]
            assert said in tested["stages"][-1]["detail"]
            assert re.search(r"9 operations, SOAP 1\.1; not pinned, sha256 [0-9a-f]{64}", tested["stages"][2]["detail"])
            assert soap_service.state()["calls"] == before + (said == "version answers")


async def test_a_wsdl_that_is_not_there_fails_in_its_own_stage(soap_service: SoapService, tmp_path: Path) -> None:
    async with ConnectorService(Settings(data_dir=tmp_path / "s")) as service:
        config = {"wsdl_url": soap_service.url("nowhere") + "?wsdl"}
        tested = await service.test_config({"connector_type": "api", "provider": "soap", "config": config})
    failed = tested["stages"][-1]
    assert (tested["code"], failed["name"], failed["ok"]) == ("upstream_error", "wsdl", False)
    assert "wsdl_url" in failed["fix"]


# -- answers --------------------------------------------------------------------------------------


async def test_faults_say_code_and_reason(any_port: Any) -> None:
    with pytest.raises(UpstreamError, match=r"(Client\.|Sender/)BadThing: it broke: ä"):
        await ask(any_port, "fail", text="ä")
    with pytest.raises(UpstreamError, match=r"(Server|Receiver).*Internal Error") as caught:
        await ask(any_port, "crash")
    assert "canary" not in caught.value.message


FAULT12 = (
    "<e:Fault><e:Code><e:Value>e:Sender</e:Value><e:Subcode><e:Value xmlns:w='urn:w'>w:{0}</e:Value></e:Subcode></e:Code>"
    "<e:Reason><e:Text xml:lang='en'>why\x07 not</e:Text></e:Reason><e:Detail><a>more</a><b> detail</b></e:Detail></e:Fault>"
).replace("\x07", "&#x9;")


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (answers("<e:Fault><faultcode>e:Server</faultcode><faultstring>x</faultstring></e:Fault>", 500), UpstreamError, "Server: x"),
        (answers("<e:Fault><faultstring>x</faultstring></e:Fault>"), UpstreamError, "without a code: x"),
        (answers("<e:Fault/>"), UpstreamError, "no reason given"),
        (answers(envelope(FAULT12.format("Bad"), ENV12), 400, "application/soap+xml"), UpstreamError, r"Sender/Bad: why +not \(more detail\)"),
        (answers(envelope(FAULT12.format("FailedAuthentication"), ENV12), 400), AuthFailed, "FailedAuthentication"),
        (answers("<e:Fault><faultcode>wsse:InvalidSecurity</faultcode><faultstring>x</faultstring></e:Fault>", 500), AuthFailed, "x"),
        (answers("<versionResponse/>", 500), UpstreamError, "500"),
        (answers(b"<html/>"), UpstreamError, "does not answer in SOAP"),
        (answers(b"<html/>", 404), UpstreamError, "404"),
        (answers(b"<a"), UpstreamError, "not well-formed"),
        (answers(b"<a", 500), UpstreamError, "500"),
        (answers(b"", 500), UpstreamError, "500"),
        (answers(envelope("<x/>", "urn:other")), UpstreamError, "does not answer in SOAP"),
        (answers(b"<h>", kind="text/html"), UpstreamError, "does not answer in SOAP"),
        (answers(b"x", kind="multipart/related"), UpstreamError, "attachments"),
        (answers(b'{"a": 1}', kind="application/json"), UpstreamError, "does not answer in SOAP"),
        (answers("<a>" * 300 + "</a>" * 300), UpstreamError, "not well-formed|nested"),
        (reply(401), AuthFailed, "credentials"),
        (reply(302, Location="http://x/"), UpstreamError, "redirect"),
    ],
)  # fmt: skip
async def test_each_bad_answer_is_an_error_of_ours(
    soap_service: SoapService, answer: bytes, error: type[StudioError], said: str
) -> None:
    async with upstream(answer) as server, fake(soap_service, server.url) as provider:
        with pytest.raises(error, match=said):
            await ask(provider, "saveUser", user={"name": "x"})


def wrapped(text: str, name: str = "same") -> str:
    return f'<b:{name}Response xmlns:b="urn:book" xmlns:i="http://www.w3.org/2001/XMLSchema-instance" ' \
           f'xmlns:x="http://www.w3.org/2001/XMLSchema"><b:{name}Result>{text}</b:{name}Result></b:{name}Response>'  # fmt: skip


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("<b:number>007</b:number>", {"number": 7}),
        ("<b:number>9007199254740993</b:number>", {"number": "9007199254740993"}),
        ("<b:number>x</b:number>", {"number": "x"}),
        ("<b:amount> 1.500 </b:amount>", {"amount": "1.500"}),
        ("<b:ratio>INF</b:ratio>", {"ratio": "Infinity"}),
        ("<b:ratio>NaN</b:ratio>", {"ratio": "NaN"}),
        ("<b:ratio>1e999999999</b:ratio>", {"ratio": "Infinity"}),
        ("<b:yes>1</b:yes>", {"yes": True}),
        ("<b:yes>0</b:yes>", {"yes": False}),
        ("<b:at>2026-01-31T12:00:00+00:00</b:at>", {"at": "2026-01-31T12:00:00Z"}),
        ("<b:raw> AA\n EC </b:raw>", {"raw": "AAEC"}),
        ("<b:many>a</b:many>", {"many": ["a"]}),
        ("<b:text/>", {"text": ""}),
        ("<b:text i:nil='true'/>", {"text": None}),
        ("<text>no namespace</text>", {"text": "no namespace"}),
        ("<b:text>a</b:text><b:text>b</b:text><b:text>c</b:text>", {"text": ["a", "b", "c"]}),
        ("<b:new><b:a x='1'>t</b:a><b:a/></b:new>", {"new": {"a": [{"_value_1": "t", "x": "1"}, ""]}}),
        ("<b:text i:type='x:int'>5</b:text>", {"text": 5}),
        ("<b:text i:type='x:nope'>5</b:text>", {"text": "5"}),
        ("<b:text i:type='nope:int'>5</b:text>", {"text": "5"}),
        ("<b:text><b:y>1</b:y></b:text>", {"text": {"y": "1"}}),
        ("<b:text><![CDATA[<!DOCTYPE html><p>&amp;]]></b:text>", {"text": "<!DOCTYPE html><p>&amp;"}),
        ("", None),
    ],
)
async def test_what_a_service_sends_is_read_by_its_types_and_never_dropped(
    soap_service: SoapService, text: str, value: Any
) -> None:
    async with upstream(answers(wrapped(text))) as server, fake(soap_service, server.url) as provider:
        assert await ask(provider, "same", thing={}) == value


async def test_a_one_way_operation_answers_nothing(soap_service: SoapService) -> None:
    async with upstream(reply(202)) as server, fake(soap_service, server.url) as provider:
        result = await call(provider, "call", operation="version")
        assert (result.data, result.row_count) == (None, 0)


async def test_what_an_answer_repeats_of_the_credentials_is_taken_out(soap_service: SoapService) -> None:
    shown = wrapped(soap_service.password.replace("&", "&amp;").replace("<", "&lt;"), "echo")
    async with (
        upstream(answers(shown)) as server,
        fake(soap_service, server.url, auth=soap_service.wsse("text")) as provider,
    ):
        assert await ask(provider, "echo", text="x") == "[secret]"


BOMB = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
EVIL = {
    "billion laughs": f'<!DOCTYPE x [<!ENTITY l0 "lol">{BOMB}]>',
    "a file": '<!DOCTYPE x [<!ENTITY e SYSTEM "file://{canary}">]>',
    "a url": '<!DOCTYPE x [<!ENTITY e SYSTEM "{sink}/x">]>',
    "a parameter entity": '<!DOCTYPE x [<!ENTITY % p SYSTEM "{sink}/p"> %p;]>',
    "a remote dtd": '<!DOCTYPE x SYSTEM "{sink}/x.dtd">',
    "an empty one": "<!DOCTYPE x>",
    "after a comment": "<!-- x --><?pi x?>\n<!DOCTYPE x [<!ENTITY e SYSTEM '{sink}/x'>]>",
    "in lower case": "<!doctype x SYSTEM '{sink}/x'>",
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "iso-8859-1", "utf-7", "utf-32"])
@pytest.mark.parametrize("evil", EVIL.values(), ids=EVIL)
async def test_no_answer_makes_the_parser_read_anything_else(
    soap_service: SoapService, evil: str, encoding: str, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    canary.write_text("canary")
    async with upstream(reply(200)) as sink:
        prolog = evil.replace("{canary}", str(canary)).replace("{sink}", sink.url)
        text = f'<?xml version="1.0" encoding="{encoding}"?>{prolog}' + envelope(wrapped("&e;&l9;", "echo")).decode()
        async with upstream(answers(text.encode(encoding))) as server, fake(soap_service, server.url) as provider:
            with pytest.raises(UpstreamError, match=r"DOCTYPE|well-formed|encoding") as caught:
                await ask(provider, "echo", text="x")
    assert "canary" not in caught.value.message
    assert not sink.connections


def test_without_the_guard_the_attack_works(tmp_path: Path) -> None:
    """The parser as it comes reads the file: it is our settings that make the tests above pass."""
    (tmp_path / "canary").write_text("canary")
    text = f'<!DOCTYPE x [<!ENTITY e SYSTEM "file://{tmp_path}/canary">]><a>&e;</a>'
    loose = etree.XMLParser(resolve_entities=True, no_network=False, load_dtd=True)
    assert etree.fromstring(text.encode(), loose).text == "canary"


# -- faults of the network ------------------------------------------------------------------------


async def test_tls_is_checked_for_the_wsdl_and_for_calls(soap_tls: SoapService) -> None:
    async with open_provider(Soap, soap_tls.config(ssl_ca=certificates().ca)) as provider:
        assert await ask(provider, "version") == "1.0"
    async with open_provider(Soap, soap_tls.config()) as provider:
        with pytest.raises(Unreachable, match="certificate"):
            await ask(provider, "version")


async def test_a_service_killed_in_the_middle_of_a_call_heals_with_the_next(own_soap: SoapService) -> None:
    config = own_soap.config(read_operations=["version", "slow"])
    async with open_provider(Soap, config) as provider:
        await ask(provider, "version")
        running = asyncio.create_task(ask(provider, "slow", seconds=20))
        async with asyncio.timeout(5):
            while not (await asyncio.to_thread(own_soap.state))["slow"]:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.02)
        await asyncio.to_thread(crash_all, own_soap)
        with pytest.raises(Unreachable):
            await running
        with pytest.raises(Unreachable):
            await ask(provider, "version")
        await asyncio.to_thread(own_soap.restart)
        assert await asyncio.gather(*(ask(provider, "version") for _ in range(20))) == ["1.0"] * 20


def crash_all(server: SoapService) -> None:
    """gunicorn's worker too, which would serve on for a while without its master."""
    assert server.process is not None
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    server.crash()
    for child in children:
        os.kill(int(child), 9)


async def test_the_wsdl_is_read_once_for_a_hundred_callers(soap_service: SoapService) -> None:
    wsdl = soap_service.wsdl().encode()

    def serve(request: Received) -> bytes:
        if request.line.startswith("GET"):
            return reply(200, wsdl, Content_Type="text/xml")
        return answers(wrapped("1.0", "version"))

    async with upstream(serve) as server:
        config = {"wsdl_url": f"{server.url}/x?wsdl", "endpoint": server.url, "read_operations": ["version"]}
        async with open_provider(Soap, config) as provider:
            assert await asyncio.gather(*(ask(provider, "version") for _ in range(100))) == ["1.0"] * 100
        assert [request.line for request in server.requests if "GET" in request.line] == ["GET /x?wsdl HTTP/1.1"]


async def test_a_wsdl_that_is_being_read_ends_with_its_session() -> None:
    async def serve(_request: Received) -> bytes:
        await asyncio.sleep(30)
        return b""

    async with upstream(serve) as server:
        async with open_provider(Soap, {"wsdl_url": server.url, "read_operations": ["x"]}) as provider:
            task = asyncio.create_task(ask(provider, "x"))
            await asyncio.sleep(0.1)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert await server.drained()
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("studio-")]


# -- configuration --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        {}, {"wsdl_url": "http://x/", "wsdl": "<a/>", "endpoint": "http://x/"}, {"wsdl": "<a/>"},
        {"wsdl": "http://x/?wsdl", "endpoint": "http://x/"}, {"wsdl_url": "file:///etc/passwd"},
        {"wsdl_url": "http://u:p@x/?wsdl"}, {"wsdl_url": "http://x/?a b"}, {"wsdl_url": "http://x/?a#b"},
        {"wsdl_url": "http://x/../y?wsdl"}, {"wsdl_url": "http://0x7f.1/?wsdl"}, {"wsdl_url": "http://x/?\r\nHost: y"},
        {"wsdl_url": "http://x/", "auth": {"type": "wsse", "username": "u", "password": "\x01"}},
        {"wsdl_url": "http://x/", "auth": {"type": "api_key", "key": "k"}},
        {"wsdl_url": "http://x/", "soap_version": "2.0"},
    ],
)  # fmt: skip
def test_a_config_that_does_not_fit_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfig):
        SoapConfig.parse(config)


def test_what_secrets_are_sealed_to_and_what_may_be_overridden() -> None:
    assert {"wsdl_url", "endpoint", "auth", "ssl_verify"} == set(SoapConfig.destination_fields())
    assert "read_operations" in SoapConfig.overridable()
    assert not {"wsdl", "wsdl_url", "endpoint", "service", "port"} & set(SoapConfig.overridable())


def test_the_page_is_true(soap_service: SoapService, tmp_path: Path) -> None:
    [example] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    env = poison.program(tmp_path) | {
        "SOAP_WSDL_URL": soap_service.url("digest11") + "?wsdl",
        "SOAP_USERNAME": soap_service.user,
        "SOAP_PASSWORD": soap_service.password,
    }
    done = subprocess.run([sys.executable, "-W", "error", "-c", example], capture_output=True, text=True, env=env)
    expected = "Connection successful\nadd(a: int, b?: int): integer\n42\narguments.c: is not known; known: a, b\n"
    assert (done.stdout, done.stderr) == (expected, "")


async def test_registration_pins_the_wsdl_and_another_one_is_refused(soap_service: SoapService, tmp_path: Path) -> None:
    async with ConnectorService(Settings(data_dir=tmp_path / "s")) as service:
        body = {"organization_id": "acme", "name": "s", "connector_type": "api", "provider": "soap"}
        made = await service.create({**body, "config": soap_service.config(read_operations=["version"])})
        digest = made["config"]["wsdl_sha256"]
        assert re.fullmatch(r"[0-9a-f]{64}", digest)
        await service.execute_query(made["id"], "version")
        await service.update(made["id"], {"config": {"wsdl_sha256": "0" * 64}})  # as if the WSDL had changed since
        with pytest.raises(UpstreamError, match="another one than when this connector was registered"):
            await service.execute_query(made["id"], "version")
        taken = await service.update(made["id"], {"config": {"wsdl_sha256": None}})
        assert taken["config"]["wsdl_sha256"] == digest
        await service.execute_query(made["id"], "version")


async def test_a_service_that_cannot_be_reached_is_registered_and_not_pinned(
    unused_tcp_port: int, tmp_path: Path
) -> None:
    async with ConnectorService(Settings(data_dir=tmp_path / "s")) as service:
        body = {"organization_id": "acme", "name": "s", "connector_type": "api", "provider": "soap"}
        made = await service.create({**body, "config": {"wsdl_url": f"http://127.0.0.1:{unused_tcp_port}/?wsdl"}})
        assert "wsdl_sha256" not in made["config"]
