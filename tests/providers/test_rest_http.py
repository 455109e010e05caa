"""The client under the api family: retries, redirects, sizes, TLS, and connections that end."""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
import time
import zlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from tests.providers.rest_kit import api
from tests.servers import certificates
from tests.upstreams.httpbin import Httpbin

from studio.contract import Probe
from studio.errors import AuthFailed, EgressDenied, RateLimited, ReadOnly, StudioError, Unreachable, UpstreamError
from studio.providers._http import body as http_body
from studio.providers._http import gate as http_gate
from studio.providers.rest.provider import Rest
from studio.security.egress import Egress
from studio.testing.harness import open_provider
from studio.testing.http import Received, reply, upstream

OK = reply(200, b'{"ok": true}', Content_Type="application/json")
MIB = 1024 * 1024


def after(*answers: bytes) -> Callable[[Received], bytes]:
    """Those answers in turn, the last one again and again."""
    left = list(answers)
    return lambda _request: left.pop(0) if len(left) > 1 else left[0]


# -- retries --------------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", [b"", reply(502), reply(503), reply(504), reply(429, Retry_After="0")])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD", "OPTIONS"])
async def test_an_idempotent_request_is_tried_three_times_at_most(trouble: bytes, method: str) -> None:
    async with (
        upstream(after(trouble, trouble, OK if method != "HEAD" else reply(200))) as server,
        api(server.url) as rest,
    ):
        assert (await rest.ask(f"{method} /"))["success"]
        assert len(server.requests) == 3
    async with upstream(after(trouble, trouble, trouble, OK)) as server, api(server.url) as rest:
        with pytest.raises(StudioError):
            await rest.ask(f"{method} /")
        assert len(server.requests) == 3


@pytest.mark.parametrize("trouble", [b"", reply(502), reply(503, Retry_After="0"), reply(429, Retry_After="0")])
@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_another_request_is_sent_once(trouble: bytes, method: str) -> None:
    async with upstream(after(trouble, OK)) as server, api(server.url) as rest:
        with pytest.raises(StudioError):
            await rest.ask(f"{method} /", json={})
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 500, 501])
async def test_an_answer_that_is_final_is_not_asked_for_again(status: int) -> None:
    async with upstream(reply(status)) as server, api(server.url) as rest:
        with pytest.raises(AuthFailed if status == 401 else UpstreamError, match=str(status)):
            await rest.ask("GET /")
    assert len(server.requests) == 1


async def test_nothing_is_sent_again_after_the_first_byte_of_an_answer() -> None:
    half = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"

    def cut(request: Received) -> bytes:
        return half

    async with upstream(cut) as server, api(server.url, timeout_s=0.5) as rest:
        with pytest.raises((StudioError, TimeoutError)):
            async with asyncio.timeout(0.5):
                await rest.ask("GET /")
    assert len(server.requests) == 1


async def test_the_upstreams_own_wish_to_wait_is_honoured_where_it_fits_the_deadline() -> None:
    async with upstream(after(reply(503, Retry_After="1"), OK)) as server, api(server.url) as rest:
        start = time.perf_counter()
        await rest.ask("GET /")
        assert 1 <= time.perf_counter() - start < 1.5
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    for wish, error in (("60", RateLimited), (date, RateLimited)):
        async with upstream(after(reply(429, Retry_After=wish), OK)) as server, api(server.url, timeout_s=5) as rest:
            start = time.perf_counter()
            with pytest.raises(error) as caught:
                await rest.ask("GET /")
            assert time.perf_counter() - start < 0.5
            assert caught.value.retry_after_s == pytest.approx(60 if wish == "60" else 100, abs=3)
        assert len(server.requests) == 1


@pytest.mark.parametrize("wish", ["soon", "-5", "1e9", "", "9" * 400, "Mon, 99 Foo 2020 99:99:99 GMT"])
async def test_a_senseless_wish_is_not_believed(wish: str) -> None:
    async with upstream(reply(429, Retry_After=wish)) as server, api(server.url) as rest:
        with pytest.raises(RateLimited) as caught:
            await rest.ask("GET /")
    assert caught.value.retry_after_s is None or caught.value.retry_after_s <= 86_400


