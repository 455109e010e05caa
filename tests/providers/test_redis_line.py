"""Command lines and the table of commands: what is bound stays one argument, what is judged is Redis's own view."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.upstreams.redis import Redis

from studio.errors import InvalidRequest
from studio.models import Effect
from studio.providers.redis.commands import CONTAINERS, REFUSED, TABLE, effect_of, layout_of, positions
from studio.providers.redis.judge import confirm, judge, placed
from studio.providers.redis.line import encoded, parse
from studio.providers.redis.shapes import glob_literal, window

SPLITS: list[tuple[str, dict[str, Any], list[bytes]]] = [
    ("GET user::id", {"id": 42}, [b"GET", b"user:42"]),
    ("GET user:profile", {}, [b"GET", b"user:profile"]),
    ("GET user:42:profile", {}, [b"GET", b"user:42:profile"]),
    ("GET :key", {"key": "a b"}, [b"GET", b"a b"]),
    ("GET user::id:name", {"id": 1}, [b"GET", b"user:1:name"]),
    ("GET {user::id}.x", {"id": 1}, [b"GET", b"{user:1}.x"]),
    ("GET a-:id-:id", {"id": 1}, [b"GET", b"a-1-1"]),
    ("GET 'user::id'", {}, [b"GET", b"user::id"]),
    ('GET "user::id"', {}, [b"GET", b"user::id"]),
    (r"GET user:\:id", {}, [b"GET", b"user::id"]),
    ("GET 'a b'\"c d\":x", {"x": "e f"}, [b"GET", b"a bc de f"]),
    ("SET k ''", {}, [b"SET", b"k", b""]),
    ("SET k :v", {"v": ""}, [b"SET", b"k", b""]),
    ("  SET\tk\n:v  ", {"v": b"\xff"}, [b"SET", b"k", b"\xff"]),
    (r'SET k "\x00\xff\n\"\\"', {}, [b"SET", b"k", b'\x00\xff\n"\\']),
    ("ZADD z 1.5:x", {}, [b"ZADD", b"z", b"1.5:x"]),
    ("SET k :9", {}, [b"SET", b"k", b":9"]),
    ("SET k ::", {}, [b"SET", b"k", b"::"]),
]  # fmt: skip


@pytest.mark.parametrize(("line", "params", "arguments"), SPLITS)
def test_a_line_is_split_like_a_shell_and_then_bound(line: str, params: dict[str, Any], arguments: list[bytes]) -> None:
    assert parse(line).bind(params) == arguments


@pytest.mark.parametrize("line", ["", "  ", "GET 'x", 'GET "x', "GET \\", 'GET "\\"', "\ud800", "x" * 100_001])
def test_a_line_that_cannot_be_split_is_refused(line: str) -> None:
    with pytest.raises(InvalidRequest):
        parse(line)


@given(st.text(min_size=1), st.text())
def test_any_value_stays_one_argument(value: str, other: str) -> None:
    for text in (value, other):
        try:
            text.encode()
        except UnicodeEncodeError:
            return
    line = parse("SET pre::a:post :b EX 10")
    assert line.bind({"a": value, "b": other}) == [
        b"SET",
        b"pre:" + value.encode() + b":post",
        other.encode(),
        b"EX",
        b"10",
    ]


@given(st.lists(st.binary(min_size=1), min_size=1, max_size=5))
def test_what_is_quoted_the_way_redis_cli_does_comes_back_byte_for_byte(arguments: list[bytes]) -> None:
    line = " ".join('"' + "".join(f"\\x{byte:02x}" for byte in argument) + '"' for argument in arguments)
    assert parse(line).bind(None) == arguments


@given(st.text(max_size=60))
def test_any_text_is_split_or_refused_and_nothing_else(text: str) -> None:
    try:
        line = parse(text)
        line.bind(dict.fromkeys(line.names, "x"))
        judge(line)
    except InvalidRequest:
        pass


@pytest.mark.parametrize("value", [None, True, False, [], ["x"], {}, {"a": 1}, (), float("nan"), "\ud800"])
def test_what_is_not_one_text_or_number_cannot_be_bound(value: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"params\.v"):
        encoded(value, "params.v")


@given(st.binary(max_size=12))
def test_a_glob_of_a_literal_matches_that_literal_alone(prefix: bytes) -> None:
    pattern = glob_literal(prefix)
    assert pattern.replace(b"\\\\", b"").count(b"\\") >= sum(prefix.count(mark) for mark in (b"*", b"?", b"["))


@given(st.integers(-20, 20), st.integers(-20, 20), st.integers(0, 15), st.integers(1, 20))
def test_a_window_is_what_redis_means_cut_one_past_the_cap(start: int, stop: int, length: int, rows: int) -> None:
    items = list(range(length))
    low = max(start + length, 0) if start < 0 else start
    high = stop + length if stop < 0 else stop
    wanted = items[low : high + 1] if high >= 0 else []
    first, last = window(start, stop, length, rows)
    assert (items[first : last + 1] if last >= 0 else []) == wanted[: rows + 1]


# -- the table ------------------------------------------------------------------------------------


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, dict):
        return {_text(key): _text(item) for key, item in value.items()}
    return [_text(item) for item in value] if isinstance(value, (list, tuple)) else value


@pytest.fixture
async def commands(redis_server: Redis) -> dict[str, Any]:
    """The server's own description of every command and subcommand."""
    from studio.providers.redis.provider import Redis as Provider
    from studio.testing.harness import open_provider

    found: dict[str, Any] = {}

    def walk(entries: Any) -> None:
        for entry in entries:
            found[entry[0]] = entry
            walk(entry[9])

    config = redis_server.config(username=None, password=redis_server.admin_password)
    async with open_provider(Provider, config) as provider:
        walk(_text(await provider._ask("COMMAND")))  # type: ignore[attr-defined]
    return found


