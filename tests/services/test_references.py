"""Secrets that are kept elsewhere: who may name which, when they are read, and what is never stored."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from tests import toy
from tests.upstreams.openbao import OpenBao, openbao, own_openbao  # noqa: F401

from studio.errors import EgressDenied, InvalidConfig, Unreachable
from studio.services.connector_service import ConnectorService
from studio.settings import Settings

PASSWORD = "c4n4ry-of-the-store"
REFERENCE = "vault://secret/connectors/acme/main#password"


def body(reference: str = REFERENCE, **more: Any) -> dict[str, Any]:
    return {**toy.body(password=reference, login=None), "organization_id": "acme", **more}


async def lengths(service: ConnectorService, connector: dict[str, Any]) -> Any:
    return (await service.execute("secrets", connector_id=connector["id"]))["data"]["password"]


@pytest.fixture
async def stored(settings: Settings, toys: type[toy.Toy], openbao: OpenBao) -> AsyncIterator[ConnectorService]:  # noqa: F811
    openbao.put("connectors/acme/main", password=PASSWORD)
    openbao.put("connectors/beta/main", password="of another organization")
    kept = settings.model_copy(
        update={"vault_url": openbao.url, "vault_token": SecretStr(openbao.token),
                "session_idle_s": 0.05, "reference_ttl_s": 0.2}
    )  # fmt: skip
    async with ConnectorService(kept) as service:
        yield service


# -- OpenBao ------------------------------------------------------------------------------------


async def test_a_reference_becomes_the_secret_when_a_session_opens_and_not_before(
    stored: ConnectorService, settings: Settings
) -> None:
    made = await stored.create(body())
    assert made["secrets_set"] == ["password"]
    assert await lengths(stored, made) == len(PASSWORD)
    assert (await stored.test_connection(made["id"]))["success"]
    for file in settings.data_dir.rglob("*"):
        assert not file.is_file() or PASSWORD.encode() not in file.read_bytes()


async def test_an_unsaved_config_may_hold_one_too(stored: ConnectorService) -> None:
    given = {name: value for name, value in body().items() if name != "name"}
    assert (await stored.test_config(given))["success"]


async def test_a_new_version_is_read_once_the_known_one_is_old(stored: ConnectorService, openbao: OpenBao) -> None:  # noqa: F811
    made = await stored.create(body())
    assert await lengths(stored, made) == len(PASSWORD)
    openbao.put("connectors/acme/main", password="short")
    for _ in range(100):
        if (found := await lengths(stored, made)) == 5:
            break
        await asyncio.sleep(0.1)
    assert found == 5


@pytest.mark.parametrize(
    "reference",
    [
        "vault://secret/connectors/beta/main#password",
        "vault://secret/connectors/acme/../beta/main#password",
        "vault://secret/connectors/acme//main#password",
        "vault://secret/connectors/acme#password",
        "vault://secret/connectors/acme/main",
        "vault://secret/connectors/acme/main#",
        "vault://secret/connectors/acme/main#a#b",
        "vault://secret/connectors/acme/%2e%2e/beta/main#password",
        "vault://secret/connectors/acme/main?version=1#password",
        "vault://sys/connectors/acme/main#password",
        "env://HOME",
        "file:///etc/passwd",
    ],
)
async def test_an_organization_names_nothing_but_its_own(stored: ConnectorService, reference: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        await stored.create(body(reference))
    assert [field.field for field in caught.value.fields] == ["config.password"]
    tested = await stored.test_config({k: v for k, v in body(reference).items() if k != "name"})
    assert (tested["success"], tested["code"]) == (False, "invalid_config")
    made = await stored.create(body())
    with pytest.raises(InvalidConfig):
        await stored.update(made["id"], {"config": {"password": reference}})


async def test_the_reference_of_one_organization_does_not_open_in_another(stored: ConnectorService) -> None:
    with pytest.raises(InvalidConfig, match="for this organization"):
        await stored.create({**body(), "organization_id": "beta"})
    with pytest.raises(InvalidConfig, match="for this organization"):
        await stored.create(
            {**body("vault://secret/connectors/../connectors/acme/main#password"), "organization_id": ".."}
        )


async def test_what_is_not_there_or_not_readable_is_said_without_the_value(stored: ConnectorService) -> None:
    for reference in ("vault://secret/connectors/acme/gone#password", "vault://secret/connectors/acme/main#gone"):
        made = await stored.create(body(reference, name=reference[-20:]))
        with pytest.raises(InvalidConfig, match="names nothing that is there") as caught:
            await lengths(stored, made)
        assert reference not in str(caught.value)


async def test_a_token_without_the_right_reads_nothing(settings: Settings, toys: object, openbao: OpenBao) -> None:  # noqa: F811
    weak = openbao.call("POST", "auth/token/create", {"policies": ["default"]})["auth"]["client_token"]
    kept = settings.model_copy(update={"vault_url": openbao.url, "vault_token": SecretStr(weak)})
    async with ConnectorService(kept) as service:
        made = await service.create(body())
        with pytest.raises(InvalidConfig, match="does not let this service read"):
            await lengths(service, made)


async def test_a_store_that_is_down_is_unreachable_and_heals_by_itself(
    settings: Settings,
    toys: object,
    own_openbao: OpenBao,  # noqa: F811
) -> None:
    own_openbao.put("connectors/acme/main", password=PASSWORD)
    file = settings.data_dir / "token"
    file.write_text(own_openbao.token + "\n")
    async with ConnectorService(
        settings.model_copy(update={"vault_url": own_openbao.url, "vault_token_file": file})
    ) as service:
        made = await service.create(body())
        own_openbao.stop()
        with pytest.raises(Unreachable, match="secret store"):
            await lengths(service, made)
        own_openbao.launch()  # in memory: all is gone, and the token is another
        own_openbao.put("connectors/acme/main", password=PASSWORD)
        file.write_text(own_openbao.token + "\n")
        assert await lengths(service, made) == len(PASSWORD)


async def test_no_connector_is_sent_to_the_secret_store_itself(stored: ConnectorService, openbao: OpenBao) -> None:  # noqa: F811
    config = {"base_url": openbao.url, "auth": {"type": "none"}}
    made = await stored.create(
        {"name": "r", "connector_type": "api", "provider": "rest", "config": config, "organization_id": "acme"}
    )
    with pytest.raises(EgressDenied):
        await stored.execute("request", {"method": "GET", "path": "/v1/sys/health"}, connector_id=made["id"])


# -- the environment and files --------------------------------------------------------------------


async def test_variables_and_files_are_read_only_where_an_operator_lists_them(
    settings: Settings, toys: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DB_PASSWORD", PASSWORD)
    monkeypatch.setenv("OTHER", "not listed")
    folder = tmp_path / "mounted"
    folder.mkdir()
    (folder / "password").write_text("from a file\n")
    (tmp_path / "outside").write_text("outside")
    (folder / "link").symlink_to(tmp_path / "outside")
    allowed = Settings(data_dir=settings.data_dir, reference_env=("DB_PASSWORD",), reference_files=folder)
    assert PASSWORD not in repr(allowed)
    async with ConnectorService(allowed) as service:
        monkeypatch.delenv("DB_PASSWORD")  # as the start's own cleaning does
        assert await lengths(service, await service.create(body("env://DB_PASSWORD", name="a"))) == len(PASSWORD)
        for number, given in enumerate(("file://password", f"file://{folder}/password")):
            assert await lengths(service, await service.create(body(given, name=f"f{number}"))) == len("from a file")
        for refused in (
            "env://OTHER",
            "file://../outside",
            "file://link",
            f"file://{tmp_path}/outside",
        ):
            with pytest.raises(InvalidConfig):
                await service.create(body(refused, name="no"))
    async with ConnectorService(settings) as service:
        for refused in (REFERENCE, "env://DB_PASSWORD", "file://password"):
            with pytest.raises(InvalidConfig, match="an operator"):
                await service.create(body(refused, name="no"))


async def test_what_a_reference_names_must_fit_its_field(
    settings: Settings, toys: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "two\nlines")
    config = {"base_url": "http://127.0.0.1:9", "auth": {"type": "bearer", "token": "env://TOKEN"}}
    async with ConnectorService(Settings(data_dir=settings.data_dir, reference_env=("TOKEN",))) as service:
        made = await service.create(
            {"name": "r", "connector_type": "api", "provider": "rest", "config": config, "organization_id": "acme"}
        )
        with pytest.raises(InvalidConfig):
            await service.execute("request", {"method": "GET", "path": "/"}, connector_id=made["id"])
