"""Every spelling of a closed place, at every moment at which a config is used: nobody may come to the sink."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.attack import corpus
from tests.attack.conftest import NETWORKED, Serve, Target
from tests.attack.report import report
from tests.attack.sink import Sink, answer, connects, sink

from studio.errors import EgressDenied, OverrideNotAllowed, StudioError

SSRF = corpus.read("ssrf")
PLACES = [*SSRF["loopback"], *SSRF["elsewhere"]]
FAST = {"connect_timeout_s": 0.5, "timeout_s": 2.0}


def harmless(dialled: list[Any], found: Sink) -> int:
    """How many connects went to the sink or anywhere else that is closed here."""
    return found.connections + len([address for address in dialled if isinstance(address, tuple)])


@pytest.mark.parametrize("kind", NETWORKED)
async def test_no_spelling_of_a_closed_place_is_dialled_at_create_test_or_query(closed: Target, kind: str) -> None:
    tried, codes = 0, set()
    async with sink(kind) as found:
        with connects() as dialled:
            for place in PLACES:
                try:
                    made = await closed.create(
                        kind, {**corpus.config(kind, place, found.port, "s3cret-c4n4ry"), **FAST}
                    )
                except StudioError as exc:
                    tried, codes = tried + 1, codes | {exc.code}
                    continue
                tested = await closed.service.test_connection(made)
                assert not tested["success"], place
                with pytest.raises(StudioError) as caught:
                    await closed.query(kind, made)
                tried, codes = tried + 3, codes | {tested["code"], caught.value.code}
        hits = harmless(dialled, found)
    report.count("ssrf", kind, tried=tried, hits=hits)
    assert not hits, dialled
    assert codes <= {"invalid_config", "egress_denied", "unreachable"}, codes
    assert "egress_denied" in codes


@pytest.mark.parametrize("kind", NETWORKED)
async def test_neither_an_update_nor_an_override_leads_to_a_closed_place(closed: Target, kind: str) -> None:
    secret = "s3cret-c4n4ry"
    async with sink(kind) as found:
        with connects() as dialled:
            made = await closed.create(kind, {**corpus.config(kind, "192.0.2.1", 9, secret), **FAST})
            leads = corpus.leads(kind, "127.0.0.1", found.port)
            for name, value in leads.items():
                with pytest.raises(OverrideNotAllowed):
                    await closed.service.attach_to_agent(made, "agent", f"by-{name}", {name: value})
            await closed.service.update(
                made, {"config": {**corpus.config(kind, "127.0.0.1", found.port, secret), **leads}}
            )
            assert not (await closed.service.test_connection(made))["success"]
            await closed.service.attach_to_agent(made, "agent", "main")
            with pytest.raises(EgressDenied):
                await closed.service.execute_query(
                    agent_id="agent", alias="main", query=corpus.read("kinds")[kind]["query"]
                )
        hits = harmless(dialled, found)
    report.count("ssrf", kind, tried=3 + len(leads), hits=hits)
    assert not hits, dialled


@pytest.mark.parametrize("kind", [kind for kind in NETWORKED if "http" in str(corpus.read("kinds")[kind]["config"])])
async def test_no_scheme_but_http_is_spoken(closed: Target, kind: str) -> None:
    url = next(name for name, value in corpus.config(kind, "h", 1).items() if str(value).startswith("http"))
    async with sink(kind) as found:
        for scheme in SSRF["schemes"]:
            config = corpus.config(kind, "127.0.0.1", found.port)
            with pytest.raises(StudioError) as caught:
                await closed.create(kind, {**config, url: config[url].replace("http", scheme, 1)})
            assert caught.value.code == "invalid_config"
        report.count("ssrf", kind, tried=len(SSRF["schemes"]), hits=found.connections)
        assert not found.connections


REDIRECTS = {
    f"{status} {name}": (status, name)
    for status in (301, 302, 303, 307, 308)
    for name in ("location", "refresh", "x-amz-bucket-region")
}
HTTP = ["rest", "graphql", "soap", "s3", "minio", "gcs", "azure_blob", "sqs"]


@pytest.mark.parametrize("kind", HTTP)
async def test_no_redirect_leads_to_another_place(serve: Serve, kind: str) -> None:
    """The upstream is open here (127.0.0.2); it points at the sink, which is closed, and open as well."""
    target = await serve(host="0.0.0.0", egress_allow=("127.0.0.0/8",))
    tried = 0
    async with sink() as found:
        for status, header in REDIRECTS.values():
            where = f"127.0.0.1:{found.port}/" if header == "x-amz-bucket-region" else f"http://127.0.0.1:{found.port}/"
            body = f"<Error><Code>PermanentRedirect</Code><Endpoint>127.0.0.1:{found.port}</Endpoint></Error>".encode()
            more = {"follow_redirects": 3} if kind == "rest" else {}
            async with sink(http=answer(body, status, **{header: where})) as upstream:
                config = {**corpus.config(kind, "127.0.0.2", upstream.port, "s3cret-c4n4ry"), **FAST, **more}
                made = await target.create(kind, config)
                await target.service.test_connection(made)
                with pytest.raises(StudioError):
                    await target.query(kind, made)
                assert upstream.connections
            tried += 2
        report.count("ssrf", kind, tried=tried, hits=found.connections)
        assert not found.connections
        assert b"c4n4ry" not in found.seen


@pytest.mark.parametrize("kind", ["redis", "redis_pubsub"])
@pytest.mark.parametrize("word", ["MOVED", "ASK"])
async def test_no_redirection_of_a_cluster_is_followed(local: Target, kind: str, word: str) -> None:
    async with sink() as found, sink(reply=f"-{word} 1 127.0.0.1:{found.port}\r\n".encode()) as upstream:
        made = await local.create(kind, {**corpus.config(kind, "127.0.0.1", upstream.port, "s3cret"), **FAST})
        await local.service.test_connection(made)
        with pytest.raises(StudioError):
            await local.query(kind, made)
        await asyncio.sleep(0.05)
        report.count("ssrf", kind, tried=2, hits=found.connections)
        assert upstream.connections
        assert not found.connections


@pytest.mark.parametrize("kind", NETWORKED)
async def test_the_sink_would_see_who_comes(local: Target, kind: str) -> None:
    """The control of this file: where loopback is open, everybody comes."""
    async with sink(kind) as found:
        with connects() as dialled:
            made = await local.create(kind, {**corpus.config(kind, "127.0.0.1", found.port, "s3cret-c4n4ry"), **FAST})
            await local.service.test_connection(made)
        assert found.connections
        assert ("127.0.0.1", found.port) in dialled
