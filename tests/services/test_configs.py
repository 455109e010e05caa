"""Configs: merged, sealed to their destination, narrowed by attachments, released in one place."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import update
from tests import toy

from studio.errors import (
    BadRequest,
    EncryptionError,
    InvalidConfig,
    InvalidRequest,
    OverrideNotAllowed,
    ReadOnly,
    SecretsRequired,
)
from studio.models import Connector
from studio.services.configs import merge_patch
from studio.services.connector_service import ConnectorService
from studio.store.tables import connector_instances, connectors

SECRETS = ("p4ssw0rd-c4n4ry", "t0k3n-c4n4ry", "n3w-c4n4ry")


async def create(service: ConnectorService, name: str = "toy", **config: Any) -> dict[str, Any]:
    return await service.create({**toy.body(name, **config), "organization_id": "acme"})


async def row(service: ConnectorService, connector_id: str) -> Connector:
    core = await service._home.core()
    return await core.store.scope(None, "test").connector(connector_id)


async def secrets_at_the_driver(service: ConnectorService, connector_id: str) -> Any:
    return (await service.execute("secrets", connector_id=connector_id))["data"]


# -- merging ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "patch", "merged"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
        ({"a": "text"}, {"a": {"b": 1}}, {"a": {"b": 1}}),
    ],
)
def test_a_patch_merges_as_rfc_7396_says(target: Any, patch: Any, merged: Any) -> None:
    before = json.dumps(target)
    assert merge_patch(target, patch) == merged
    assert json.dumps(target) == before


async def test_a_new_password_keeps_host_port_and_the_other_secret(service: ConnectorService) -> None:
    connector = await create(service, port=5000, database="orders")
    changed = await service.update(connector["id"], {"config": {"password": "n3w-c4n4ry"}})
    assert changed["config"] == connector["config"]
    assert changed["config"]["port"] == 5000
    assert changed["secrets_set"] == ["login.token", "password"]
    assert changed["version"] == connector["version"] + 1
    assert await secrets_at_the_driver(service, connector["id"]) == {"password": 10, "token": 12}


async def test_null_removes_a_key_and_its_default_is_in_force_again(service: ConnectorService) -> None:
    connector = await create(service, database="orders")
    changed = await service.update(connector["id"], {"config": {"database": None, "password": None}})
    assert changed["config"]["database"] == "main"
    assert changed["secrets_set"] == ["login.token"]
    assert await secrets_at_the_driver(service, connector["id"]) == {"password": None, "token": 12}


async def test_null_for_a_field_that_is_needed_is_refused(service: ConnectorService) -> None:
    connector = await create(service)
    with pytest.raises(InvalidConfig) as caught:
        await service.update(connector["id"], {"config": {"host": None}})
    assert [entry.field for entry in caught.value.fields] == ["config.host"]
    assert (await service.get(connector["id"]))["version"] == 1


async def test_a_nested_secret_is_merged_beside_its_neighbours(service: ConnectorService) -> None:
    connector = await create(service, login={"user": "u", "token": "t0k3n-c4n4ry"})
    changed = await service.update(connector["id"], {"config": {"login": {"user": "v"}}})
    assert changed["config"]["login"] == {"user": "v"}
    assert await secrets_at_the_driver(service, connector["id"]) == {"password": 15, "token": 12}


async def rest(service: ConnectorService, **config: Any) -> dict[str, Any]:
    body = {"name": "api", "connector_type": "api", "provider": "rest"}
    return await service.create(
        {**body, "organization_id": "acme", "config": {"base_url": "http://127.0.0.1:9", **config}}
    )


async def test_an_update_to_another_variant_keeps_nothing_of_the_former_one(service: ConnectorService) -> None:
    oauth = {"type": "oauth2_client_credentials", "token_url": "http://127.0.0.1:9/t", "client_id": "c", "scope": "s"}
    made = await rest(service, auth={**oauth, "client_secret": "s3cr3t"}, headers={"type": "a", "x-b": "b"})
    auth = {"type": "bearer", "token": "t0k3n"}
    given = {"auth": auth, "headers": {"type": "c", "x-b": "b"}}
    changed = await service.update(made["id"], {"config": given})
    assert changed["config"]["auth"] == {"type": "bearer"}
    assert sorted(changed["secrets_set"]) == ["auth.token", "headers.type", "headers.x-b"]
    with pytest.raises(InvalidConfig) as caught:  # nothing of the former one fills the gap
        await service.update(made["id"], {"config": {"auth": {"type": "basic", "username": "u"}}})
    assert [entry.field for entry in caught.value.fields] == ["config.auth.basic.password"]
    same = await service.update(made["id"], {"config": {"auth": {"type": "bearer"}}})
    assert same["version"] == changed["version"]
    # An object that is no union merges, whatever its members are called.
    merged = await service.update(made["id"], {"config": {"headers": {"type": "d"}}})
    assert sorted(merged["secrets_set"]) == ["auth.token", "headers.type", "headers.x-b"]


async def test_rows_of_lists_have_the_beginning_of_long_texts(service: ConnectorService) -> None:
    operations = {f"/things/{number}": {"get": {"operationId": f"thing{number}"}} for number in range(300)}
    document = {"openapi": "3.1.0", "info": {"title": "Things", "version": "1"}, "paths": operations}
    made = await rest(service, openapi=json.dumps(document))
    await service.attach_to_agent(made["id"], "agent-1", "things")
    whole = made["config"]["openapi"]
    assert len(whole) > 5000
    assert (await service.get(made["id"]))["config"]["openapi"] == whole
    [row] = (await service.list(organization_id="acme"))["records"]
    [used] = (await service.list_instances(made["id"]))["records"]
    [known] = await service.list_agent_connectors("agent-1")
    for short in (row, used, known):
        assert short["config"]["openapi"].startswith(whole[:100])
        assert len(short["config"]["openapi"]) < 250
        assert short["config"]["base_url"] == "http://127.0.0.1:9"


@pytest.mark.parametrize("body", [{}, {"config": {}}, {"name": None}, {"config": None, "status": None}])
async def test_an_update_that_names_nothing_is_a_bad_request(service: ConnectorService, body: dict[str, Any]) -> None:
    connector = await create(service)
    with pytest.raises(BadRequest, match="names nothing"):
        await service.update(connector["id"], body)


@pytest.mark.parametrize("value", [{"host": None}, {"password": None}, {"max_rows": None, "host": "db"}])
async def test_null_in_a_new_config_is_refused_by_name(service: ConnectorService, value: dict[str, Any]) -> None:
    name = next(key for key, item in value.items() if item is None)
    body = {**toy.body(), "config": value, "organization_id": "acme"}
    with pytest.raises(InvalidConfig) as caught:
        await service.create(body)
    assert [entry.field for entry in caught.value.fields] == [f"config.{name}"]


# -- the destination (attacks 26 and 27) --------------------------------------------------------


@pytest.mark.parametrize("patch", [{"host": "sink.example"}, {"port": 9}, {"host": "sink.example", "port": 9}])
async def test_a_new_destination_wants_every_secret_again(service: ConnectorService, patch: dict[str, Any]) -> None:
    connector = await create(service)
    with pytest.raises(SecretsRequired, match=r"give login\.token, password again") as caught:
        await service.update(connector["id"], {"config": patch})
    assert [entry.field for entry in caught.value.fields] == ["config.login.token", "config.password"]
    assert (await service.get(connector["id"])) == connector


async def test_one_secret_given_again_is_not_enough_for_two(service: ConnectorService) -> None:
    connector = await create(service)
    with pytest.raises(SecretsRequired) as caught:
        await service.update(connector["id"], {"config": {"host": "sink.example", "password": "n3w-c4n4ry"}})
    assert [entry.field for entry in caught.value.fields] == ["config.login.token"]


async def test_a_new_destination_is_taken_with_its_secrets(service: ConnectorService) -> None:
    connector = await create(service)
    patch = {"host": "new.example", "password": "n3w-c4n4ry", "login": {"token": "t"}}
    changed = await service.update(connector["id"], {"config": patch})
    assert changed["config"]["host"] == "new.example"
    assert await secrets_at_the_driver(service, connector["id"]) == {"password": 10, "token": 1}


async def test_a_new_destination_is_taken_where_its_secrets_are_removed(service: ConnectorService) -> None:
    connector = await create(service)
    patch = {"host": "new.example", "password": None, "login": None}
    changed = await service.update(connector["id"], {"config": patch})
    assert changed["secrets_set"] == []


async def test_the_same_destination_in_another_spelling_keeps_the_secrets(service: ConnectorService) -> None:
    connector = await create(service, host="DB.example.")
    changed = await service.update(connector["id"], {"config": {"host": "db.EXAMPLE", "port": 1234}})
    assert changed["secrets_set"] == ["login.token", "password"]


async def test_a_destination_without_secrets_may_change_freely(service: ConnectorService) -> None:
    connector = await create(service, password=None, login=None)
    assert (await service.update(connector["id"], {"config": {"host": "other"}}))["config"]["host"] == "other"


# -- overrides ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ({"host": "sink.example"}, "host"),
        ({"port": 9}, "port"),
        ({"password": "x"}, "password"),
        ({"login": {"token": "x"}}, "login"),
        ({"open_s": 1.0}, "open_s"),
        ({"nonsense": 1}, "nonsense"),
        ({"read_only": False}, "read_only"),
        ({"max_rows": 11}, "max_rows"),
        ({"max_bytes": 1 << 30}, "max_bytes"),
        ({"pool_size": 5}, "pool_size"),
        ({"connect_timeout_s": 6.0}, "connect_timeout_s"),
        ({"prefix": "other/"}, "prefix"),
        ({"prefix": ""}, "prefix"),
    ],
)
async def test_an_override_may_not_leave_its_list_nor_widen(
    service: ConnectorService, override: dict[str, Any], field: str
) -> None:
    connector = await create(service, max_rows=10, prefix="logs/")
    with pytest.raises(OverrideNotAllowed) as caught:
        await service.attach_to_agent(connector["id"], "agent-1", "db", override)
    assert [entry.field for entry in caught.value.fields] == [f"config_override.{field}"]
    assert await service.list_agent_connectors("agent-1") == []


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ({"database": 1}, "database"),
        ({"database": "a\x00b"}, "database"),
        ({"max_rows": "5"}, "max_rows"),
        ({"max_rows": 0}, "max_rows"),
        ({"database": None}, "database"),
        ({"timeout_s": 10_000.0}, "timeout_s"),
    ],
)
async def test_a_wrong_value_in_an_override_is_named(
    service: ConnectorService, override: dict[str, Any], field: str
) -> None:
    connector = await create(service)
    with pytest.raises(InvalidConfig) as caught:
        await service.attach_to_agent(connector["id"], "agent-1", "db", override)
    assert [entry.field for entry in caught.value.fields] == [f"config_override.{field}"]


async def test_the_effective_config_says_where_each_field_came_from(service: ConnectorService) -> None:
    connector = await create(service, database="main_db", max_rows=50)
    override = {"database": "agent_db", "read_only": True, "max_rows": 5}
    instance = await service.attach_to_agent(connector["id"], "agent-1", "db", override)
    assert instance["config"]["database"] == "agent_db"
    assert instance["config"]["max_rows"] == 5
    sources = instance["config_sources"]
    assert [sources[name] for name in ("database", "max_rows", "host", "port")] == [
        "override", "override", "connector", "default",
    ]  # fmt: skip
    assert set(sources) == set(instance["config"])
    assert await service.list_agent_connectors("agent-1") == [instance]


async def test_an_override_reaches_the_driver_and_the_caps(service: ConnectorService) -> None:
    connector = await create(service)
    await service.attach_to_agent(connector["id"], "agent-1", "db", {"database": "agent_db", "max_rows": 3})
    result = await service.execute_query(agent_id="agent-1", alias="db", query="rows 10")
    assert (result["row_count"], result["truncated"]) == (3, True)
    assert result["data"][0]["at"] == "db.example:1234/agent_db"
    direct = await service.execute_query(connector["id"], "rows 10")
    assert (direct["row_count"], direct["data"][0]["at"]) == (10, "db.example:1234/main")


async def test_a_later_narrowing_of_the_connector_binds_the_attachment_too(service: ConnectorService) -> None:
    """An override was checked against the connector of its day; the connector's new cap still holds."""
    connector = await create(service, max_rows=100)
    await service.attach_to_agent(connector["id"], "agent-1", "db", {"max_rows": 50})
    await service.update(connector["id"], {"config": {"max_rows": 5}})
    result = await service.execute_query(agent_id="agent-1", alias="db", query="rows 10")
    assert result["row_count"] == 5
    (shown,) = await service.list_agent_connectors("agent-1")
    assert (shown["config"]["max_rows"], shown["config_sources"]["max_rows"]) == (5, "connector")


