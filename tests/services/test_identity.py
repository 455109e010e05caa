"""API keys: whose a key is, what it may do, and when it stops."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update
from tests import toy

from studio.errors import BadRequest, Forbidden, InvalidRequest, NotFound, ReadOnly, Unauthenticated
from studio.models import Effect, Principal, Role
from studio.services.connector_service import ConnectorService
from studio.store.tables import api_keys


async def key(service: ConnectorService, **body: Any) -> dict[str, Any]:
    return await service.create_key({"organization_id": "acme", "role": "admin", **body})


async def agent(service: ConnectorService, agent_id: str = "agent-1", **body: Any) -> ConnectorService:
    made = await service.create_key({"organization_id": "acme", "agent_id": agent_id, **body})
    return await service.authenticate(made["key"])


async def create(service: ConnectorService, name: str = "toy", **config: Any) -> str:
    return str((await service.create({**toy.body(name, **config), "organization_id": "acme"}))["id"])


def at(**delta: float) -> str:
    return (datetime.now(UTC) + timedelta(**delta)).isoformat()


# -- making a key -------------------------------------------------------------------------------


async def test_a_key_is_shown_once_and_only_its_hash_is_kept(service: ConnectorService, settings: Any) -> None:
    made = await key(service, name="ci")
    listed = (await service.list_keys())[0]
    assert {**listed, "key": made["key"]} == made
    assert made["key"] not in json.dumps(listed)
    assert "digest" not in made
    await service.close()
    secret = made["key"][-43:].encode()  # it may hold underscores
    assert all(secret not in path.read_bytes() for path in settings.data_dir.iterdir() if path.is_file())


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"role": None}, "role"),
        ({"role": "king"}, "role"),
        ({"role": "admin", "aliases": ["db"]}, "agent_id"),
        ({"role": "admin", "effects": ["read"]}, "agent_id"),
        ({"role": None, "agent_id": "a b"}, "agent_id"),
        ({"role": None, "agent_id": "a\n"}, "agent_id"),
        ({"role": None, "agent_id": "a" * 129}, "agent_id"),
        ({"role": None, "agent_id": "a", "aliases": []}, "aliases"),
        ({"role": None, "agent_id": "a", "aliases": ["a,b"]}, "aliases.0"),
        ({"role": None, "agent_id": "a", "aliases": ["a"] * 101}, "aliases"),
        ({"role": None, "agent_id": "a", "effects": []}, "effects"),
        ({"role": None, "agent_id": "a", "effects": ["fly"]}, "effects.0"),
        ({"expires_at": "tomorrow"}, "expires_at"),
        ({"expires_at": "0001-01-01T00:00:00+14:00"}, "expires_at"),
        ({"expires_at": 5}, "expires_at"),
        ({"organization_id": None}, "organization_id"),
        ({"organization_id": "a/b"}, "organization_id"),
        ({"nonsense": 1}, "nonsense"),
        ({"name": ""}, "name"),
        ({"name": "a\x00"}, "name"),
    ],
)
async def test_a_key_that_makes_no_sense_is_refused_by_field(
    service: ConnectorService, body: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await key(service, **body)
    assert caught.value.fields[0].field == field
    assert await service.list_keys() == []


async def test_the_first_key_is_made_once(service: ConnectorService) -> None:
    made = await asyncio.gather(*(service.create_first_key() for _ in range(10)))
    assert len([text for text in made if text]) == 1
    assert len(await service.list_keys()) == 1
    caller = await service.authenticate(next(text for text in made if text))
    assert (caller.principal.organization_id, caller.principal.role) == ("default", Role.ADMIN)
    assert await caller.create_first_key() is None


async def test_an_admin_makes_keys_of_its_own_organization_only(service: ConnectorService) -> None:
    admin = await service.authenticate((await key(service))["key"])
    made = await admin.create_key({"role": "member"})
    assert (made["organization_id"], made["created_by"]) == ("acme", admin.principal.subject)
    with pytest.raises(InvalidRequest):
        await admin.create_key({"role": "member", "organization_id": "beta"})


# -- presenting one -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        {"role": "admin"},
        {"role": "member"},
        {"role": None, "agent_id": "agent-1", "aliases": ["a", "b"], "effects": ["read", "write"]},
        {"role": None, "agent_id": "agent-1", "expires_at": "2999-01-01"},
    ],
)
async def test_a_key_tells_whose_it_is(service: ConnectorService, body: dict[str, Any]) -> None:
    made = await key(service, **body)
    found = (await service.authenticate(made["key"])).principal
    assert found == Principal(
        organization_id="acme",
        subject=f"key:{made['id']}",
        role=Role(body["role"] or "member"),
        agent_id=body.get("agent_id"),
        aliases=frozenset(body["aliases"]) if "aliases" in body else None,
        effects=frozenset(map(Effect, body["effects"])) if "effects" in body else None,
    )


async def test_every_bad_key_gets_the_same_answer(service: ConnectorService) -> None:
    good, other = await key(service), await key(service)
    expired = await key(service, expires_at=at(seconds=-1))
    ancient = await key(service, expires_at="0999-01-01T00:00:00Z")
    revoked = await key(service)
    await service.revoke_key(revoked["id"])
    prefix = good["key"][: len("studio_") + 17]
    bad = [
        None, "", "x", good["key"][:-1], good["key"] + "x", good["key"].upper(), prefix + other["key"][len(prefix) :],
        prefix + "A" * 43, expired["key"], ancient["key"], revoked["key"], "studio_" + "0" * 16 + "_" + "A" * 43, "é", "\x00",
    ]  # fmt: skip
    said = set()
    for text in bad:
        with pytest.raises(Unauthenticated) as caught:
            await service.authenticate(text)
        said.add(caught.value.message)
    assert len(said) == 1
    await service.authenticate(good["key"])


@pytest.mark.parametrize("guard", ["hash", "expiry", "revocation"])
async def test_each_guard_of_a_key_is_what_refuses(
    service: ConnectorService, monkeypatch: pytest.MonkeyPatch, guard: str
) -> None:
    """The negative controls: without its guard, the bad key passes."""
    made = await key(service, expires_at=at(seconds=-1) if guard == "expiry" else None)
    if guard == "revocation":
        await service.revoke_key(made["id"])
    text = made["key"][:-43] + "A" * 43 if guard == "hash" else made["key"]
    with pytest.raises(Unauthenticated):
        await service.authenticate(text)
    if guard == "hash":
        monkeypatch.setattr("studio.services.identity.tokens.matches", lambda *_: True)
    elif guard == "expiry":
        monkeypatch.setattr("studio.services.identity.unix_time", lambda: 0.0)
    else:
        core = await service._home.core()
        await core.database.write(lambda connection: connection.execute(update(api_keys).values(revoked_at=None)))
    assert (await service.authenticate(text)).principal.subject == f"key:{made['id']}"


@pytest.mark.parametrize("guard", ["require_agent", "allows_alias", "allows_effect"])
async def test_each_limit_of_an_agents_key_is_what_refuses(
    service: ConnectorService, monkeypatch: pytest.MonkeyPatch, guard: str
) -> None:
    """The negative controls: without its limit, the key reaches further."""
    connector = await create(service, read_only=False)
    for agent_id, alias in [("agent-1", "a"), ("agent-1", "b"), ("agent-2", "a")]:
        await service.attach_to_agent(connector, agent_id, alias)
    limited = await agent(service, aliases=["a"], effects=["read"])
    calls: dict[str, dict[str, Any]] = {
        "require_agent": {"agent_id": "agent-2", "alias": "a", "operation": "query", "arguments": {"query": "rows 1"}},
        "allows_alias": {"agent_id": "agent-1", "alias": "b", "operation": "query", "arguments": {"query": "rows 1"}},
        "allows_effect": {"agent_id": "agent-1", "alias": "a", "operation": "put", "arguments": {"key": "k"}},
    }
    with pytest.raises((Forbidden, NotFound)):
        await limited.execute(**calls[guard])
    monkeypatch.setattr(f"studio.security.policy.{guard}", lambda *_: True)
    assert (await limited.execute(**calls[guard]))["success"]


async def test_a_key_that_expires_while_it_is_used_stops(service: ConnectorService) -> None:
    made = await key(service, expires_at=at(seconds=0.3))
    await service.authenticate(made["key"])
    await asyncio.sleep(0.4)
    with pytest.raises(Unauthenticated):
        await service.authenticate(made["key"])


async def test_a_revoked_key_stops_at_once_and_stays_in_the_list(service: ConnectorService) -> None:
    made = await key(service)
    await service.authenticate(made["key"])
    assert (await service.revoke_key(made["id"]))["message"] == "Key revoked"
    with pytest.raises(Unauthenticated):
        await service.authenticate(made["key"])
    assert [entry["revoked_at"] is not None for entry in await service.list_keys()] == [True]


async def test_a_key_of_another_organization_cannot_be_revoked(service: ConnectorService) -> None:
    admin = await service.authenticate((await key(service))["key"])
    theirs = await key(service, organization_id="beta")
    for key_id in (theirs["id"], "00000000-0000-7000-8000-000000000000", "nonsense", ""):
        with pytest.raises(NotFound, match="no such key"):
            await admin.revoke_key(key_id)
    await service.authenticate(theirs["key"])
    assert {entry["organization_id"] for entry in await admin.list_keys()} == {"acme"}


AGENT = {"agent_id": "agent-1", "role": None, "aliases": ["one", "two"], "effects": ["read", "write"]}


@pytest.mark.parametrize(
    ("made", "narrower", "now"),
    [
        ({"role": "admin"}, {"role": "developer"}, {"role": "developer"}),
        (AGENT, {"aliases": ["two"]}, {"aliases": ["two"], "effects": ["read", "write"]}),
        (AGENT, {"effects": ["read"]}, {"aliases": ["one", "two"], "effects": ["read"]}),
        ({"agent_id": "agent-1", "role": None}, {"aliases": ["any"], "effects": ["read"]}, {"aliases": ["any"]}),
        ({"role": "member"}, {"expires_at": at(hours=1)}, {}),
    ],
)
async def test_a_key_can_be_narrowed(
    service: ConnectorService, made: dict[str, Any], narrower: dict[str, Any], now: dict[str, Any]
) -> None:
    found = await key(service, **made)
    changed = await service.narrow_key(found["id"], narrower)
    assert {name: changed[name] for name in now} == now
    principal = (await service.authenticate(found["key"])).principal
    assert principal.aliases == (frozenset(changed["aliases"]) if changed["aliases"] else None)
    [listed] = await service.list_keys()
    assert listed | {"last_used_at": None} == changed | {"last_used_at": None}


@pytest.mark.parametrize(
    ("made", "wider", "field"),
    [
        ({"role": "member"}, {"role": "developer"}, "role"),
        (AGENT, {"role": "member"}, "role"),
        (AGENT, {"aliases": ["one", "three"]}, "aliases"),
        (AGENT, {"effects": ["admin"]}, "effects"),
        ({"role": "member"}, {"effects": ["read"]}, "effects"),
        ({"role": "member", "expires_at": at(hours=1)}, {"expires_at": at(hours=2)}, "expires_at"),
    ],
)
async def test_a_key_cannot_be_widened(
    service: ConnectorService, made: dict[str, Any], wider: dict[str, Any], field: str
) -> None:
    found = await key(service, **made)
    before = await service.list_keys()
    with pytest.raises(InvalidRequest) as caught:
        await service.narrow_key(found["id"], wider)
    assert [one.field for one in caught.value.fields] == [field]
    assert await service.list_keys() == before


async def test_narrowing_names_something_and_a_key_of_ones_own_organization(service: ConnectorService) -> None:
    admin = await service.authenticate((await key(service))["key"])
    theirs = await key(service, organization_id="beta")
    for nothing in ({}, {"role": None}, {"aliases": None, "effects": None}):
        with pytest.raises(BadRequest):
            await service.narrow_key(theirs["id"], nothing)
    for key_id in (theirs["id"], "00000000-0000-7000-8000-000000000000", "nonsense", ""):
        with pytest.raises(NotFound, match="no such key"):
            await admin.narrow_key(key_id, {"role": "member"})


async def test_use_is_noted_once_a_minute_and_holds_nobody_up(service: ConnectorService) -> None:
    made = await key(service)
    for _ in range(5):
        await service.authenticate(made["key"])
    await asyncio.gather(*service._home.background)
    first = (await service.list_keys())[0]["last_used_at"]
    assert first is not None
    await service.authenticate(made["key"])
    assert not service._home.background
    core = await service._home.core()
    old = "2020-01-01T00:00:00.000000Z"
    await core.database.write(lambda connection: connection.execute(update(api_keys).values(last_used_at=old)))
    await service.authenticate(made["key"])
    await asyncio.gather(*service._home.background)
    assert (await service.list_keys())[0]["last_used_at"] > first


# -- agents -------------------------------------------------------------------------------------


async def test_an_agent_uses_its_own_aliases_and_sees_no_others(service: ConnectorService) -> None:
    connector = await create(service)
    for agent_id, alias in [("agent-1", "a"), ("agent-1", "b"), ("agent-2", "a")]:
        await service.attach_to_agent(connector, agent_id, alias)
    limited = await agent(service, aliases=["a"])
    assert [entry["alias"] for entry in await limited.list_agent_connectors("agent-1")] == ["a"]
    assert (await limited.execute_query(agent_id="agent-1", alias="a", query="rows 1"))["row_count"] == 1
    with pytest.raises(NotFound) as outside:
        await limited.execute_query(agent_id="agent-1", alias="b", query="rows 1")
    with pytest.raises(NotFound) as unknown:
        await limited.execute_query(agent_id="agent-1", alias="nothing", query="rows 1")
    assert outside.value.message == unknown.value.message
    for call in (limited.list_agent_connectors("agent-2"), limited.operations("agent-2", "a")):
        with pytest.raises(Forbidden):
            await call


async def test_an_agent_learns_nothing_about_ids(service: ConnectorService) -> None:
    """The same answer for one that exists and one that does not."""
    connector = await create(service)
    instance = await service.attach_to_agent(connector, "agent-1", "a")
    who = await agent(service)
    said: dict[str, set[str]] = {}
    for connector_id, instance_id in [(connector, instance["id"]), ("0" * 8 + instance["id"][8:], "nonsense")]:
        calls = {
            "get": who.get(connector_id),
            "query": who.execute_query(connector_id, "rows 1"),
            "test": who.test_connection(connector_id),
            "attach": who.attach_to_agent(connector_id, "agent-1", "mine"),
            "instances": who.list_instances(connector_id),
            "delete": who.delete(connector_id),
            "detach": who.detach_from_agent(instance_id),
        }
        for name, call in calls.items():
            with pytest.raises(Forbidden) as caught:
                await call
            said.setdefault(name, set()).add(caught.value.message)
    assert all(len(messages) == 1 for messages in said.values())


async def test_effects_limit_a_key_below_what_the_attachment_allows(service: ConnectorService) -> None:
    connector = await create(service, read_only=False)
    await service.attach_to_agent(connector, "agent-1", "w", {"read_only": False})
    await service.attach_to_agent(connector, "agent-1", "r", {"read_only": True})
    everything, reader = await agent(service), await agent(service, effects=["read"])
    put = {"operation": "put", "arguments": {"key": "k"}, "agent_id": "agent-1"}
    assert (await everything.execute(**put, alias="w"))["success"]
    with pytest.raises(ReadOnly, match="this attachment"):
        await everything.execute(**put, alias="r")
    with pytest.raises(Forbidden, match="does not allow write"):
        await reader.execute(**put, alias="w")
    assert [entry["name"] for entry in await reader.operations("agent-1", "w")] == ["query", "secrets"]
    assert [entry["name"] for entry in await everything.operations("agent-1", "w")] == [
        "query", "secrets", "put", "drop",
    ]  # fmt: skip
    assert [entry["name"] for entry in await everything.operations("agent-1", "r")] == ["query", "secrets"]


async def test_a_detached_alias_is_gone_for_the_next_call(service: ConnectorService) -> None:
    connector = await create(service)
    instance = await service.attach_to_agent(connector, "agent-1", "a")
    who = await agent(service)
    await who.execute_query(agent_id="agent-1", alias="a", query="rows 1")
    await service.detach_from_agent(instance["id"])
    with pytest.raises(NotFound):
        await who.execute_query(agent_id="agent-1", alias="a", query="rows 1")


# -- organizations ------------------------------------------------------------------------------


async def test_another_organizations_things_are_not_found_whatever_the_role(service: ConnectorService) -> None:
    connector = await create(service)
    instance = await service.attach_to_agent(connector, "agent-1", "a")
    for role in Role:
        made = await service.create_key({"organization_id": "beta", "role": role.value})
        stranger = await service.authenticate(made["key"])
        calls = [
            stranger.get(connector),
            stranger.update(connector, {"name": "mine"}),
            stranger.update(connector, {}),
            stranger.delete(connector),
            stranger.preview_delete(connector),
            stranger.test_connection(connector),
            stranger.attach_to_agent(connector, "agent-1", "x"),
            stranger.attach(connector, {"nonsense": 1}),
            stranger.list_instances(connector),
            stranger.detach_from_agent(instance["id"]),
            stranger.execute_query(connector, "rows 1"),
            stranger.operations(connector_id=connector),
        ]
        for call in calls:
            with pytest.raises(NotFound):
                await call
        assert (await stranger.list())["records"] == []
        assert await stranger.list_agent_connectors("agent-1") == []
    assert (await service.get(connector))["name"] == "toy"


async def test_two_organizations_may_use_the_same_names_and_aliases(service: ConnectorService) -> None:
    for organization in ("acme", "beta"):
        made = await service.create({**toy.body(database=organization), "organization_id": organization})
        await service.attach_to_agent(made["id"], "agent-1", "db")
        caller = await service.authenticate(
            (await service.create_key({"organization_id": organization, "agent_id": "agent-1"}))["key"]
        )
        result = await caller.execute_query(agent_id="agent-1", alias="db", query="rows 1")
        assert result["data"][0]["at"].endswith(f"/{organization}")
    with pytest.raises(InvalidRequest, match="name the organization_id"):
        await service.execute_query(agent_id="agent-1", alias="db", query="rows 1")
    result = await service.execute_query(agent_id="agent-1", alias="db", query="rows 1", organization_id="beta")
    assert result["data"][0]["at"].endswith("/beta")


async def test_a_remote_caller_cannot_choose_an_organization(service: ConnectorService) -> None:
    await create(service)
    made = await service.create_key({"organization_id": "beta", "role": "admin"})
    stranger = await service.authenticate(made["key"])
    assert (await stranger.list(organization_id="acme"))["records"] == []
    assert await stranger.list_agent_connectors("agent-1", organization_id="acme") == []
    assert {entry["organization_id"] for entry in await stranger.list_keys(organization_id="acme")} == {"beta"}
    with pytest.raises(InvalidRequest) as caught:
        await stranger.create({**toy.body(), "organization_id": "acme"})
    assert [entry.field for entry in caught.value.fields] == ["organization_id"]
