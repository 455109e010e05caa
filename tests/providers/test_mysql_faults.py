"""The `mysql` provider against faults and hostile servers: each failure is one of our errors, and gives nothing away."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests import poison
from tests.servers import certificates, free_port
from tests.upstreams.mariadb import Mariadb

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
from studio.providers.mysql import work as work_module
from studio.providers.mysql.provider import Mysql
from studio.security.egress import Egress
from studio.testing.harness import call, open_provider

pytestmark = pytest.mark.server

HOSTILE_PASSWORDS = [
    "#", "@", "a/b", "a:b", "100%", 'say "x"', "it's", " lead and trail ", "pass word", "p@ss:w/rd#%20?&=", "pässwörd€", "\\n$1;DROP `x`",
]  # fmt: skip


async def one(provider: Any) -> Any:
    return (await call(provider, "query", query="SELECT 1")).rows[0][0]


async def settled(provider: Any) -> None:
    while provider._pool._tasks:
        await asyncio.wait(provider._pool._tasks)


async def outcome(provider: Any) -> Any:
    """What a query answers, or its error."""
    try:
        return await one(provider)
    except StudioError as exc:
        return exc


async def error_of(config: dict[str, Any], network: Any = None) -> StudioError:
    """The error of a first query."""
    async with open_provider(Mysql, config, network=network) as provider:
        with pytest.raises(StudioError) as caught:
            await one(provider)
    return caught.value


async def failure(config: dict[str, Any], network: Any = None) -> tuple[StudioError, list[str]]:
    """The error of a first query, and the stages of a test with the failing one last."""
    async with open_provider(Mysql, config, network=network) as provider:
        with pytest.raises(StudioError) as caught:
            await one(provider)
        probe = Probe()
        with pytest.raises(type(caught.value)):
            await provider.probe(probe)
        assert [stage.ok for stage in probe.stages] == [True] * (len(probe.stages) - 1) + [False]
        assert probe.stages[-1].name in provider.fixes
    return caught.value, [stage.name for stage in probe.stages]


# -- the error table ------------------------------------------------------------------------------


async def test_a_refused_port_is_unreachable(mariadb: Mariadb) -> None:
    error, stages = await failure(mariadb.config(port=free_port()))
    assert (type(error), stages[-1]) == (Unreachable, "connect")
    assert "refused" in error.message


async def test_an_unknown_host_is_unreachable(mariadb: Mariadb) -> None:
    error, stages = await failure(mariadb.config(host="no-such-host.invalid"))
    assert (type(error), stages) == (Unreachable, ["resolve"])


async def test_a_closed_range_is_denied_by_name_and_setting(mariadb: Mariadb) -> None:
    error, stages = await failure(mariadb.config(), Egress(private_open=False))
    assert (type(error), stages) == (EgressDenied, ["resolve"])
    assert "STUDIO_EGRESS_ALLOW" in error.message


@pytest.mark.parametrize("ssl", [False, True])
async def test_a_server_that_never_answers_costs_the_connect_timeout(mariadb: Mariadb, ssl: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hole:
        config = mariadb.config(port=hole.getsockname()[1], connect_timeout_s=0.3, ssl=ssl)
        async with open_provider(Mysql, config) as provider:
            start = time.perf_counter()
            with pytest.raises(Unreachable, match="connect_timeout_s"):
                await one(provider)
            assert 0.25 < time.perf_counter() - start < 0.6


async def test_a_wrong_password_is_auth_failed_and_never_shown(mariadb: Mariadb) -> None:
    for password in HOSTILE_PASSWORDS:
        error, stages = await failure(mariadb.config(password=password + "-wrong"))
        assert (type(error), stages[-1]) == (AuthFailed, "login")
        assert "-wrong" not in error.message


@pytest.mark.parametrize("tls", [False, True])
async def test_hostile_passwords_log_in(mariadb: Mariadb, tls: bool) -> None:
    for password in HOSTILE_PASSWORDS:
        with mariadb.fresh_user("SELECT ON app.*", password=password) as account:
            async with open_provider(Mysql, mariadb.config(ssl=tls, **account)) as provider:
                assert await one(provider) == 1, password


async def test_what_a_login_can_fail_of_has_its_own_error(mariadb: Mariadb) -> None:
    with (
        mariadb.fresh_user() as nothing,
        mariadb.fresh_user("SELECT ON app.*", require="REQUIRE SSL") as tls_only,
        mariadb.fresh_user("SELECT ON app.*", require="WITH MAX_USER_CONNECTIONS 1") as one_only,
        mariadb.fresh_user("SELECT ON app.*", require="ACCOUNT LOCK") as locked,
        mariadb.fresh_user("SELECT ON app.*", require="PASSWORD EXPIRE") as expired,
    ):
        for change, kind, says in (
            ({"database": "canary db"}, AuthFailed, "may not use"), ({"username": "canary"}, AuthFailed, "refused"),
            ({"password": None}, AuthFailed, "refused"), (nothing, AuthFailed, "may not use"), (tls_only, AuthFailed, "TLS"),
            (locked, AuthFailed, "locked"),
            ({"username": "root", "password": mariadb.root_password, "database": "canary db"}, UpstreamError, "no database"),
        ):  # fmt: skip
            error, stages = await failure(mariadb.config(**change))
            assert (type(error), stages[-1]) == (kind, "login"), error.message
            assert says in error.message
            assert "canary" not in error.message
        error = await error_of(mariadb.config(**expired))  # MariaDB lets it in, and then does nothing for it
        assert (type(error), "expired" in error.message) == (AuthFailed, True)
        async with open_provider(Mysql, mariadb.config(**tls_only, ssl=True)) as provider:
            assert await one(provider) == 1
        async with open_provider(Mysql, mariadb.config(**one_only)) as provider:
            results = await asyncio.gather(
                *(call(provider, "query", query="SELECT SLEEP(0.1)") for _ in range(2)), return_exceptions=True
            )
            [error] = [result for result in results if isinstance(result, StudioError)]
            assert isinstance(error, Unreachable)
            assert "pool_size" in error.message


@pytest.mark.parametrize(
    ("query", "kind", "says"),
    [
        ("SELECT * FROM nothing", UpstreamError, "1146"),
        ("SELECT nope(1)", UpstreamError, "1305|1630"),
        ("SELECT nope", UpstreamError, "1054"),
        ("SELECT 1 FROM", UpstreamError, "1064"),
        ("SELECT CAST('x' AS UUID) = 'y' FROM mysql.user", UpstreamError, "no privilege.*1142"),
        ("SELECT * FROM mysql.global_priv", UpstreamError, "no privilege for SELECT on table .*1142"),
        ("SELECT EXP(1000)", UpstreamError, "1690"),
        ("SHOW GRANTS FOR root@'127.0.0.1'", UpstreamError, "no privilege.*1044"),
        ("DELETE FROM nothing", ReadOnly, "execute"),
    ],
)
async def test_what_the_server_refuses_is_told_with_its_number_and_keeps_the_session(
    mariadb: Mariadb, query: str, kind: Any, says: str
) -> None:
    async with open_provider(Mysql, mariadb.config(pool_size=1)) as provider:
        number = (await call(provider, "query", query="SELECT CONNECTION_ID()")).rows
        for _ in range(3):
            with pytest.raises(kind, match=says) as caught:
                await call(provider, "query", query=query)
            assert mariadb.user + "'@" not in caught.value.message
        assert (await call(provider, "query", query="SELECT CONNECTION_ID()")).rows == number


async def test_a_lock_that_is_not_free_and_a_deadlock_have_their_errors(
    mariadb: Mariadb, mariadb_database: str
) -> None:
    config = mariadb.config(database=mariadb_database, timeout_s=1)
    async with (
        open_provider(Mysql, config) as provider,
        open_provider(Mysql, mariadb.config(database=mariadb_database)) as holder,
    ):
        await call(provider, "execute", query="CREATE TABLE t (id INT PRIMARY KEY)")
        await call(provider, "execute", query="INSERT INTO t VALUES (1), (2)")
        hold = asyncio.create_task(
            call(holder, "transaction", statements=[{"query": "UPDATE t SET id = id"}, {"query": "SELECT SLEEP(2.5)"}])
        )
        await asyncio.sleep(0.3)
        with pytest.raises(Timeout):
            await call(provider, "execute", query="DELETE FROM t WHERE id = 1")
        await hold
        statements = [
            [
                {"query": f"UPDATE t SET id = id WHERE id = {a}"},
                {"query": "SELECT SLEEP(0.2)"},
                {"query": f"UPDATE t SET id = id WHERE id = {b}"},
            ]
            for a, b in ((1, 2), (2, 1))
        ]
        results = await asyncio.gather(
            *(call(provider, "transaction", statements=each) for each in statements), return_exceptions=True
        )
        [error] = [result for result in results if isinstance(result, StudioError)]
        assert "try again (1213)" in error.message or "try again" in error.message


async def test_an_unknown_exception_is_a_defect_and_says_nothing(
    mariadb: Mariadb, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_provider(Mysql, mariadb.config(pool_size=1)) as provider:
        monkeypatch.setattr(work_module, "encode", lambda *_: 1 / 0)
        with pytest.raises(StudioError) as caught:
            await one(provider)
        assert caught.value.code == "internal"
        assert "ZeroDivisionError" in caught.value.message
        monkeypatch.undo()
        assert await one(provider) == 1


# -- TLS ------------------------------------------------------------------------------------------


class Names(Egress):
    """A resolver of our own: every name is this machine."""

    async def resolve(self, host: str, port: int) -> list[str]:
        return ["127.0.0.1"]


async def test_each_tls_mode_checks_what_it_says(mariadb: Mariadb) -> None:
    names = Names(private_open=True)
    for change in (
        {"ssl": "require"}, {"ssl": True, "ssl_ca": mariadb.ca}, {"ssl": "verify-ca", "ssl_ca": mariadb.ca, "host": "other.example.com"},
        {"ssl": "verify-full", "ssl_ca": mariadb.ca}, {"ssl": "verify-full", "ssl_ca": mariadb.ca, "host": "localhost"},
    ):  # fmt: skip
        async with open_provider(Mysql, mariadb.config(**change), network=names) as provider:
            rows = (await call(provider, "query", query="SHOW STATUS LIKE 'Ssl_version'")).rows
            assert rows == [("Ssl_version", "TLSv1.3")]


async def test_a_certificate_of_another_ca_or_for_another_name_is_refused(mariadb: Mariadb) -> None:
    names = Names(private_open=True)
    stranger = trustme.CA().cert_pem.bytes().decode()
    for change, says in (
        ({"ssl": "verify-full"}, "CA"), ({"ssl": "verify-ca"}, "CA"), ({"ssl": "require", "ssl_ca": stranger}, "CA"),
        ({"ssl": "verify-full", "ssl_ca": mariadb.ca, "host": "other.example.com"}, "host name"),
        ({"ssl": "verify-full", "ssl_ca": mariadb.ca, "host": "127.0.0.2"}, "IP address"),
    ):  # fmt: skip
        error, stages = await failure(mariadb.config(**change), names)
        assert (type(error), stages[-1]) == (Unreachable, "tls"), change
        assert says in error.message


async def test_a_pem_that_is_none_is_the_configs_fault(mariadb: Mariadb) -> None:
    broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    for change in (
        {"ssl_ca": broken},
        {"ssl_cert": broken},
        {"ssl_cert": broken, "ssl_key": "-----BEGIN PRIVATE KEY-----"},
    ):
        assert isinstance(await error_of(mariadb.config(ssl=True, **change)), InvalidConfig)


async def test_a_client_certificate_is_presented(mariadb: Mariadb) -> None:
    issued = certificates().authority.issue_cert("client.example.com", common_name="app")
    chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems).decode()
    with mariadb.fresh_user("SELECT ON app.*", require="REQUIRE X509") as account:
        config = mariadb.config(ssl="verify-full", ssl_ca=mariadb.ca, **account)
        assert isinstance(await error_of(config), AuthFailed)
        async with open_provider(
            Mysql, {**config, "ssl_cert": chain, "ssl_key": issued.private_key_pem.bytes().decode()}
        ) as provider:
            assert await one(provider) == 1


# -- rogue servers --------------------------------------------------------------------------------

CANARY = "c4n4ry-password"
SALT = b"12345678901234567890"


def packet(body: bytes, number: int) -> bytes:
    return struct.pack("<I", len(body))[:3] + bytes([number & 255]) + body


def greeting(
    plugin: bytes = b"mysql_native_password", *, tls: bool = False, flags: int = 0x81FFF7FE, extensions: int = 0
) -> bytes:
    flags |= 0x800 if tls else 0
    return (
        b"\x0a5.5.5-10.11.1-MariaDB\0" + struct.pack("<I", 7) + SALT[:8] + b"\0" + struct.pack("<HBHHB", flags & 0xFFFF, 45, 2, flags >> 16, 21)
        + b"\0" * 6 + struct.pack("<I", extensions) + SALT[8:] + b"\0" + plugin + b"\0"
    )  # fmt: skip


OK = b"\0\0\0\2\0\0\0"
Talk = Callable[["Rogue", asyncio.StreamReader, asyncio.StreamWriter], Any]


class Rogue:
    """A recorder that speaks just enough of the protocol; `got` is every byte that clients sent in it."""

    def __init__(self, talk: Talk, hello: bytes | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.got = b""
        self.connections = 0
        self.port = 0
        self._talk, self._tls = talk, tls
        self._hello = hello if hello is not None else greeting(tls=tls is not None)
        self._writers: list[asyncio.StreamWriter] = []

    async def read(self, reader: asyncio.StreamReader) -> tuple[bytes, int]:
        head = await reader.readexactly(4)
        body = await reader.readexactly(int.from_bytes(head[:3], "little"))
        self.got += head + body
        return body, head[3] + 1

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(self._listener)
            sock.setblocking(False)
            self.connections += 1
            self._tasks.append(asyncio.create_task(self._serve(sock)))

    async def _serve(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(sock, packet(self._hello, 0))
        if self._tls:  # not one byte more than the request for TLS may be read before the handshake
            self.got += await loop.sock_recv(sock, 36)
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
            transport, _ = await loop.connect_accepted_socket(lambda: protocol, sock, ssl=self._tls)
            writer = asyncio.StreamWriter(transport, protocol, reader, loop)
            self._writers.append(writer)
            async with asyncio.timeout(5):
                await self._talk(self, reader, writer)
                while data := await reader.read(4096):
                    self.got += data
            writer.close()

    async def __aenter__(self) -> Rogue:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self._tasks = [asyncio.create_task(self._accept())]
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.sleep(0.05)
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        self._listener.close()
        for writer in self._writers:
            writer.close()
            with contextlib.suppress(Exception):
                await writer.wait_closed()


def asks(body: bytes) -> Talk:
    """After the client's log-in, ask for something; then say OK to whatever comes."""

    async def talk(rogue: Rogue, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, number = await rogue.read(reader)
        writer.write(packet(body, number))
        _, number = await rogue.read(reader)
        writer.write(packet(OK, number))

    return talk


def rogue_config(mariadb: Mariadb, port: int, **more: Any) -> dict[str, Any]:
    return mariadb.config(**{"port": port, "password": CANARY, "connect_timeout_s": 0.5, **more})


def rogue_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificates().authority.issue_cert("db.example.com").configure_cert(context)
    return context


CLEAR = {
    "clear text": b"\xfemysql_clear_password\0", "dialog": b"\xfedialog\0\2Password: ", "old password": b"\xfe", "older password": b"\xfemysql_old_password\0" + SALT,
    "sha256": b"\xfesha256_password\0" + SALT, "caching_sha2 in full": b"\1\4", "kerberos": b"\xfeauth_gssapi_client\0x", "nothing known": b"\xfewhatever\0",
    "windows": b"\xfeauthentication_windows_client\0", "data out of turn": b"\1\7",
}  # fmt: skip


@pytest.mark.parametrize("how", CLEAR)
async def test_a_login_that_gives_the_password_away_is_refused_without_tls(mariadb: Mariadb, how: str) -> None:
    hello = greeting(b"caching_sha2_password") if CLEAR[how][:1] == b"\1" else None
    async with Rogue(asks(CLEAR[how]), hello) as rogue:
        error = await error_of(rogue_config(mariadb, rogue.port))
    assert isinstance(error, AuthFailed)
    assert "refused by this service" in error.message
    assert rogue.connections == 1
    assert CANARY.encode() not in rogue.got
    assert len(rogue.got) == 4 + int.from_bytes(
        rogue.got[:3], "little"
    )  # the log-in, and no answer to the request at all


async def test_a_server_whose_own_way_is_clear_text_gets_no_password_either(mariadb: Mariadb) -> None:
    for plugin in (b"sha256_password", b"mysql_clear_password", b"dialog"):
        async with Rogue(asks(b"\1x"), greeting(plugin)) as rogue:
            assert isinstance(await error_of(rogue_config(mariadb, rogue.port)), AuthFailed)
        assert CANARY.encode() not in rogue.got


async def test_without_our_log_in_asyncmy_gives_the_password_away(mariadb: Mariadb) -> None:
    """Negative control."""
    import asyncmy

    async with Rogue(asks(CLEAR["clear text"])) as rogue:
        with contextlib.suppress(Exception):
            async with asyncio.timeout(0.5):
                conn = await asyncmy.connect(
                    host="127.0.0.1", port=rogue.port, user="u", password=CANARY, connect_timeout=1
                )
                conn.close()
    assert CANARY.encode() in rogue.got


@pytest.mark.parametrize("how", ["caching_sha2 in full", "sha256"])
async def test_over_tls_what_mysql_8_needs_is_answered_and_clear_text_is_not(mariadb: Mariadb, how: str) -> None:
    names: list[str | None] = []
    context = rogue_tls()
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    config = {"host": "db.example.com", "ssl": "verify-full", "ssl_ca": mariadb.ca}
    hello = greeting(b"caching_sha2_password", tls=True)
    async with Rogue(asks(CLEAR[how]), hello, context) as rogue:
        await error_of(rogue_config(mariadb, rogue.port, **config), Names(private_open=True))
        assert CANARY.encode() + b"\0" in rogue.got
    assert names == ["db.example.com"]
    async with Rogue(asks(CLEAR["clear text"]), hello, rogue_tls()) as rogue:
        assert isinstance(
            await error_of(rogue_config(mariadb, rogue.port, **config), Names(private_open=True)), AuthFailed
        )
    assert CANARY.encode() not in rogue.got


async def test_a_server_without_tls_gets_neither_user_nor_password(mariadb: Mariadb) -> None:
    async with Rogue(asks(OK)) as rogue:
        error, stages = await failure(rogue_config(mariadb, rogue.port, ssl=True))
    assert (type(error), stages[-1]) == (Unreachable, "tls")
    assert "does not offer TLS" in error.message
    assert rogue.got == b""


async def test_a_certificate_that_is_not_trusted_ends_it_before_user_and_password(mariadb: Mariadb) -> None:
    async with Rogue(asks(OK), tls=rogue_tls()) as rogue:
        error = await error_of(rogue_config(mariadb, rogue.port, ssl="verify-full", ssl_ca=mariadb.ca))
    assert "IP address" in error.message
    assert mariadb.user.encode() not in rogue.got


async def test_an_empty_password_is_not_filled_from_the_environment_or_a_file(
    mariadb: Mariadb, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".my.cnf").write_text("[client]\nuser=canary\npassword=canary\n")
    for name, value in (
        ("MYSQL_PWD", "canary"),
        ("MYSQL_HOST", "canary"),
        ("HOME", str(tmp_path)),
        ("USER", "canary"),
        ("MYSQL_HOME", str(tmp_path)),
    ):
        monkeypatch.setenv(name, value)
    async with Rogue(asks(b"\xfemysql_native_password\0" + SALT + b"\0")) as rogue:
        await error_of(rogue_config(mariadb, rogue.port, password=None))
    assert b"canary" not in rogue.got
    assert packet(b"", 3) in rogue.got  # the answer to the switch is empty


def logged_in(*answers: bytes | list[bytes]) -> Talk:
    """Let anybody in; answer the set-up of the session with OK, and then commands with these packets, one list a command."""

    async def talk(rogue: Rogue, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, number = await rogue.read(reader)
        writer.write(packet(OK, number))
        for answer in (OK, OK, *answers):
            await rogue.read(reader)
            for at, body in enumerate(answer if isinstance(answer, list) else [answer], 1):
                writer.write(packet(body, at))

    return talk


def column(kind: int, name: bytes = b"c", charset: int = 63, flags: int = 0) -> bytes:
    texts = b"".join(bytes([len(text)]) + text for text in (b"def", b"", b"", b"", name, name))
    return texts + b"\x0c" + struct.pack("<HIBHB2x", charset, 10, kind, flags, 0)


PREPARED = [b"\0" + struct.pack("<IHH", 1, 0, 0) + b"\0\0\0"]
END = b"\xfe\0\0\2\0\0\0"


async def test_a_rogue_that_asks_for_a_file_gets_not_one_byte(mariadb: Mariadb, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("c4n4ry-file")
    ask = b"\xfb" + str(secret).encode()
    for talk in (logged_in(ask), logged_in(PREPARED, ask), asks(ask)):
        async with Rogue(talk) as rogue:
            error = await error_of(rogue_config(mariadb, rogue.port))
        assert error.code in {"upstream_error", "auth_failed", "unreachable"}
        assert b"c4n4ry-file" not in rogue.got
        assert str(secret) not in error.message


async def test_a_client_that_allows_it_sends_the_file(tmp_path: Path) -> None:
    """Negative control: MariaDB's own client, told to; the same request has its effect."""
    secret = tmp_path / "secret"
    secret.write_text("c4n4ry-file")
    async with Rogue(logged_in(b"\xfb" + str(secret).encode())) as rogue:
        client = await asyncio.create_subprocess_exec(
            "mariadb", "--no-defaults", "--host=127.0.0.1", f"--port={rogue.port}", "--user=u", "--skip-ssl", "--local-infile=1",
            "--execute=SELECT 1; SELECT 2; SELECT 3", stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
            env=poison.clean(),
        )  # fmt: skip
        await asyncio.sleep(0.3)
        client.kill()
        await client.wait()
    assert b"c4n4ry-file" in rogue.got


async def test_rows_that_are_too_short_show_nothing_of_this_process(mariadb: Mariadb) -> None:
    """asyncmy's parser would read on behind the row; what it finds there is padding."""
    for kind, width in ((4, 4), (1, 1), (2, 2), (13, 2)):
        columns = 200
        head = [bytes([columns]), *[column(kind, b"c%d" % at) for at in range(columns)]]
        row = bytes(1 + (columns + 9) // 8)
        async with (
            Rogue(logged_in(PREPARED, [*head, row])) as rogue,
            open_provider(Mysql, rogue_config(mariadb, rogue.port)) as provider,
        ):
            batches = provider.stream(provider.operation("query"), {"query": "SELECT 1"})
            batch = await anext(batches)
            assert set(batch.rows[0]) == {0}, (kind, width)
            await batches.aclose()


GARBAGE: dict[str, list[bytes | list[bytes]]] = {
    "no protocol": [b"HTTP/1.1 400 Bad Request"], "empty": [b""], "prepare cut short": [[b"\0\1"]], "an error without text": [b"\xff\x10"],
    "too many columns": [PREPARED, [b"\xfd\xff\xff\xff"]], "more columns than MySQL has": [PREPARED, [b"\xfc\xff\xff"]],
    "a definition cut short": [PREPARED, [b"\1", b"\3de"]], "a definition of nonsense": [PREPARED, [b"\1", b"\xff" * 30]],
    "a row cut short": [PREPARED, [b"\1", column(8), b"\0\0\1"]], "a row with a monstrous length": [PREPARED, [b"\1", column(253), b"\0\0\xfe" + b"\xff" * 8]],
    "no UTF-8": [PREPARED, [b"\1", column(253, charset=45), b"\0\0\2\xff\xfe", END]], "a date cut short": [PREPARED, [b"\1", column(12), b"\0\0\1x", END]],
    "a number of no type": [PREPARED, [b"\1", column(200, flags=0), b"\0", END]], "an error in the middle": [PREPARED, [b"\1", column(8), b"\xff\x28\x04#42000Nope"]],
    "a row that is none": [PREPARED, [b"\1", column(8), b"\7\7\7\7\7\7\7\7\7\7"]],
}  # fmt: skip


@pytest.mark.parametrize("what", GARBAGE)
async def test_garbage_after_the_log_in_is_an_error_of_ours(mariadb: Mariadb, what: str) -> None:
    async with (
        Rogue(logged_in(*GARBAGE[what])) as rogue,
        open_provider(Mysql, rogue_config(mariadb, rogue.port, timeout_s=2)) as provider,
    ):
        result = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                result = await outcome(provider)
        assert not isinstance(result, StudioError) or result.code in {"upstream_error", "unreachable"}, result


@pytest.mark.parametrize(
    "hello",
    [
        b"",
        b"\x0a",
        b"\xff\x10\x04#08004Too many c4n4ry connections",
        b"\x09old\0",
        b"SSH-2.0-c4n4ry\r\n",
        b"\x0a" + b"c4n4ry" * 20_000,
        greeting(flags=0),
    ],
)
async def test_garbage_before_the_log_in_is_unreachable_and_not_repeated(mariadb: Mariadb, hello: bytes) -> None:
    async with Rogue(asks(OK), hello) as rogue:
        error, stages = await failure(rogue_config(mariadb, rogue.port))
    assert (error.code in {"unreachable", "auth_failed"}, stages[-1]) == (True, "login")
    assert "c4n4ry" not in error.message


async def test_an_error_in_the_log_in_is_not_repeated(mariadb: Mariadb) -> None:
    async with Rogue(asks(b"\xff\x15\x04#28000c4n4ry text of a server that nobody knows")) as rogue:
        error = await error_of(rogue_config(mariadb, rogue.port))
    assert isinstance(error, AuthFailed)
    assert "c4n4ry" not in error.message


async def test_more_than_the_answer_is_never_taken_for_the_next_one(mariadb: Mariadb) -> None:
    row = [b"\1", column(253, charset=45), b"\0\0\6poison", END]
    async with (
        Rogue(logged_in(PREPARED, [OK, *row])) as rogue,
        open_provider(Mysql, rogue_config(mariadb, rogue.port)) as provider,
    ):
        assert (await call(provider, "query", query="SELECT 1")).rows == []
        await asyncio.sleep(0.05)
        assert (
            await call(provider, "query", query="SELECT 1")
        ).rows == []  # of a new session: the old one is out of step
        assert rogue.connections == 2


async def test_an_endless_row_does_not_fill_the_memory(mariadb: Mariadb) -> None:
    huge = b"\xff\xff\xff\3" + b"\0" * 100_000

    async def talk(rogue: Rogue, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await logged_in(PREPARED, [b"\1", column(253)])(rogue, reader, writer)
        writer.write(huge)

    async with Rogue(talk) as rogue:
        error = await error_of(rogue_config(mariadb, rogue.port))
    assert "a row is larger than max_bytes" in error.message


# -- killed and back again ------------------------------------------------------------------------


@pytest.fixture
async def own() -> AsyncIterator[Mariadb]:
    """A server that the test may kill."""
    server = Mariadb()
    try:
        await asyncio.to_thread(server.start)
        yield server
    finally:
        server.close()


async def test_a_killed_server_is_unreachable_and_the_next_call_after_its_return_works(own: Mariadb) -> None:
    async with open_provider(Mysql, own.config(connect_timeout_s=2)) as provider:
        assert await one(provider) == 1
        working = asyncio.create_task(call(provider, "query", query="SELECT SLEEP(30)"))
        await asyncio.sleep(0.2)
        await asyncio.to_thread(own.crash)
        with pytest.raises(Unreachable):
            await working
        with pytest.raises(Unreachable):
            await one(provider)
        await asyncio.to_thread(own.restart)
        assert await one(provider) == 1
        # idle sessions that died meanwhile are found out by their next borrower, once for each call
        await asyncio.gather(*(call(provider, "query", query="SELECT SLEEP(0.05)") for _ in range(4)))
        await asyncio.to_thread(own.crash)
        await asyncio.to_thread(own.restart)
        assert [await one(provider) for _ in range(5)] == [1] * 5


async def test_under_load_a_restart_fails_some_calls_with_our_errors_and_heals(own: Mariadb) -> None:
    own.sql("CREATE TABLE app.t (id INT PRIMARY KEY)")
    async with open_provider(Mysql, own.config(pool_size=4, connect_timeout_s=2)) as provider:
        errors: list[StudioError] = []
        answered: list[int] = []
        stop = False

        async def worker(start: int) -> None:
            number = start
            while not stop:
                number += 10
                try:
                    await call(provider, "execute", query="INSERT INTO t VALUES (:n)", params={"n": number})
                    answered.append(number)
                except StudioError as exc:
                    errors.append(exc)
                    await asyncio.sleep(0.02)

        workers = [asyncio.create_task(worker(at)) for at in range(8)]
        await asyncio.sleep(0.5)
        await asyncio.to_thread(own.crash)
        await asyncio.sleep(0.2)
        await asyncio.to_thread(own.restart)
        before = len(answered)
        await asyncio.sleep(0.5)
        stop = True
        await asyncio.gather(*workers)
        assert len(answered) > before > 0
        assert {error.code for error in errors} <= {"unreachable", "timeout"}
        assert await one(provider) == 1


async def test_a_session_that_an_administrator_kills_is_replaced_without_a_word(
    mariadb: Mariadb, mariadb_database: str
) -> None:
    async with open_provider(Mysql, mariadb.config(pool_size=1, database=mariadb_database)) as provider:
        await call(provider, "execute", query="CREATE TABLE t (id INT)")
        for name, arguments in (
            ("query", {"query": "SELECT 1"}), ("execute", {"query": "INSERT INTO t VALUES (1)"}),
            ("transaction", {"statements": [{"query": "INSERT INTO t VALUES (2)"}]}),
        ):  # fmt: skip
            [(number,)] = (await call(provider, "query", query="SELECT CONNECTION_ID()")).rows
            mariadb.sql(f"KILL {number}")
            await call(provider, name, **arguments)
        assert (await call(provider, "query", query="SELECT COUNT(*) FROM t")).rows == [(2,)]


async def test_a_statement_that_an_administrator_kills_says_so(mariadb: Mariadb) -> None:
    async with open_provider(Mysql, mariadb.config(pool_size=1)) as provider:
        for how, kind in (("QUERY ", Timeout), ("", Unreachable)):
            [(number,)] = (await call(provider, "query", query="SELECT CONNECTION_ID()")).rows
            work = asyncio.create_task(
                call(
                    provider,
                    "query",
                    query="SELECT COUNT(*) FROM seq_1_to_100000000 a JOIN seq_1_to_1000 b ON a.seq + b.seq = 'x'",
                )
            )
            await asyncio.sleep(0.4)
            await asyncio.to_thread(mariadb.sql, f"KILL {how}{number}")
            with pytest.raises(kind):
                await work
            assert await one(provider) == 1


async def test_nothing_is_open_after_close_even_if_the_server_is_gone(own: Mariadb) -> None:
    async with open_provider(Mysql, own.config(pool_size=3)) as provider:
        await asyncio.gather(*(call(provider, "query", query="SELECT SLEEP(0.05)") for _ in range(3)))
        task = asyncio.create_task(call(provider, "query", query="SELECT SLEEP(30)"))
        await asyncio.sleep(0.1)
        await asyncio.to_thread(own.crash)
        with pytest.raises(StudioError):
            await task
        start = time.perf_counter()
    assert time.perf_counter() - start < 2
    assert not provider._pool._tasks
    assert not provider._pool._idle