async def test_switching_writes_off_at_the_connector_ends_them_for_every_attachment(service: ConnectorService) -> None:
    connector = await create(service, read_only=False)
    await service.attach_to_agent(connector["id"], "agent-1", "db", {"read_only": False})
    put = {"operation": "put", "arguments": {"key": "k"}, "agent_id": "agent-1", "alias": "db"}
    await service.execute(**put)
    await service.update(connector["id"], {"config": {"read_only": True}})
    with pytest.raises(ReadOnly):
        await service.execute(**put)
    assert toy.Toy.log["put"] == 1


async def test_an_attachment_outside_of_the_connectors_new_prefix_runs_nothing(service: ConnectorService) -> None:
    connector = await create(service, prefix="logs/")
    await service.attach_to_agent(connector["id"], "agent-1", "db", {"prefix": "logs/a/"})
    await service.update(connector["id"], {"config": {"prefix": "other/"}})
    with pytest.raises(OverrideNotAllowed, match="attach it again"):
        await service.execute_query(agent_id="agent-1", alias="db", query="rows 1")
    assert len(await service.list_agent_connectors("agent-1")) == 1
    await service.update(connector["id"], {"config": {"prefix": "logs/a/b/"}})
    assert (await service.list_agent_connectors("agent-1"))[0]["config"]["prefix"] == "logs/a/b/"
    assert (await service.execute_query(agent_id="agent-1", alias="db", query="rows 1"))["success"]