# -- redirects ------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_followed_only_where_that_is_switched_on(status: int) -> None:
    def answer(request: Received) -> bytes:
        return OK if request.line.startswith("GET /there?x=1 ") else reply(status, Location="/there?x=1")

    async with upstream(answer) as server:
        async with api(server.url) as rest:
            with pytest.raises(UpstreamError, match="redirects"):
                await rest.ask("GET /")
            assert len(server.requests) == 1
        async with api(server.url, follow_redirects=1, auth={"type": "bearer", "token": "tok3n-abc"}) as rest:
            assert (await rest.ask("GET /"))["data"] == {"ok": True}
            assert server.requests[-1].header("Authorization") == "Bearer tok3n-abc"
            with pytest.raises(UpstreamError, match="redirects"):
                await rest.ask("POST /", json={})


@pytest.mark.parametrize(
    "place",
    [
        "http://127.0.0.1:{sink}/x", "//127.0.0.1:{sink}/x", "https://127.0.0.1:{own}/x", "http://localhost:{own}/x",
        "http://user@127.0.0.1:{own}/x", "file:///etc/passwd", "gopher://127.0.0.1:{sink}/", "ftp://127.0.0.1:{sink}/",
        "http://169.254.169.254/latest", "/v1/../admin", "/v1/%2e%2e/admin", "/v1/..%2fadmin", "/admin", "/v1/secret",
        "http:127.0.0.1:{sink}", "\\\\127.0.0.1:{sink}\\x", "http://127.0.0.1:{own}@127.0.0.1:{sink}/",
        "http://127.0.0.1:{sink}#@127.0.0.1:{own}/", "javascript:1", "http://[", "//", "http://127.0.0.1:{own}/v1/open/..//x",
    ],
)  # fmt: skip
async def test_no_redirect_leads_out_of_the_origin_the_base_or_the_allowed_paths(place: str) -> None:
    async with upstream(OK) as sink:
        own = [0]
        answer = lambda _request: reply(302, Location=place.format(sink=sink.port, own=own[0]))  # noqa: E731
        async with upstream(answer) as server:
            own[0] = server.port
            async with api(
                server.url + "/v1",
                follow_redirects=3,
                allowed_paths=["/open/**"],
                auth={"type": "bearer", "token": "abc"},
            ) as rest:
                with pytest.raises(UpstreamError):
                    await rest.ask("GET /open/x")
            assert all(request.line.startswith("GET /v1/open/") for request in server.requests)
        assert not sink.connections


async def test_no_redirect_leads_above_the_base_url_even_where_every_path_below_is_allowed() -> None:
    for place in ("/admin/x", "/v1x/y", "/", "/v2/v1/x"):
        async with upstream(reply(302, Location=place)) as server, api(server.url + "/v1", follow_redirects=3) as rest:
            with pytest.raises(UpstreamError, match="outside"):
                await rest.ask("GET /open")
        assert len(server.requests) == 1


async def test_redirects_end_after_the_number_that_is_set() -> None:
    async with upstream(reply(302, Location="/again")) as server, api(server.url, follow_redirects=2) as rest:
        with pytest.raises(UpstreamError, match="redirects"):
            await rest.ask("GET /")
    assert len(server.requests) == 3


async def test_httpbin_redirects_stay_inside_too(httpbin: Httpbin) -> None:
    async with upstream(OK) as sink, api(httpbin.url, follow_redirects=3) as rest:
        assert (await rest.ask("GET /relative-redirect/2"))["success"]
        for status in (301, 302, 303, 307, 308):
            with pytest.raises(UpstreamError):
                await rest.ask("GET /redirect-to", query={"url": sink.url, "status_code": status})
    assert not sink.connections


# -- sizes ----------------------------------------------------------------------------------------