@pytest.mark.server
async def test_the_table_says_what_the_server_says(commands: dict[str, Any]) -> None:
    for name, (effect, layout) in TABLE.items():
        info = commands[name]
        live = effect_of(name, info[2], info[6], info[8])
        assert live == (Effect.WRITE if effect is Effect.DELETE else effect), name
        assert layout_of(info[8]) == layout, name


@pytest.mark.server
async def test_every_command_of_the_server_is_in_the_table_or_refused_on_purpose(commands: dict[str, Any]) -> None:
    left = {
        name
        for name in commands
        if name not in TABLE and name.partition("|")[0] not in REFUSED and name not in CONTAINERS and "|" not in name
    }
    assert left == {"command", "lolwut"}
    reads = {name for name, info in commands.items() if effect_of(name, info[2], info[6], info[8]) is Effect.READ}
    assert reads - set(TABLE) == {"lolwut"}


@pytest.mark.server
async def test_the_places_of_keys_are_those_that_the_server_finds(redis_server: Redis) -> None:
    admin = redis_server.admin()
    lines = [
        "GET a", "MGET a b c", "MSET a 1 b 2", "LCS a b LEN", "ZUNION 2 a b WITHSCORES", "ZUNIONSTORE t 2 a b WEIGHTS 1 2",
        "SUNIONSTORE t a b", "COPY a b REPLACE", "OBJECT ENCODING a", "BITOP AND t a b", "LMPOP 2 a b LEFT COUNT 3",
        "XGROUP CREATE a g $", "GEOSEARCHSTORE t a FROMLONLAT 1 1 BYRADIUS 1 m", "SINTERCARD 2 a b LIMIT 5",
    ]  # fmt: skip
    for text in lines:
        line = parse(text)
        arguments = line.bind(None)
        found = [arguments[at].decode() for at in positions(judge(line).layout, arguments)]
        assert found == await admin.execute_command("COMMAND GETKEYS", *arguments), text
    await admin.aclose()


def test_a_server_that_tells_less_or_other_than_ours_is_not_believed() -> None:
    verdict = judge(parse("GET k"))
    good: list[Any] = [b"get", 2, [b"readonly", b"fast"], 1, 1, 1, [b"@read"], [], [], []]
    spec = {"flags": ["RO"], "begin_search": {"type": "index", "spec": {"index": 1}},
            "find_keys": {"type": "range", "spec": {"lastkey": 0, "keystep": 1, "limit": 0}}}  # fmt: skip
    confirm(verdict, [[*good[:8], [spec], []]], prefixed=True)
    confirm(verdict, [good], prefixed=False)
    other = {**spec, "begin_search": {"type": "index", "spec": {"index": 2}}}
    for reply, prefixed in (
        ([None], False),
        ([], False),
        (None, False),
        ([[b"get", 2, [b"write"], 1, 1, 1, [b"@write"], [], [], []]], False),
        ([[b"get", 2, [b"readonly"], 1, 1, 1, [b"@dangerous"], [], [], []]], False),
        ([[b"get", 2, [], 1, 1, 1, [], [], [], []]], False),
        ([good[:8]], True),
        ([good], True),
        ([[*good[:8], [other], []]], True),
    ):
        with pytest.raises(Exception, match="this server"):
            confirm(verdict, reply, prefixed=prefixed)


def test_without_a_prefix_the_arguments_stay_as_they_are() -> None:
    line = parse("MGET a b")
    assert placed(judge(line), line.bind(None), b"") == [b"MGET", b"a", b"b"]
    assert placed(judge(line), line.bind(None), b"p:") == [b"MGET", b"p:a", b"p:b"]
