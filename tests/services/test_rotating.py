"""Rotation of a connector's credentials, on a provider without an upstream: what is stored, and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update
from tests import toy
from tests.services.test_rotation import rotated

from studio.errors import (
    AuthFailed,
    BadRequest,
    Conflict,
    InvalidRequest,
    OperationNotSupported,
    SecretsRequired,
    Unreachable,
    UpstreamError,
)
from studio.models import Sealed, now
from studio.services.connector_service import ConnectorService
from studio.services.master_keys import KEY_FILE
from studio.settings import Settings
from studio.store.tables import connector_secrets

NEW = {"config": {"password": "n3w-c4n4ry"}}


async def made(service: ConnectorService, **config: Any) -> str:
    return str((await service.create({**toy.body(**config), "organization_id": "acme"}))["id"])


async def others(service: ConnectorService) -> list[Any]:
    core = await service._home.core()
    return list(await core.database.read(lambda connection: connection.execute(select(connector_secrets)).all()))


async def lengths(service: ConnectorService, connector_id: str) -> Any:
    return (await service.execute("secrets", connector_id=connector_id))["data"]


async def test_a_new_secret_is_in_force_and_the_old_one_is_kept_for_the_grace(service: ConnectorService) -> None:
    connector_id = await made(service)
    before = await service.get(connector_id)
    answer = await service.rotate(connector_id, {**NEW, "grace_s": 60, "expires_at": "2999-01-01T00:00:00Z"})
    after = await service.get(connector_id)
    assert answer["version"] == after["version"] == before["version"] + 1
    assert after["secret_set_at"] > before["secret_set_at"]
    assert after["secret_expires_at"] == answer["secret_expires_at"] == "2999-01-01T00:00:00.000000Z"
    assert (after["last_test_result"], after["status"]) == ("success", "active")
    assert now() < answer["previous_until"] < now(61)
    assert (await lengths(service, connector_id))["password"] == len("n3w-c4n4ry")
    assert [row.kind for row in await others(service)] == ["previous"]
    assert "c4n4ry" not in repr([answer, after, *await others(service)])


async def test_a_secret_that_is_not_named_stays_and_without_a_grace_nothing_is_kept(service: ConnectorService) -> None:
    connector_id = await made(service)
    answer = await service.rotate(connector_id, {**NEW, "grace_s": 0})
    assert answer["previous_until"] is None
    assert await lengths(service, connector_id) == {"password": 10, "token": len("t0k3n-c4n4ry")}
    assert not await others(service)


async def test_a_secret_that_does_not_work_changes_nothing(service: ConnectorService) -> None:
    connector_id = await made(service)
    before = await service.get(connector_id)
    with pytest.raises(AuthFailed):
        await service.rotate(connector_id, {"config": {"password": "wrong"}})
    assert await service.get(connector_id) == before
    assert not await others(service)
    assert (await service.execute_query(connector_id, "rows 1"))["success"]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({}, BadRequest),
        ({"config": {}}, BadRequest),
        ({"generate": True, **NEW}, BadRequest),
        ({"config": {"password": "p4ssw0rd-c4n4ry"}}, BadRequest),
        ({"config": {"database": "other", "password": "n3w"}}, InvalidRequest),
        ({"config": {"host": "elsewhere.example", "password": "n3w"}}, SecretsRequired),
        ({"generate": True}, OperationNotSupported),
        ({**NEW, "grace_s": -1}, InvalidRequest),
        ({**NEW, "expires_at": "soon"}, InvalidRequest),
    ],
)
async def test_what_is_no_rotation_is_refused_and_changes_nothing(
    service: ConnectorService, body: dict[str, Any], error: type[Exception]
) -> None:
    connector_id = await made(service)
    before = await service.get(connector_id)
    with pytest.raises(error):
        await service.rotate(connector_id, body)
    assert await service.get(connector_id) == before
    assert not await others(service)


async def test_running_operations_end_on_the_old_session_and_new_ones_get_the_new(
    service: ConnectorService, toys: type[toy.Toy]
) -> None:
    connector_id = await made(service)
    toy.Toy.gate = asyncio.Event()
    running = asyncio.create_task(service.execute_query(connector_id, "hold"))
    while not toys.log["hold"]:  # noqa: ASYNC110 - the toy counts, it does not tell
        await asyncio.sleep(0.001)
    await service.rotate(connector_id, NEW)
    assert (await service.execute_query(connector_id, "rows 1"))["success"]
    toy.Toy.gate.set()
    assert (await running)["success"]
    await asyncio.sleep(0.01)
    assert len(toys.live) == 1, "the old session is closed, the new one is open"


async def test_an_update_in_between_is_not_lost(service: ConnectorService, monkeypatch: pytest.MonkeyPatch) -> None:
    connector_id = await made(service)
    ping = toy.Toy.ping
    once = [True]

    async def meanwhile(self: toy.Toy) -> None:
        if once:
            once.clear()
            await service.update(connector_id, {"name": "renamed", "config": {"max_rows": 7}})
        await ping(self)

    monkeypatch.setattr(toy.Toy, "ping", meanwhile)
    await service.rotate(connector_id, NEW)
    after = await service.get(connector_id)
    assert (after["name"], after["config"]["max_rows"]) == ("renamed", 7)
    assert (await lengths(service, connector_id))["password"] == 10


async def test_an_update_of_a_secret_counts_as_its_age_and_another_one_does_not(service: ConnectorService) -> None:
    connector_id = await made(service)
    await service.rotate(connector_id, {**NEW, "expires_at": "2999-01-01T00:00:00Z"})
    first = await service.get(connector_id)
    second = await service.update(connector_id, {"name": "other"})
    assert second["secret_set_at"] == first["secret_set_at"]
    assert second["secret_expires_at"] == first["secret_expires_at"]
    third = await service.update(connector_id, {"config": {"password": "by-hand"}})
    assert third["secret_set_at"] > first["secret_set_at"]
    assert third["secret_expires_at"] is None


def _forget_old_keys(path: Path) -> None:
    path.write_text(path.read_text().split()[0])


async def test_a_master_key_rotation_seals_the_kept_secrets_too(settings: Settings, toys: type[toy.Toy]) -> None:
    async with ConnectorService(settings) as service:
        connector_id = await made(service)
        await service.rotate(connector_id, NEW)
    done = await rotated(settings)
    assert (done.done, done.left, done.failed) == (3, 0, ())
    _forget_old_keys(settings.data_dir / KEY_FILE)
    async with ConnectorService(settings) as service:
        core = await service._home.core()
        [row] = await others(service)
        connector = await core.store.scope("acme", "test").connector(connector_id)
        old = core.configs.exchanged(connector, row.id, Sealed(row.token, row.key_id))
        assert core.configs.release(old).split()[1]["password"] == "p4ssw0rd-c4n4ry"


async def test_the_kept_secrets_go_when_the_connector_goes(service: ConnectorService) -> None:
    connector_id = await made(service)
    await service.rotate(connector_id, NEW)
    await service.delete(connector_id)
    assert not await others(service)


# -- an upstream that takes a password ----------------------------------------------------------


class Upstream:
    """One account: the password that new sessions need, and how the next change of it goes."""

    def __init__(self) -> None:
        self.passwords = {"p4ssw0rd-c4n4ry"}
        self.change: Callable[[str], None] = lambda new: None
        self.to_do: str | None = None
        self.refused = 0


@pytest.fixture
def upstream(monkeypatch: pytest.MonkeyPatch, toys: type[toy.Toy]) -> Upstream:
    found = Upstream()
    opening = toys.open

    async def open_(self: toy.Toy, stack: AsyncExitStack) -> None:
        assert self.config.password is not None
        if self.config.password.get_secret_value() not in found.passwords:
            found.refused += 1
            raise AuthFailed("the upstream refused the credentials")
        await opening(self, stack)

    async def set_password(self: toy.Toy, new: str) -> str | None:
        before, found.passwords = found.passwords, {new}
        try:
            found.change(new)
        except toy.ToyError:
            found.passwords = before
            raise
        return found.to_do

    monkeypatch.setattr(toys, "open", open_)
    monkeypatch.setattr(toys, "set_password", set_password)
    monkeypatch.setattr(toys, "rotates", "password")
    return found


def fails(error: Exception) -> Callable[[str], None]:
    def change(new: str) -> None:
        raise error

    return change


async def expire_claim(service: ConnectorService) -> None:
    core = await service._home.core()
    await core.database.write(lambda connection: connection.execute(update(connector_secrets).values(until=now(-1))))


async def forget_sessions(service: ConnectorService, connector_id: str) -> None:
    (await service._home.core()).sessions.retire(connector_id)


async def test_a_password_made_here_is_set_upstream_and_in_force(service: ConnectorService, upstream: Upstream) -> None:
    connector_id = await made(service)
    upstream.to_do = "write it down"
    answer = await service.rotate(connector_id, {"generate": True})
    [password] = upstream.passwords
    assert len(password) == 43
    assert (answer["generated"], answer["to_do"]) == (True, "write it down")
    assert (await lengths(service, connector_id))["password"] == 43
    assert password not in repr([answer, await others(service)])
    assert [row.kind for row in await others(service)] == ["previous"]


async def test_a_change_that_the_upstream_refuses_leaves_everything(
    service: ConnectorService, upstream: Upstream
) -> None:
    connector_id = await made(service)
    before = await service.get(connector_id)
    upstream.change = fails(toy.ToyError())
    with pytest.raises(UpstreamError):
        await service.rotate(connector_id, {"generate": True})
    assert await service.get(connector_id) == before
    assert not await others(service)


async def test_a_change_whose_answer_was_lost_is_found_to_have_happened(
    service: ConnectorService, upstream: Upstream
) -> None:
    connector_id = await made(service)
    upstream.change = fails(Unreachable("cut"))
    assert (await service.rotate(connector_id, {"generate": True}))["generated"]
    assert (await lengths(service, connector_id))["password"] == 43


async def test_a_change_that_may_still_happen_keeps_both_sets_until_it_is_known(
    service: ConnectorService, upstream: Upstream
) -> None:
    connector_id = await made(service)
    late: list[str] = []

    def lost(new: str) -> None:
        late.append(new)
        upstream.passwords = {"p4ssw0rd-c4n4ry"}
        raise Unreachable("cut before it took effect")

    upstream.change = lost
    with pytest.raises(Unreachable):
        await service.rotate(connector_id, {"generate": True})
    assert [row.kind for row in await others(service)] == ["staged"]
    await forget_sessions(service, connector_id)
    assert (await service.execute_query(connector_id, "rows 1"))["success"]
    upstream.passwords = set(late)  # the server comes to it
    await forget_sessions(service, connector_id)
    assert (await service.execute_query(connector_id, "rows 1"))["success"], "the staged set is the one that works"
    with pytest.raises(Conflict, match="under way"):
        await service.rotate(connector_id, NEW)
    await expire_claim(service)
    upstream.passwords |= {"n3w-c4n4ry"}
    assert (await service.rotate(connector_id, NEW))["version"] == 3  # the one that died was finished first
    assert [row.kind for row in await others(service)] == ["previous"]


async def test_a_rotation_that_died_before_the_upstream_heard_of_it_is_taken_back(
    service: ConnectorService, upstream: Upstream
) -> None:
    connector_id = await made(service)

    def died(new: str) -> None:
        upstream.passwords = {"p4ssw0rd-c4n4ry"}
        raise Unreachable("never arrived")

    upstream.change = died
    with pytest.raises(Unreachable):
        await service.rotate(connector_id, {"generate": True})
    await expire_claim(service)
    upstream.change = lambda new: None
    assert (await service.rotate(connector_id, {"generate": True}))["version"] == 2


async def test_of_two_rotations_at_once_one_is_refused(service: ConnectorService, upstream: Upstream) -> None:
    connector_id = await made(service, open_s=0.02)
    both = await asyncio.gather(
        *(service.rotate(connector_id, {"generate": True}) for _ in range(2)), return_exceptions=True
    )
    assert sorted(type(one).__name__ for one in both) == ["Conflict", "dict"]
    assert (await service.get(connector_id))["version"] == 2
    assert (await service.execute_query(connector_id, "rows 1"))["success"]


async def test_servers_that_still_want_the_old_secret_get_it_within_the_grace(
    service: ConnectorService, upstream: Upstream
) -> None:
    connector_id = await made(service)
    upstream.passwords |= {"n3w-c4n4ry"}
    await service.rotate(connector_id, {**NEW, "grace_s": 60})
    upstream.passwords = {"p4ssw0rd-c4n4ry"}  # a server that lags behind
    await forget_sessions(service, connector_id)
    assert (await service.execute_query(connector_id, "rows 1"))["success"]
    rows = [
        part async for part in service.stream(service.plan_query(await service.target(connector_id), "rows 3", None))
    ]
    assert len(rows[0].rows) == 3
    await forget_sessions(service, connector_id)
    await expire_claim(service)  # the grace is over
    with pytest.raises(AuthFailed):
        await service.execute_query(connector_id, "rows 1")


async def test_nothing_falls_back_when_another_destination_is_given(
    service: ConnectorService, upstream: Upstream
) -> None:
    connector_id = await made(service)
    upstream.passwords |= {"n3w-c4n4ry"}
    await service.rotate(connector_id, NEW)
    upstream.passwords = {"p4ssw0rd-c4n4ry"}
    moved = {"host": "elsewhere.example", "password": "n3w-c4n4ry", "login": {"token": "t"}}
    await service.update(connector_id, {"config": moved})
    with pytest.raises(AuthFailed):
        await service.execute_query(connector_id, "rows 1")


async def test_without_another_set_a_refusal_is_asked_once_and_told(
    service: ConnectorService, upstream: Upstream
) -> None:
    connector_id = await made(service)
    upstream.passwords = set()
    with pytest.raises(AuthFailed):
        await service.execute_query(connector_id, "rows 1")
    assert upstream.refused == 1