async def test_gzip_is_undone_and_its_decoded_bytes_are_counted() -> None:
    text = "line of text %d\n" * 2000
    async with (
        upstream(
            reply(200, gzip.compress(text.encode()), Content_Encoding="gzip", Content_Type="text/plain")
        ) as server,
        api(server.url, max_bytes=10_000) as rest,
    ):
        answer = await rest.ask("GET /")
    assert answer["data"] == text[:10_000]
    assert answer["truncated"] is True
    assert server.requests[0].header("Accept-Encoding") == "gzip"


async def test_gzip_in_two_members_is_one_text_and_in_many_is_refused() -> None:
    two, many = gzip.compress(b"one ") + gzip.compress(b"two"), gzip.compress(b"") * 1000
    async with (
        upstream(
            after(*[reply(200, b, Content_Encoding="gzip", Content_Type="text/plain") for b in (two, many)])
        ) as server,
        api(server.url) as rest,
    ):
        assert (await rest.ask("GET /"))["data"] == "one two"
        with pytest.raises(UpstreamError, match="pieces"):
            await rest.ask("GET /")


@pytest.mark.parametrize("body", [b"plain text", gzip.compress(b"cut in two" * 100)[:-20], zlib.compress(b"zlib")])
async def test_what_says_gzip_and_is_not_is_refused(body: bytes) -> None:
    answer = reply(200, body, Content_Encoding="gzip", Content_Type="text/plain")
    async with upstream(answer) as server, api(server.url) as rest:
        with pytest.raises(UpstreamError, match="gzip"):
            await rest.ask("GET /")


async def test_a_bomb_is_seen_by_its_ratio_and_without_the_check_it_would_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = reply(200, gzip.compress(b"0" * 8 * MIB), Content_Encoding="gzip", Content_Type="text/plain")
    async with upstream(bomb) as server, api(server.url) as rest:
        with pytest.raises(UpstreamError, match="unpacks"):
            await rest.ask("GET /")
        monkeypatch.setattr(http_body, "MAX_RATIO", 10**9)
        assert (await rest.ask("GET /"))["truncated"]


async def test_bytes_that_decode_to_nothing_count_as_well() -> None:
    """Empty deflate blocks: five bytes on the wire each, none decoded."""
    body = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff" + b"\x00\x00\x00\xff\xff" * 400_000
    async with (
        upstream(reply(200, body, Content_Encoding="gzip", Content_Type="text/plain")) as server,
        api(server.url, max_bytes=1024) as rest,
    ):
        assert (await rest.ask("GET /"))["truncated"]
        assert await server.drained()


