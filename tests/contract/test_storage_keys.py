"""Keys stay below the prefix whatever reads them, and values stay in their place in a query."""

from __future__ import annotations

import posixpath
import unicodedata
from urllib.parse import unquote

import pytest
from hypothesis import example, find, given, settings
from hypothesis import strategies as st

from studio.contract.keys import checked_key, verb_and_key
from studio.contract.storage import StorageConfig, StorageProvider
from studio.errors import InvalidConfig, InvalidRequest
from studio.testing.storage import KEYS
from studio.testing.storage_keys import ESCAPES

PIECES = st.sampled_from(
    [".", "..", "/", "//", "\\", "a", "b c", "%", "%2e", "%2E", "%2f", "%5c", "%25", "2e", "%c0%ae", "%c0%af", "\uff0e", "\uff0f",
     "\u2024", "\u2025", "\u2215", "\uff3c", "\uff05", ";", "..;", " ", "\t", "\x00", "%00", "...", "é", "e\u0301", "\ud800"]
)  # fmt: skip
SPELLINGS = st.lists(PIECES, max_size=10).map("".join)
PREFIX = "team/inner/"


def lenient(name: str) -> str:
    """What a chain of careless programs makes of a name: decoded again and again, folded, and resolved as a path."""
    for _ in range(10):
        name = unicodedata.normalize("NFKC", unquote(name, errors="replace")).replace("\\", "/")
    parts = [part.partition(";")[0].strip(" \t") for part in name.replace("\x00", "").split("/")]
    return posixpath.normpath("/" + "/".join(parts)).lstrip("/") + "/"


def allowed(key: str) -> bool:
    try:
        return bool(checked_key(key)) or True
    except ValueError:
        return False


@given(SPELLINGS)
@settings(max_examples=3000, deadline=None)
@example("%25%32%65%25%32%65/x")
@example("\u2025/x")
def test_an_allowed_key_is_below_the_prefix_for_the_most_careless_reader(key: str) -> None:
    if allowed(key):
        assert lenient(PREFIX + key).startswith(PREFIX)


@given(st.text(max_size=30))
@settings(max_examples=1000, deadline=None)
def test_so_is_any_other_text(key: str) -> None:
    if allowed(key):
        assert lenient(PREFIX + key).startswith(PREFIX)


def test_without_the_check_such_keys_do_leave() -> None:
    out = find(SPELLINGS, lambda key: not lenient(PREFIX + key).startswith(PREFIX))
    assert not allowed(out)


@pytest.mark.parametrize("spelling", ESCAPES)
def test_each_known_spelling_of_a_way_out_is_refused(spelling: str) -> None:
    assert not allowed(spelling.format("secret"))


@pytest.mark.parametrize("key", KEYS)
def test_honest_keys_are_allowed(key: str) -> None:
    assert allowed(key)
    assert allowed(f"folder/{key}")
    assert allowed("2026-01-01T10:00:00+00:00//50% off (new).tar.gz")


def test_a_key_that_never_stops_unfolding_is_refused() -> None:
    assert not allowed("%" + "25" * 30 + "2e")


@given(SPELLINGS | st.text(max_size=20))
@settings(max_examples=2000, deadline=None)
def test_a_value_fills_one_segment_or_is_refused(value: str) -> None:
    try:
        verb, arguments = verb_and_key("get logs/:name/end", {"name": value})
    except InvalidRequest:
        return
    assert verb == "get"
    assert arguments == {"key": f"logs/{value}/end"}
    assert arguments["key"].count("/") == 2
    if allowed(arguments["key"]):
        assert lenient(PREFIX + arguments["key"]).startswith(f"{PREFIX}logs/")


@pytest.mark.parametrize(
    ("query", "params", "expected"),
    [
        ("list", {}, ("list", {})),
        ("LIST logs/", {"delimiter": "/"}, ("list", {"prefix": "logs/", "delimiter": "/"})),
        ("  get   a b.txt ", {}, ("get", {"key": "a b.txt"})),
        ("get :key", {"key": "a/b", "offset": 3}, ("get", {"key": "a/b", "offset": 3})),
        ("get a::b/10:30", {}, ("get", {"key": "a:b/10:30"})),
        ("get logs/:day.:kind", {"day": 7, "kind": "txt"}, ("get", {"key": "logs/7.txt"})),
        ("copy a", {"target": "b"}, ("copy", {"source": "a", "target": "b"})),
        ("put :name", {"name": ":name", "text": "x"}, ("put", {"key": ":name", "text": "x"})),
    ],
)
def test_a_query_is_a_verb_and_a_key(query: str, params: dict[str, object], expected: object) -> None:
    assert StorageProvider.native(query, params) == expected


@pytest.mark.parametrize(
    ("query", "params", "field"),
    [
        ("", {}, "query"), ("fetch a", {}, "query"), ("get a/:b", {}, "params.b"), ("get a/:b", {"b": None}, "params.b"),
        ("get a", {"key": "b"}, "params.key"), ("get a/:b", {"b": "x/y"}, "params.b"), ("get a:b", {"b": ".."}, "params.b"),
    ],
)  # fmt: skip
def test_a_wrong_query_names_what_is_wrong(query: str, params: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        StorageProvider.native(query, params)
    assert caught.value.fields[0].field == field


def test_a_stored_prefix_is_a_folder() -> None:
    assert StorageConfig.parse({"prefix": "team"}).prefix == "team/"
    assert StorageConfig.parse({"prefix": "team/"}).prefix == "team/"
    assert StorageConfig.parse({}).prefix == ""
    for wrong in ("/team", "team/../other", "%2e%2e", "a\nb", "x" * 2000):
        with pytest.raises(InvalidConfig):
            StorageConfig.parse({"prefix": wrong})


def test_an_override_narrows_the_prefix_and_switches_presign_off_only() -> None:
    rules = StorageConfig.overridable()
    assert rules["prefix"].allows("team/", "team/a/")
    assert not rules["prefix"].allows("team/", "team-b/")
    assert rules["allow_presign"].allows(True, False)
    assert not rules["allow_presign"].allows(False, True)
    assert not rules["max_object_bytes"].allows(10, 11)
    assert not rules["presign_max_s"].allows(60, 61)