# -- what somebody who writes to the store can do (attacks 63 and 64) ---------------------------


async def write(service: ConnectorService, statement: Any) -> None:
    core = await service._home.core()
    await core.database.write(lambda connection: connection.execute(statement))


async def test_a_config_moved_to_another_row_is_refused_by_release_and_by_every_use(service: ConnectorService) -> None:
    ours, theirs = await create(service, "ours"), await create(service, "theirs", host="other.example")
    token = (await row(service, theirs["id"])).config_encrypted
    await write(service, update(connectors).where(connectors.c.id == ours["id"]).values(config_encrypted=token))
    core = await service._home.core()
    moved = await row(service, ours["id"])
    for use in (core.configs.release, core.configs.effective):
        with pytest.raises(EncryptionError):
            use(moved)
    for call in (
        service.get(ours["id"]),
        service.execute_query(ours["id"], "rows 1"),
        service.test_connection(ours["id"]),
        service.update(ours["id"], {"config": {"database": "x"}}),
        service.attach_to_agent(ours["id"], "agent-1", "db"),
    ):
        with pytest.raises(EncryptionError):
            await call
    assert not toy.Toy.log


async def test_an_older_config_put_back_is_refused(service: ConnectorService) -> None:
    connector = await create(service)
    old = await row(service, connector["id"])
    await service.update(connector["id"], {"config": {"password": "n3w-c4n4ry"}})
    await write(
        service,
        update(connectors).where(connectors.c.id == connector["id"]).values(config_encrypted=old.config_encrypted),
    )
    with pytest.raises(EncryptionError):
        await service.get(connector["id"])