async def test_an_endless_answer_ends_at_the_cap_and_so_does_its_connection() -> None:
    class Endless:
        sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                writer.write(b"1000\r\n" + b"x" * 4096 + b"\r\n")
                await writer.drain()
                Endless.sent += 4096
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with api(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", max_bytes=100_000) as rest:
        answer = await rest.ask("GET /")
        assert (len(answer["data"]), answer["truncated"]) == (100_000, True)
    server.close()
    assert Endless.sent < 16 * MIB


@pytest.mark.parametrize(
    "head",
    [b"X: " + b"a" * 100_000, b"\r\n".join(b"X-%d: a" % n for n in range(100_000)), b"Content-Length: -5",
     b"Content-Length: 5\r\nContent-Length: 6", b"Transfer-Encoding: chunked\r\nContent-Length: 5", b"No colon here"],
)  # fmt: skip
async def test_an_answer_with_a_senseless_head_is_an_error_of_ours(head: bytes) -> None:
    async with upstream(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\nhello") as server, api(server.url) as rest:
        with pytest.raises((UpstreamError, Unreachable)):
            await asyncio.wait_for(rest.ask("GET /"), 5)


# -- connections ----------------------------------------------------------------------------------


async def test_no_more_connections_than_the_pool_has_and_they_are_kept() -> None:
    async def slow(_request: Received) -> bytes:
        await asyncio.sleep(0.01)
        return OK

    async with upstream(slow) as server:
        async with api(server.url, pool_size=4) as rest:
            await asyncio.gather(*(rest.ask("GET /") for _ in range(100)))
            assert (server.most, server.connections) == (4, 4)
        assert await server.drained()


async def test_a_cancelled_call_closes_its_connection() -> None:
    async def never(_request: Received) -> bytes:
        await asyncio.sleep(60)
        return OK

    async with upstream(never) as server, api(server.url, pool_size=1) as rest:
        call = asyncio.create_task(rest.ask("GET /"))
        await asyncio.sleep(0.2)
        assert server.requests
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await server.drained()
        server.answer = OK
        assert (await rest.ask("GET /"))["success"]


async def test_a_server_that_was_killed_and_is_back_heals_on_the_next_call(own_httpbin: Httpbin) -> None:
    async with api(own_httpbin.url) as rest:
        await asyncio.gather(*(rest.ask("GET /get") for _ in range(4)))
        own_httpbin.crash()
        with pytest.raises(Unreachable):
            await rest.ask("GET /get")
        own_httpbin.restart()
        assert (await rest.ask("GET /get"))["success"]


async def test_a_connection_that_went_stale_is_replaced_unseen() -> None:
    async with upstream(OK) as server, api(server.url, pool_size=1) as rest:
        await rest.ask("GET /")
        stale = server.connections
        server.answer = after(b"", OK)  # as if it had closed while nobody looked
        assert (await rest.ask("GET /"))["success"]
        assert server.connections == stale + 1


async def test_only_our_own_retries_count_on_a_connection_that_went_stale() -> None:
    for method, times in (("GET", 3), ("POST", 1)):
        async with upstream(OK) as server, api(server.url, pool_size=1) as rest:
            await rest.ask("GET /")
            server.answer = after(b"", b"", b"", OK)
            with pytest.raises(Unreachable):
                await rest.ask(f"{method} /")
            assert len(server.requests) == 1 + times


async def test_a_large_body_is_sent_whole_without_a_warning(httpbin: Httpbin) -> None:
    async with api(httpbin.url, max_bytes=16 * MIB) as rest:
        answer = await rest.ask("PUT /put", body="x" * 3 * MIB)
        assert len(answer["data"]["data"]) == 3 * MIB


async def test_a_host_that_drops_packets_costs_the_connect_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    full = socket.socket()
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    port = full.getsockname()[1]
    fillers = []
    for _ in range(4):  # the kernel drops what its queue does not hold
        filler = asyncio.create_task(asyncio.open_connection("127.0.0.1", port))
        fillers.append(filler)
    await asyncio.sleep(0.2)
    async with api(f"http://127.0.0.1:{port}", connect_timeout_s=0.5) as rest:
        start = time.perf_counter()
        with pytest.raises(Unreachable, match="connect_timeout_s"):
            await rest.ask("GET /")
        assert 0.4 < time.perf_counter() - start < 1.5
    for filler in fillers:
        filler.cancel()
        done = await asyncio.gather(filler, return_exceptions=True)
        if isinstance(done[0], tuple):
            done[0][1].close()
    full.close()


# -- the gate and TLS -----------------------------------------------------------------------------


class Flips(Egress):
    """A name server that says a public address first and an internal one afterwards."""

    def __init__(self, port: int) -> None:
        super().__init__(private_open=False)
        self.port = port
        self.looked_up = 0

    async def resolve(self, host: str, port: int) -> list[str]:
        self.looked_up += 1
        address = "93.184.216.34" if self.looked_up == 1 else "127.0.0.1"
        self.permit(address, port)
        return [address]


async def test_a_name_that_turns_to_an_internal_address_is_not_dialled() -> None:
    async with upstream(OK) as sink:
        network = Flips(sink.port)
        async with open_provider(Rest, {"base_url": f"http://rebind.test:{sink.port}"}, network=network) as rest:
            await network.resolve("rebind.test", sink.port)  # the look-up that found nothing wrong
            with pytest.raises(EgressDenied):
                await rest.run(
                    rest.operation("request"), rest.operation("request").parse({"method": "GET", "path": "/"})
                )
        network.close()
        assert network.looked_up == 2
    assert not sink.connections


async def test_without_the_socket_hook_a_literal_address_would_get_through(monkeypatch: pytest.MonkeyPatch) -> None:
    async with upstream(OK) as sink:
        network = Egress(private_open=False)
        config = {"base_url": sink.url}
        request = Rest.operation("request")
        async with open_provider(Rest, config, network=network) as rest:
            with pytest.raises(EgressDenied):
                await rest.run(request, request.parse({"method": "GET", "path": "/"}))
        assert not sink.connections
        async with open_provider(Rest, config, network=network) as rest:
            rest._client._session.connector._socket_factory = None
            await rest.run(request, request.parse({"method": "GET", "path": "/"}))
        assert sink.connections
        network.close()


def tls_server(*, names: tuple[str, ...] = ("localhost", "127.0.0.1")) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificates().authority.issue_cert(*names).configure_cert(context)
    return context


async def test_tls_is_checked_against_the_given_ca_and_shared_between_connectors() -> None:
    async with upstream(OK, tls=tls_server()) as server:
        http_gate._context.cache_clear()
        for _ in range(3):
            async with api(server.url, ssl_ca=certificates().ca) as rest:
                assert (await rest.ask("GET /"))["success"]
                probe = Probe()
                await rest.provider.probe(probe)
                assert [stage.name for stage in probe.stages] == ["resolve", "connect", "tls", "auth", "sample"]
        assert http_gate._context.cache_info().misses == 1


@pytest.mark.parametrize(
    ("config", "names", "said"),
    [
        ({}, ("localhost", "127.0.0.1"), "CA"),
        ({"ssl_ca": True}, ("other.example", "10.0.0.1"), "another"),
    ],
)
async def test_a_certificate_that_is_not_trusted_ends_the_call_in_the_tls_stage(
    config: dict[str, Any], names: tuple[str, ...], said: str
) -> None:
    given = {"ssl_ca": certificates().ca} if config else {}
    async with upstream(OK, tls=tls_server(names=names)) as server:
        async with api(server.url, **given) as rest:
            with pytest.raises(Unreachable, match=f"TLS failed.*{said}"):
                await rest.ask("GET /")
            probe = Probe()
            with pytest.raises(ssl.SSLError):
                await rest.provider.probe(probe)
            assert (probe.stages[-1].name, probe.stages[-1].ok) == ("tls", False)
        assert not server.requests
        async with api(server.url, **given, ssl_verify=False) as rest:
            assert (await rest.ask("GET /"))["success"]


async def test_tls_to_a_server_without_it_and_the_other_way_round() -> None:
    async with upstream(OK) as plain, upstream(OK, tls=tls_server()) as secure:
        async with api(plain.url.replace("http:", "https:"), timeout_s=2, connect_timeout_s=1) as rest:
            with pytest.raises(Unreachable):
                await rest.ask("GET /")
        async with api(secure.url.replace("https:", "http:")) as rest:
            with pytest.raises((Unreachable, UpstreamError)):
                await rest.ask("GET /")


async def test_a_read_only_provider_sends_no_write_even_if_policy_let_it_through() -> None:
    async with upstream(OK) as server, api(server.url, read_only=True) as rest:
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            with pytest.raises(ReadOnly):
                await rest.ask(f"{method} /")
        assert not server.requests
        assert (await rest.ask("GET /"))["success"]


async def test_the_probe_tells_what_the_base_url_alone_proves() -> None:
    async with upstream(reply(404)) as server:
        async with api(server.url) as rest:
            probe = Probe()
            await rest.provider.probe(probe)
            assert "404" in (probe.stages[-1].detail or "")
        async with api(server.url, health_path="/health") as rest:
            with pytest.raises(UpstreamError):
                await rest.provider.probe(Probe())
    async with upstream(reply(403)) as server, api(server.url, health_path="/health") as rest:
        with pytest.raises(UpstreamError, match="403"):
            await rest.provider.authenticate()
