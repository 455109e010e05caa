"""A provider's Config: what it refuses, what it never repeats, and how secrets come apart and together."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from studio.contract import (
    ANY,
    BELOW,
    LOWER,
    TO_TRUE,
    Destination,
    Host,
    Pem,
    Port,
    ProviderConfig,
    Secret,
    SecretPem,
    Text,
)
from studio.contract.config import join_secrets
from studio.errors import InvalidConfig

CANARY = "c4n4ry-v4lu3"


class Login(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    kind: str = "basic"
    token: Secret | None = None
    more: dict[str, Secret] = {}


class Sample(ProviderConfig):
    host: Annotated[Host, Destination()]
    port: Annotated[Port, Destination()] = 5432
    user: Annotated[Text | None, Destination()] = None
    database: Annotated[Text, ANY] = "main"
    prefix: Annotated[Text, BELOW] = ""
    schema_: Annotated[Text | None, ANY] = Field(None, alias="schema")
    password: Secret | None = None
    ca: Pem | None = None
    key: SecretPem | None = None
    login: Login = Login()


def refused(raw: dict[str, Any]) -> InvalidConfig:
    with pytest.raises(InvalidConfig) as caught:
        Sample.parse(raw)
    return caught.value


# -- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("config.nonsense", {"nonsense": CANARY}),
        ("config.port", {"port": CANARY}),
        ("config.port", {"port": 0}),
        ("config.port", {"port": 65_536}),
        ("config.port", {"port": "5432"}),
        ("config.port", {"port": 1.0}),
        ("config.port", {"port": True}),
        ("config.port", {"port": 2**70}),
        ("config.database", {"database": f"{CANARY}\n"}),
        ("config.database", {"database": f"{CANARY}\x00"}),
        ("config.database", {"database": CANARY * 100}),
        ("config.database", {"database": [CANARY]}),
        ("config.password", {"password": {"a": CANARY}}),
        ("config.password", {"password": f"{CANARY}\x00"}),
        ("config.password", {"password": CANARY * 10_000}),
        ("config.ca", {"ca": CANARY}),
        ("config.key", {"key": CANARY}),
        ("config.login.token", {"login": {"token": [CANARY]}}),
        ("config.login.more.x", {"login": {"more": {"x": {"y": CANARY}}}}),
        ("config.login.nonsense", {"login": {"nonsense": CANARY}}),
        ("config.read_only", {"read_only": "false"}),
        ("config.read_only", {"read_only": 0}),
        ("config.timeout_s", {"timeout_s": 0}),
        ("config.timeout_s", {"timeout_s": float("nan")}),
        ("config.timeout_s", {"timeout_s": float("inf")}),
        ("config.max_rows", {"max_rows": 0}),
        ("config.max_bytes", {"max_bytes": 1}),
        ("config.pool_size", {"pool_size": 101}),
    ],
)
def test_a_wrong_field_is_named_and_its_value_never_repeated(field: str, value: dict[str, Any]) -> None:
    error = refused({"host": "db", **value})
    assert [entry.field for entry in error.fields] == [field]
    said = f"{error.message} {error.fields} {error!r} {error.__cause__!r}"
    assert CANARY not in said


def test_every_wrong_field_is_named_at_once() -> None:
    error = refused({"port": 0, "database": 1, "what": 2})
    assert {entry.field for entry in error.fields} == {"config.host", "config.port", "config.database", "config.what"}


def test_the_common_fields_have_the_contracts_defaults() -> None:
    config = Sample.parse({"host": "db"})
    shown = {name: config.value(name) for name in ("read_only", "timeout_s", "connect_timeout_s")}
    assert shown == {"read_only": True, "timeout_s": 30, "connect_timeout_s": 5}
    assert (config.max_rows, config.max_bytes, config.pool_size) == (1000, 4 * 1024 * 1024, 4)


def test_a_secret_is_opaque_in_every_printed_form() -> None:
    config = Sample.parse({"host": "db", "password": CANARY, "login": {"token": CANARY, "more": {"x": CANARY}}})
    assert CANARY not in f"{config!r} {config} {config.model_dump()} {config.model_dump_json()}"


def test_the_schema_marks_secrets_as_write_only() -> None:
    schema = Sample.model_json_schema()
    assert "writeOnly" in str(schema["properties"]["password"])
    assert "writeOnly" not in str(schema["properties"]["database"])


# -- host grammar (attacks 19 and 43) -----------------------------------------------------------

GOOD_HOSTS = {
    "db": "db",
    "DB.Example.COM": "db.example.com",
    "db.example.com.": "db.example.com",
    "a_b.internal": "a_b.internal",
    "xn--bcher-kva.example": "xn--bcher-kva.example",
    "10.0.0.1": "10.0.0.1",
    "::1": "::1",
    "[2001:DB8::1]": "2001:db8::1",
    "0x7f000001": "0x7f000001",
    "2130706433": "2130706433",
}
BAD_HOSTS = [
    "", " ", ".", "..", "/var/run/postgresql", "/tmp/.s.PGSQL.5432", "./sock", "@abstract", "unix:/tmp/s",
    "redis+unix:///tmp/s", "http://db", "db:5432", "db/x", "db?sslmode=disable", "db;port=1", "db&user=root",
    "db,evil", "db#x", "user@db", "user:pw@db", "db name", " db", "db ", "db\n", "db\x00", "db\t", "db\\x", "db%2f",
    "db%00", "-db", "db-", "a..b", ".db", "a" * 64, ".".join(["a" * 63] * 5), "::1]:5432", "[::1]:5432",
    "::1/64", "1.2.3.4/8", "ｄｂ", "dß.example", "db\u200b", "db\u202e", "::g", "(db)", "db*", "'db'", '"db"',
    "host=db", "service=x", "[db]", "*", "$HOME", "~", "C:\\x", "\\\\server\\pipe",
]  # fmt: skip
BAD_ZONES = ["::1%;port=1", "fe80::1%eth0", "::1%a b", "::1%\x00", "::1%?sslmode=disable", "::1%\n"]


@pytest.mark.parametrize(("given_host", "kept"), GOOD_HOSTS.items())
def test_a_host_is_a_name_or_a_literal_in_one_spelling(given_host: str, kept: str) -> None:
    assert Sample.parse({"host": given_host}).host == kept


@pytest.mark.parametrize("host", BAD_HOSTS, ids=ascii)
def test_a_host_can_be_no_path_no_url_and_no_second_parameter(host: str) -> None:
    assert [entry.field for entry in refused({"host": host}).fields] == ["config.host"]


@pytest.mark.parametrize("host", BAD_ZONES, ids=ascii)
def test_nothing_can_be_smuggled_in_as_the_zone_of_a_literal(host: str) -> None:
    assert [entry.field for entry in refused({"host": host}).fields] == ["config.host"]


@given(st.text(alphabet=st.sampled_from(list("ab1.-_:[]/;?&=@%# \n\x00\\'\"")), max_size=16))
def test_an_accepted_host_holds_nothing_that_separates(text: str) -> None:
    try:
        kept = Sample.parse({"host": text}).host
    except InvalidConfig:
        return
    assert not set(kept.partition("%")[0]) - set("abcdefghijklmnopqrstuvwxyz0123456789.-_:")
    assert kept == text.strip("[]").removesuffix(".").lower() or ":" in kept


# -- destination --------------------------------------------------------------------------------


def test_the_destination_is_all_marked_fields_with_their_defaults() -> None:
    assert Sample.destination_fields() == ["host", "port", "user"]
    base = Sample.destination({"host": "db"})
    assert base == Sample.destination({"host": "db", "port": 5432, "database": "x", "user": None})
    others = [{"host": "db2"}, {"host": "db", "port": 1}, {"host": "db", "user": "u"}]
    assert len({base, *map(Sample.destination, others)}) == 4


def test_a_destination_that_came_later_counts_only_where_it_is_set() -> None:
    class Later(Sample):
        url: Annotated[str | None, Destination(optional=True)] = None

    assert Later.destination({"host": "db"}) == Sample.destination({"host": "db"})  # what was sealed before opens
    assert Later.destination({"host": "db", "url": "a"}) != Later.destination({"host": "db"})
    assert Later.destination({"host": "db", "url": "a"}) != Later.destination({"host": "db", "url": "b"})


# -- secrets apart and together -----------------------------------------------------------------

TEXTS = st.text(alphabet=st.characters(exclude_categories=["Cc", "Cs"]), max_size=20)
SECRETS = st.text(alphabet=st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=20)


def configs(names: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {"host": st.just("db")},
        optional={
            "port": st.integers(1, 65_535),
            "database": TEXTS,
            "schema": TEXTS | st.none(),
            "password": SECRETS,
            "login": st.fixed_dictionaries(
                {}, optional={"kind": TEXTS, "token": SECRETS, "more": st.dictionaries(names, SECRETS, max_size=3)}
            ),
        },
    )


@given(configs(st.text(alphabet="abcXYZ-_ ", min_size=1, max_size=5)))
def test_split_and_join_are_each_others_reverse(raw: dict[str, Any]) -> None:
    public, secrets = Sample.parse(raw).split()
    assert join_secrets(public, secrets) == raw
    assert Sample.parse(join_secrets(public, secrets)).split() == (public, secrets)


@given(configs(st.text(alphabet="abcXYZ-_ ", min_size=1, max_size=5)))
def test_no_secret_stays_in_the_public_part(raw: dict[str, Any]) -> None:
    public, secrets = Sample.parse(raw).split()
    login = public.get("login", {})
    assert "password" not in public
    assert "token" not in login
    assert not login.get("more")
    wanted = len(raw.get("login", {}).get("more", {})) + ("password" in raw) + ("token" in raw.get("login", {}))
    assert len(secrets) == wanted


def test_a_secret_under_a_key_with_a_dot_comes_back_where_it_was() -> None:
    raw = {"host": "db", "login": {"more": {"X.Api.Key": "s"}}}
    assert join_secrets(*Sample.parse(raw).split()) == raw


def test_joining_does_not_change_what_it_was_given() -> None:
    public = {"login": {"kind": "basic"}}
    join_secrets(public, {"login.token": CANARY})
    assert public == {"login": {"kind": "basic"}}


# -- what an attachment may do ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "stored", "wanted", "allowed"),
    [
        (LOWER, 10, 9, True),
        (LOWER, 10, 10, True),
        (LOWER, 10, 11, False),
        (TO_TRUE, False, True, True),
        (TO_TRUE, True, True, True),
        (TO_TRUE, False, False, True),
        (TO_TRUE, True, False, False),
        (BELOW, "logs/", "logs/a", True),
        (BELOW, "logs/", "logs/", True),
        (BELOW, "logs/", "log", False),
        (BELOW, "logs/", "", False),
        (BELOW, "logs/", None, False),
        (BELOW, None, "x", True),
        (BELOW, "", "x", True),
        (ANY, "a", "b", True),
    ],
)
def test_a_rule_lets_an_attachment_narrow_and_never_widen(rule: Any, stored: Any, wanted: Any, allowed: bool) -> None:
    assert rule.allows(stored, wanted) is allowed


def test_only_marked_fields_may_be_overridden_and_no_destination_is_among_them() -> None:
    common = {"read_only", "timeout_s", "connect_timeout_s", "max_rows", "max_bytes", "pool_size"}
    assert set(Sample.overridable()) == common | {"database", "prefix", "schema"}
    assert not set(Sample.overridable()) & set(Sample.destination_fields())


def test_a_field_that_does_not_exist_is_called_so() -> None:
    with pytest.raises(InvalidConfig) as caught:
        ProviderConfig.parse({"pasword": "x"})
    assert [(entry.field, entry.message) for entry in caught.value.fields] == [("config.pasword", "no such field")]