async def test_a_row_given_to_another_organization_does_not_open(service: ConnectorService) -> None:
    connector = await create(service)
    stolen = replace(await row(service, connector["id"]), organization_id="evil")
    core = await service._home.core()
    with pytest.raises(EncryptionError):
        core.configs.release(stolen)


async def test_an_override_moved_to_another_attachment_is_refused(service: ConnectorService) -> None:
    connector = await create(service)
    ours = await service.attach_to_agent(connector["id"], "agent-1", "a", {"database": "a"})
    theirs = await service.attach_to_agent(connector["id"], "agent-1", "b", {"database": "b"})
    core = await service._home.core()
    token = (await core.store.scope(None, "test").instance(theirs["id"])).config_override
    await write(
        service, update(connector_instances).where(connector_instances.c.id == ours["id"]).values(config_override=token)
    )
    with pytest.raises(EncryptionError):
        await service.execute_query(agent_id="agent-1", alias="a", query="rows 1")


async def test_an_override_that_reached_the_destination_would_get_no_secret(service: ConnectorService) -> None:
    """The belt below the allow-list: `release` itself opens the secrets for the stored destination only."""
    connector = await create(service)
    core = await service._home.core()
    stored = await row(service, connector["id"])
    with pytest.raises(EncryptionError):
        core.configs.release(stored, {"host": "sink.example"})
    assert core.configs.release(stored, {"database": "x"}).split()[1]["password"] == SECRETS[0]


