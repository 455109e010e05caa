"""The `postgresql` provider against faults and hostile servers: each failure is one of our errors, and gives nothing away."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import trustme
from tests.servers import Postgres, certificates, free_port

from studio.contract import Probe
from studio.errors import (
    AuthFailed,
    EgressDenied,
    InvalidConfig,
    ReadOnly,
    StudioError,
    Timeout,
    Unreachable,
    UpstreamError,
)
from studio.providers.postgresql import work as work_module
from studio.providers.postgresql.provider import Postgresql
from studio.security.egress import Egress
from studio.testing.harness import call, open_provider

HOSTILE_PASSWORDS = [
    "#", "@", "a/b", "a:b", "100%", 'say "x"', "it's", " lead and trail ", "pass word", "p@ss:w/rd#%20?&=", "pässwörd€", "\\n$1;DROP",
]  # fmt: skip


async def one(provider: Any) -> Any:
    return (await call(provider, "query", query="SELECT 1")).rows[0][0]


async def error_of(config: dict[str, Any], network: Any = None) -> StudioError:
    """The error of a first query."""
    async with open_provider(Postgresql, config, network=network) as provider:
        with pytest.raises(StudioError) as caught:
            await one(provider)
    return caught.value


async def failure(config: dict[str, Any], network: Any = None) -> tuple[StudioError, list[str]]:
    """The error of a first query, and the stages of a test with the failing one last."""
    async with open_provider(Postgresql, config, network=network) as provider:
        with pytest.raises(StudioError) as caught:
            await one(provider)
        probe = Probe()
        with pytest.raises(type(caught.value)):
            await provider.probe(probe)
        assert [stage.ok for stage in probe.stages] == [True] * (len(probe.stages) - 1) + [False]
        name = probe.stages[-1].name
        assert name in provider.fixes
    return caught.value, [stage.name for stage in probe.stages]


# -- the error table ------------------------------------------------------------------------------


async def test_a_refused_port_is_unreachable(postgres: Postgres) -> None:
    error, stages = await failure(postgres.config(port=free_port()))
    assert (type(error), stages[-1]) == (Unreachable, "connect")
    assert "refused" in error.message


async def test_an_unknown_host_is_unreachable(postgres: Postgres) -> None:
    error, stages = await failure(postgres.config(host="no-such-host.invalid"))
    assert (type(error), stages) == (Unreachable, ["resolve"])


@pytest.mark.parametrize("ssl", [False, True])
async def test_a_server_that_never_answers_costs_the_connect_timeout(postgres: Postgres, ssl: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hole:
        config = postgres.config(port=hole.getsockname()[1], connect_timeout_s=0.3, ssl=ssl)
        async with open_provider(Postgresql, config) as provider:
            start = time.perf_counter()
            with pytest.raises(Unreachable, match="connect_timeout_s"):
                await one(provider)
            assert 0.25 < time.perf_counter() - start < 0.6


async def test_a_wrong_password_is_auth_failed_and_never_shown(postgres: Postgres) -> None:
    for password in HOSTILE_PASSWORDS:
        error, stages = await failure(postgres.config(password=password + "-wrong"))
        assert (type(error), stages[-1]) == (AuthFailed, "login")
        assert password not in error.message or len(password) < 3
        assert "wrong" not in error.message


async def test_hostile_passwords_log_in(postgres: Postgres) -> None:
    admin = await postgres.admin()
    await admin.execute("CREATE ROLE hostile LOGIN")
    try:
        for password in HOSTILE_PASSWORDS:
            quoted = password.replace("'", "''")
            await admin.execute(f"SET standard_conforming_strings = on; ALTER ROLE hostile PASSWORD '{quoted}'")
            async with open_provider(Postgresql, postgres.config(username="hostile", password=password)) as provider:
                assert await one(provider) == 1, password
    finally:
        await admin.execute("DROP ROLE hostile")
        await admin.close()


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"database": "no such db"}, UpstreamError),
        ({"username": "nobody"}, AuthFailed),
        ({"password": None}, AuthFailed),
        ({"username": "no_connect", "password": "x"}, AuthFailed),
        ({"username": "no_slot", "password": "x"}, Unreachable),
    ],
)
async def test_what_a_login_can_fail_of_has_its_own_error(
    postgres: Postgres, change: dict[str, Any], kind: Any
) -> None:
    admin = await postgres.admin()
    await admin.execute(
        "CREATE ROLE no_connect LOGIN PASSWORD 'x'; CREATE ROLE no_slot LOGIN PASSWORD 'x' CONNECTION LIMIT 0"
    )
    try:
        await admin.execute("REVOKE CONNECT ON DATABASE app FROM public; GRANT CONNECT ON DATABASE app TO no_slot")
        error, stages = await failure(postgres.config(**change))
        assert (type(error), stages[-1]) == (kind, "login")
        assert "no such db" not in error.message
    finally:
        await admin.execute("GRANT CONNECT ON DATABASE app TO public; REVOKE CONNECT ON DATABASE app FROM no_slot")
        await admin.execute("DROP ROLE no_connect; DROP ROLE no_slot")
        await admin.close()


@pytest.mark.parametrize(
    ("query", "kind", "says"),
    [
        ("SELECT * FROM nothing", UpstreamError, "42P01"),
        ("SELECT 1/0", UpstreamError, "22012"),
        ("SELECT nope()", UpstreamError, "42883"),
        ("SELECT 'a' + 1", UpstreamError, "22P02"),
        ("SELEC 1", UpstreamError, "42601"),
        ("SELECT * FROM generate_series(1, 3) FOR UPDATE", ReadOnly, "execute"),
    ],
)
async def test_what_the_server_refuses_is_told_with_its_sqlstate_and_keeps_the_session(
    postgres: Postgres, query: str, kind: Any, says: str
) -> None:
    async with open_provider(Postgresql, postgres.config(pool_size=1)) as provider:
        pid = (await call(provider, "query", query="SELECT pg_backend_pid()")).rows
        for _ in range(3):
            with pytest.raises(kind, match=says):
                await call(provider, "query", query=query)
        assert (await call(provider, "query", query="SELECT pg_backend_pid()")).rows == pid


async def test_what_cannot_run_in_a_transaction_says_so(postgres: Postgres) -> None:
    async with open_provider(Postgresql, postgres.config()) as provider:
        with pytest.raises(UpstreamError, match="inside a transaction"):
            await call(provider, "execute", query="VACUUM")


async def test_an_unknown_exception_is_a_defect_and_says_nothing(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_provider(Postgresql, postgres.config(pool_size=1)) as provider:
        monkeypatch.setattr(work_module, "_next_limit", lambda *_: 1 / 0)
        with pytest.raises(StudioError) as caught:
            await call(provider, "query", query="SELECT generate_series(1, 5000)")
        assert caught.value.code == "internal"
        assert "ZeroDivisionError" in caught.value.message
        monkeypatch.undo()
        assert await one(provider) == 1


# -- TLS ------------------------------------------------------------------------------------------


class Names(Egress):
    """A resolver of our own: every name is this machine."""

    async def resolve(self, host: str, port: int) -> list[str]:
        return ["127.0.0.1"]


async def test_each_tls_mode_checks_what_it_says(postgres: Postgres) -> None:
    names = Names(private_open=True)
    for change in (
        {"ssl": "require"}, {"ssl": True, "ssl_ca": postgres.ca}, {"ssl": "verify-ca", "ssl_ca": postgres.ca, "host": "other.example.com"},
        {"ssl": "verify-full", "ssl_ca": postgres.ca}, {"ssl": "verify-full", "ssl_ca": postgres.ca, "host": "localhost"},
    ):  # fmt: skip
        async with open_provider(Postgresql, postgres.config(**change), network=names) as provider:
            row = (
                await call(provider, "query", query="SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
            ).rows
            assert row == [(True, "TLSv1.3")]


async def test_a_certificate_of_another_ca_or_for_another_name_is_refused(postgres: Postgres) -> None:
    names = Names(private_open=True)
    stranger = trustme.CA().cert_pem.bytes().decode()
    for change, says in (
        ({"ssl": "verify-full"}, "CA"), ({"ssl": "verify-ca"}, "CA"), ({"ssl": "require", "ssl_ca": stranger}, "CA"),
        ({"ssl": "verify-full", "ssl_ca": stranger}, "CA"), ({"ssl": "verify-full", "ssl_ca": postgres.ca, "host": "other.example.com"}, "host name"),
        ({"ssl": "verify-full", "ssl_ca": postgres.ca, "host": "127.0.0.2"}, "IP address"),
    ):  # fmt: skip
        error, stages = await failure(postgres.config(**change), names)
        assert (type(error), stages[-1]) == (Unreachable, "tls"), change
        assert says in error.message


async def test_a_pem_that_is_none_is_the_configs_fault(postgres: Postgres) -> None:
    broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    for change in (
        {"ssl_ca": broken},
        {"ssl_cert": broken},
        {"ssl_cert": broken, "ssl_key": "-----BEGIN PRIVATE KEY-----"},
    ):
        async with open_provider(Postgresql, postgres.config(ssl=True, **change)) as provider:
            with pytest.raises(InvalidConfig, match="PEM"):
                await one(provider)


async def test_a_client_certificate_is_presented(postgres: Postgres) -> None:
    issued = certificates().authority.issue_cert("client.example.com", common_name="app")
    chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems).decode()
    config = postgres.config(
        ssl="verify-full", ssl_ca=postgres.ca, ssl_cert=chain, ssl_key=issued.private_key_pem.bytes().decode()
    )
    async with open_provider(Postgresql, config) as provider:
        assert await one(provider) == 1


# -- rogue servers --------------------------------------------------------------------------------

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]


SSL_REQUEST = struct.pack("!ii", 8, 80877103)


class Rogue:
    """A recorder that speaks just enough of the protocol; `got` is every byte that a client sent."""

    def __init__(self, *after_startup: bytes, tls: ssl.SSLContext | None = None) -> None:
        self.got = b""
        self.connections = 0
        self._answers = after_startup
        self._tls = tls
        self._writers: list[asyncio.StreamWriter] = []
        self.port = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, TimeoutError):
            async with asyncio.timeout(5):
                await self.talk(reader, writer)
        writer.close()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readexactly(8)
        if head == SSL_REQUEST:
            writer.write(b"S" if self._tls else b"N")
            await writer.drain()
            if self._tls:
                await writer.start_tls(self._tls)
                head = await reader.readexactly(8)
        self.got += head
        for answer in self._answers:
            await asyncio.sleep(0.02)
            writer.write(answer)
            await writer.drain()
        while data := await reader.read(4096):
            self.got += data

    async def __aenter__(self) -> Rogue:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await asyncio.sleep(0.05)
        for writer in self._writers:
            writer.close()
            with contextlib.suppress(Exception):
                await writer.wait_closed()


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


CLEAR_TEXT = message(b"R", struct.pack("!i", 3))
MD5 = message(b"R", struct.pack("!i", 5) + b"salt")
GSS = message(b"R", struct.pack("!i", 7))
SSPI = message(b"R", struct.pack("!i", 9))
SASL = message(b"R", struct.pack("!i", 10) + b"SCRAM-SHA-256\0\0")
CANARY = "c4n4ry-password"


def rogue_config(postgres: Postgres, port: int, **more: Any) -> dict[str, Any]:
    return postgres.config(port=port, password=CANARY, connect_timeout_s=0.5, **more)


@pytest.mark.parametrize("ask", [CLEAR_TEXT, MD5, GSS, SSPI])
async def test_a_login_that_gives_the_password_away_is_refused_without_tls(postgres: Postgres, ask: bytes) -> None:
    async with Rogue(ask) as rogue, open_provider(Postgresql, rogue_config(postgres, rogue.port)) as provider:
        with pytest.raises(AuthFailed, match="refused by this service"):
            await one(provider)
    assert rogue.connections == 1
    assert CANARY.encode() not in rogue.got
    assert b"p\x00\x00" not in rogue.got  # no answer to the request at all
    assert b"user\0" in rogue.got


async def test_without_the_judge_asyncpg_gives_the_password_away(postgres: Postgres) -> None:
    """Negative control."""
    async with Rogue(CLEAR_TEXT) as rogue:
        with contextlib.suppress(Exception):
            await asyncpg.connect(
                host="127.0.0.1", port=rogue.port, user="u", database="d", password=CANARY, ssl=False, timeout=0.5
            )
    assert CANARY.encode() in rogue.got


async def test_a_request_in_pieces_is_judged_as_a_whole(postgres: Postgres) -> None:
    async with Rogue(*(CLEAR_TEXT[at : at + 1] for at in range(len(CLEAR_TEXT)))) as rogue:
        assert isinstance(await error_of(rogue_config(postgres, rogue.port)), AuthFailed)
    assert CANARY.encode() not in rogue.got


def rogue_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificates().authority.issue_cert("db.example.com").configure_cert(context)
    return context


async def test_over_tls_a_clear_text_login_is_answered_under_the_configured_name(postgres: Postgres) -> None:
    asked: list[str | None] = []
    context = rogue_tls()
    context.sni_callback = lambda _socket, name, _context: asked.append(name)
    config = {"host": "db.example.com", "ssl": "verify-full", "ssl_ca": postgres.ca}
    async with Rogue(CLEAR_TEXT, tls=context) as rogue:
        error = await error_of(rogue_config(postgres, rogue.port, **config), Names(private_open=True))
    assert isinstance(error, Unreachable)
    assert CANARY.encode() in rogue.got
    assert asked == ["db.example.com"]


@pytest.mark.parametrize("tls", [False, True])
async def test_a_server_cannot_make_the_login_burn_the_event_loop(postgres: Postgres, tls: bool) -> None:
    """SCRAM lets the server name the rounds of PBKDF2: 2^31 would take a quarter of an hour."""

    class Scram(Rogue):
        async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if self._tls:
                await reader.readexactly(8)
                writer.write(b"S")
                await writer.drain()
                await writer.start_tls(self._tls)
            await reader.read(4096)
            writer.write(SASL)
            first = await reader.read(4096)
            nonce = first.rsplit(b"r=", 1)[-1]
            writer.write(message(b"R", struct.pack("!i", 11) + b"r=" + nonce + b"x,s=c2FsdA==,i=2147483647"))
            self.got += await reader.read(4096)

    async with Scram(tls=rogue_tls() if tls else None) as rogue:
        start = time.perf_counter()
        error = await error_of(rogue_config(postgres, rogue.port, ssl=tls))
        assert time.perf_counter() - start < 0.5
    assert isinstance(error, AuthFailed)
    assert "work" in error.message
    assert rogue.got == b""


async def test_a_server_without_tls_gets_nothing_but_the_question(postgres: Postgres) -> None:
    async with Rogue() as rogue:
        error, stages = await failure(rogue_config(postgres, rogue.port, ssl=True))
    assert (type(error), stages[-1]) == (Unreachable, "tls")
    assert "does not offer TLS" in error.message
    assert rogue.got == SSL_REQUEST * 2


@pytest.mark.parametrize(
    "garbage",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n<secret-bytes>", message(b"E", b"SFATAL\0C28P01\0Msecret-bytes\0\0"), message(b"E", b"SFATAL\0CXX999\0Msecret-bytes\0\0"),
        message(b"E", b"Msecret-bytes\0\0"), message(b"R", struct.pack("!i", 999) + b"secret-bytes"), b"\0" * 100, message(b"Z", b"secret-bytes"),
        message(b"R", b""), b"R\xff\xff\xff\xffsecret-bytes", message(b"R", struct.pack("!i", 10) + b"secret-bytes\0\0"), message(b"S", b"secret-bytes"),
        message(b"R", struct.pack("!i", 12) + b"secret-bytes"), message(b"N", b"Msecret-bytes\0\0") + message(b"E", b"\xff\xfe\0\0"),
    ],
)  # fmt: skip
async def test_nothing_that_a_stranger_says_during_the_login_is_repeated(postgres: Postgres, garbage: bytes) -> None:
    async with Rogue(garbage) as rogue:
        error = await error_of(rogue_config(postgres, rogue.port, ssl=False))
    assert error.code in {"unreachable", "auth_failed"}
    assert "secret" not in error.message
    assert CANARY.encode() not in rogue.got


async def test_nothing_of_this_process_environment_reaches_a_server(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    passfile = tmp_path / "pgpass"
    passfile.write_text("*:*:*:*:p01son-file\n")
    passfile.chmod(0o600)
    (tmp_path / ".pgpass").write_text("*:*:*:*:p01son-home\n")
    (tmp_path / ".pgpass").chmod(0o600)
    (tmp_path / ".pg_service.conf").write_text("[p01son]\nuser=p01son\n")
    for name in (
        "PASSWORD",
        "USER",
        "DATABASE",
        "HOST",
        "SERVICE",
        "OPTIONS",
        "APPNAME",
        "SSLMODE",
        "TARGETSESSIONATTRS",
    ):
        monkeypatch.setenv(f"PG{name}", "p01son")
    monkeypatch.setenv("PGPASSFILE", str(passfile))
    monkeypatch.setenv("PGSSLNEGOTIATION", "direct")
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("HOME", str(tmp_path))
    context = rogue_tls()
    for ssl_on in (False, True):
        async with Rogue(CLEAR_TEXT, tls=context if ssl_on else None) as rogue:
            config = {**rogue_config(postgres, rogue.port, ssl=ssl_on)}
            del config["password"]
            async with open_provider(Postgresql, config) as provider:
                with pytest.raises(StudioError):
                    await one(provider)
        assert b"user\0app\0" in rogue.got
        assert b"p01son" not in rogue.got
    async with open_provider(Postgresql, postgres.config()) as provider:
        assert await one(provider) == 1
    # Negative control: asyncpg left to itself takes the password from there.
    async with Rogue(CLEAR_TEXT) as rogue:
        for name in ("TARGETSESSIONATTRS", "SSLNEGOTIATION", "SERVICE"):
            monkeypatch.delenv(f"PG{name}")
        with contextlib.suppress(Exception):
            await asyncpg.connect(host="127.0.0.1", port=rogue.port, user="u", database="d", ssl=False, timeout=0.5)
    assert b"p01son" in rogue.got


async def test_a_closed_address_is_never_dialled(postgres: Postgres) -> None:
    async with Rogue() as sink:
        error, stages = await failure(rogue_config(postgres, sink.port), Egress(private_open=False))
        assert (type(error), stages) == (EgressDenied, ["resolve"])

        class Lying(Egress):
            """A resolver that lets through what the gate would not: the dial is judged by itself."""

            async def resolve(self, host: str, port: int) -> list[str]:
                return ["127.0.0.1"]

        async with open_provider(
            Postgresql, rogue_config(postgres, sink.port), network=Lying(private_open=False)
        ) as provider:
            with pytest.raises(EgressDenied):
                await one(provider)
    assert sink.connections == 0


# -- a server that goes away ----------------------------------------------------------------------


@pytest.fixture
async def admin(own_postgres: Postgres) -> AsyncIterator[Any]:
    if own_postgres.process is None or own_postgres.process.poll() is not None:
        own_postgres.restart()
    conn = await own_postgres.admin()
    yield conn
    await conn.close()


async def test_a_backend_killed_in_mid_query_is_unreachable_and_the_next_call_works(
    own_postgres: Postgres, admin: Any
) -> None:
    kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE '%canary%' AND pid <> pg_backend_pid()"
    async with open_provider(Postgresql, own_postgres.config(pool_size=1)) as provider:
        for operation in ("query", "execute"):
            task = asyncio.create_task(call(provider, operation, query="SELECT pg_sleep(50), 'canary'"))
            await asyncio.sleep(work_module.RETRY_WITHIN_S * 2)  # what dies at once may be tried again
            for _ in range(300):
                if await admin.fetchval(kill):
                    break
                await asyncio.sleep(0.01)
            with pytest.raises(Unreachable):
                await task
            assert await one(provider) == 1


async def test_idle_sessions_that_were_killed_are_replaced_without_an_error(own_postgres: Postgres, admin: Any) -> None:
    async with open_provider(Postgresql, own_postgres.config()) as provider:
        for operation in ("query", "execute"):
            await asyncio.gather(*(one(provider) for _ in range(8)))
            await admin.fetchval(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'studio-connectors'"
            )
            done = await asyncio.gather(*(call(provider, operation, query="SELECT 1") for _ in range(8)))
            assert [result.rows for result in done] == [[(1,)]] * 8


async def test_a_crash_and_a_restart_heal_on_the_next_call(own_postgres: Postgres) -> None:
    async with open_provider(Postgresql, own_postgres.config(pool_size=2)) as provider:
        await asyncio.gather(one(provider), one(provider))
        running = asyncio.create_task(call(provider, "query", query="SELECT pg_sleep(50)"))
        await asyncio.sleep(0.1)
        own_postgres.crash()
        with pytest.raises(Unreachable):
            await running
        start = time.perf_counter()
        with pytest.raises(Unreachable):
            await one(provider)
        assert time.perf_counter() - start < 0.5
        own_postgres.restart()
        assert await one(provider) == 1
        # and once more, with nobody looking while it is down
        own_postgres.restart()
        assert (await call(provider, "execute", query="SELECT 1")).rows == [(1,)]


async def test_a_frozen_server_does_not_keep_a_cancelled_caller_or_the_close(
    own_postgres: Postgres, admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("studio.providers._sql.pool.CLOSE_S", 0.5)
    own = own_postgres.process
    assert own is not None
    backend = None
    try:
        async with open_provider(Postgresql, own_postgres.config()) as provider:
            backend = (await call(provider, "query", query="SELECT pg_backend_pid()")).rows[0][0]
            os.kill(backend, signal.SIGSTOP)
            task = asyncio.create_task(one(provider))
            await asyncio.sleep(0.1)
            start = time.perf_counter()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert time.perf_counter() - start < 0.1
        assert time.perf_counter() - start < 2
    finally:
        if backend is not None:
            os.kill(backend, signal.SIGCONT)


async def test_a_statement_over_the_limit_is_a_timeout_and_a_busy_lock_too(own_postgres: Postgres, admin: Any) -> None:
    await admin.execute("CREATE TABLE IF NOT EXISTS locked (id int)")
    async with open_provider(Postgresql, own_postgres.config(timeout_s=0.3)) as provider:
        with pytest.raises(Timeout):
            await call(provider, "query", query="SELECT pg_sleep(5)")
        async with admin.transaction():
            await admin.execute("LOCK TABLE locked")
            for operation, text in (("query", "SELECT * FROM locked"), ("execute", "INSERT INTO locked VALUES (1)")):
                with pytest.raises(Timeout):
                    await call(provider, operation, query=text)
        assert (await call(provider, "query", query="SELECT * FROM locked")).rows == []