# -- what is shown ------------------------------------------------------------------------------


async def test_no_call_answers_a_secret_and_no_file_holds_one(service: ConnectorService, settings: Any) -> None:
    connector = await create(service)
    answers = [
        connector,
        await service.get(connector["id"]),
        await service.list(),
        await service.attach_to_agent(connector["id"], "agent-1", "db", {"database": "x"}),
        await service.list_agent_connectors("agent-1"),
        await service.list_instances(connector["id"]),
        await service.test_connection(connector["id"]),
        await service.update(connector["id"], {"config": {"password": "n3w-c4n4ry"}}),
        await service.preview_delete(connector["id"]),
        await service.delete(connector["id"]),
    ]
    text = json.dumps(answers)
    await asyncio.sleep(0)
    files = b"".join(path.read_bytes() for path in settings.data_dir.rglob("*") if path.is_file())
    for secret in SECRETS:
        assert secret not in text
        assert secret.encode() not in files
    assert b"db.example" not in files
    assert "config_encrypted" not in text
    assert "config_override" not in text


@pytest.mark.parametrize("created_by", ["u" * 129, "", " ", "a\nb", "a\x00"])
async def test_a_creators_name_that_no_store_could_keep_is_refused(service: ConnectorService, created_by: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await service.create({**toy.body(), "organization_id": "acme", "created_by": created_by})
    assert [entry.field for entry in caught.value.fields] == ["created_by"]


async def test_one_config_that_does_not_open_hides_no_other_in_a_list(service: ConnectorService) -> None:
    broken, sound = await create(service, "broken"), await create(service, "sound")
    await service.attach_to_agent(broken["id"], "agent-1", "broken")
    await service.attach_to_agent(sound["id"], "agent-1", "sound")
    core = await service._home.core()
    token = update(connectors).where(connectors.c.id == broken["id"]).values(config_encrypted="moved")
    await core.database.write(lambda connection: connection.execute(token))
    shown = {record["name"]: record for record in (await service.list())["records"]}
    assert (shown["broken"]["config"], shown["broken"]["status"]) == (None, "error")
    assert shown["sound"]["config"]
    configs = {record["alias"]: record["config"] for record in await service.list_agent_connectors("agent-1")}
    assert configs["broken"] is None
    assert configs["sound"]
    with pytest.raises(EncryptionError):
        await service.get(broken["id"])
