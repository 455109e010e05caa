"""Health: probes by the way of execution, states with hysteresis, and a queue that many may work on."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from typing import Any

import pytest
from sqlalchemy import update
from tests import toy

from studio.errors import BadRequest, InvalidRequest
from studio.models import now
from studio.services import health
from studio.services.connector_service import ConnectorService
from studio.services.core import Core
from studio.services.watch import Watch
from studio.settings import Settings
from studio.store import health as rows
from studio.store import probe_queue
from studio.store.health import Found
from studio.store.probe_queue import Health
from studio.store.tables import alerts as alert_rows
from studio.store.tables import connector_health, connectors

DOWN: dict[str, Any] = {"code": "unreachable", "stage": "connect", "message": "no answer", "fix": "look"}


async def core_of(service: ConnectorService) -> Core:
    return await service._home.core()


async def made(service: ConnectorService, name: str = "toy", organization: str = "acme", **config: Any) -> str:
    return str((await service.create({**toy.body(name, **config), "organization_id": organization}))["id"])


async def turn(service: ConnectorService, *, due: bool = True) -> None:
    """One turn of the background work, to its end; everything is due first."""
    core = await core_of(service)
    if due:
        await core.database.write(lambda c: c.execute(update(connector_health).values(due_at=now(-1))))
        await core.database.write(lambda c: c.execute(update(alert_rows).values(due_at=now(-1))))
    watch = Watch(core)
    await watch.tick()
    await watch.idle()


@pytest.fixture
def down(monkeypatch: pytest.MonkeyPatch, toys: type[toy.Toy]) -> set[str]:
    """Hosts whose upstream is away: for probes and operations alike."""
    found: set[str] = set()
    ping, opening = toys.ping, toys.open

    async def ping_(self: toy.Toy) -> None:
        if self.config.host in found:
            raise toy.ToyError
        await ping(self)

    async def open_(self: toy.Toy, stack: AsyncExitStack) -> None:
        toys.log["reached"] += 1
        await opening(self, stack)

    monkeypatch.setattr(toys, "ping", ping_)
    monkeypatch.setattr(toys, "open", open_)
    return found


# -- states -------------------------------------------------------------------------------------


def row(state: str = "unknown", failures: int = 0, successes: int = 0) -> Health:
    return Health("c", "acme", state, failures, successes, None, now(), "", 0, now(), None, False)


@pytest.mark.parametrize(
    ("found", "states"),
    [
        ("+", "healthy"),
        ("-", "degraded"),
        ("+-+", "healthy degraded degraded"),
        ("+-++", "healthy degraded degraded healthy"),
        ("+---", "healthy degraded degraded error"),
        ("+---+", "healthy degraded degraded error error"),
        ("+---++", "healthy degraded degraded error error healthy"),
        ("+---+-+-++", "healthy degraded degraded error error error error error error healthy"),
        ("+-+-+-+-", "healthy" + " degraded" * 7),
    ],
)
def test_a_state_follows_from_what_was_found_in_a_row(found: str, states: str) -> None:
    health_row, seen = row(), []
    for sign in found:
        health_row = health.after(health_row, ok=sign == "+")
        seen.append(health_row.state)
    assert seen == states.split()


def test_a_test_that_somebody_asked_for_counts_at_once() -> None:
    assert health.after(row("healthy"), ok=False, decisive=True).state == "error"
    assert health.after(row("error", 9), ok=True, decisive=True).state == "healthy"


def test_no_sequence_of_findings_flaps() -> None:
    """Whatever comes: an error begins after DOWN failures in a row and ends after UP passes in a row, never else."""
    random.seed(7)
    health_row, run = row(), ""
    for _ in range(20_000):
        ok = random.random() < 0.6
        before = health_row.state
        health_row = health.after(health_row, ok=ok)
        run = (run + "+-"[not ok])[-3:]
        if before != "error" and health_row.state == "error":
            assert run == "---"
        if before == "error" and health_row.state != "error":
            assert (run[-2:], health_row.state) == ("++", "healthy")


# -- probes -------------------------------------------------------------------------------------


async def test_the_connectors_own_fields_stay_true_and_the_history_tells_each_change(
    service: ConnectorService, down: set[str]
) -> None:
    connector_id = await made(service)
    await turn(service, due=False)  # a new connector is due at once
    found = await service.get(connector_id)
    assert (found["status"], found["last_test_result"], found["last_error"]) == ("active", "success", None)
    down.add("db.example")
    for status, state in (("active", "degraded"), ("active", "degraded"), ("error", "error")):
        await turn(service)
        found = await service.get(connector_id)
        assert (found["status"], found["last_test_result"], found["last_error"]) == (status, "failed", "the toy broke")
        assert (await service.health(connector_id))["health"] == state
    down.clear()
    await turn(service)
    found = await service.get(connector_id)
    assert (found["status"], found["last_test_result"]) == ("error", "success"), "one answer is no recovery"
    await turn(service)
    assert (await service.get(connector_id))["status"] == "active"
    told = await service.health(connector_id)
    assert [(e["before"], e["after"]) for e in reversed(told["events"])] == [
        ("unknown", "healthy"), ("healthy", "degraded"), ("degraded", "error"), ("error", "healthy"),
    ]  # fmt: skip
    assert told["events"][1]["code"] == "upstream_error"
    assert told["events"][1]["stage"] == "login"
    assert told["since"] == told["events"][0]["at"]


async def test_a_probe_uses_the_live_session_where_there_is_one_and_keeps_none_open(
    service: ConnectorService, down: set[str], toys: type[toy.Toy]
) -> None:
    connector_id = await made(service)
    await turn(service)
    assert toys.log["reached"] == 1
    assert not toys.live, "a session for a probe alone does not stay open"
    await service.execute_query(connector_id, "rows 1")
    [session] = (await core_of(service)).sessions._sessions.values()
    used = session.last_used
    await turn(service)
    assert toys.log["reached"] == 2, "the probe went through the session of the operation"
    assert session.last_used == used, "a probe does not keep an idle session open"


async def test_a_connector_that_is_busy_is_neither_well_nor_ill(
    service: ConnectorService, toys: type[toy.Toy], settings: Settings
) -> None:
    connector_id = await made(service, pool_size=1)
    core = await core_of(service)
    core.sessions._max_waiters = 0
    toys.gate = asyncio.Event()
    running = asyncio.create_task(service.execute_query(connector_id, "hold"))
    while not toys.log["hold"]:  # noqa: ASYNC110 - the toy counts, it does not tell
        await asyncio.sleep(0.001)
    await turn(service)
    told = await service.health(connector_id)
    assert (told["health"], told["last_tested_at"], told["events"]) == ("unknown", None, [])
    assert told["next_probe_at"] > now()
    toys.gate.set()
    await running


async def test_an_operation_on_a_connector_in_error_is_still_tried(
    service: ConnectorService, toys: type[toy.Toy], monkeypatch: pytest.MonkeyPatch
) -> None:
    connector_id = await made(service, password="wrong")
    assert not (await service.test_connection(connector_id))["success"]
    assert (await service.get(connector_id))["status"] == "error"
    assert (await service.health(connector_id))["health"] == "error"
    assert (await service.execute_query(connector_id, "rows 1"))["success"]


async def test_an_inactive_connector_is_not_probed_and_one_that_is_switched_on_is(
    service: ConnectorService, down: set[str], toys: type[toy.Toy]
) -> None:
    connector_id = await made(service)
    await service.update(connector_id, {"status": "inactive"})
    await turn(service)
    assert not toys.log["reached"]
    assert (await service.health(connector_id))["next_probe_at"] is None
    await service.update(connector_id, {"status": "active"})
    await turn(service)
    assert (await service.health(connector_id))["health"] == "healthy"


async def test_what_was_found_of_an_old_config_does_not_count(service: ConnectorService) -> None:
    connector_id = await made(service)
    core = await core_of(service)
    before = await core.store.scope("acme", "tests").connector(connector_id)
    await service.update(connector_id, {"config": {"max_rows": 5}})
    assert await health.record(core, before, Found(**DOWN), decisive=True) is None
    assert (await service.get(connector_id))["last_test_result"] is None
    assert (await service.health(connector_id))["health"] == "unknown"


async def test_a_config_that_does_not_open_is_found_without_a_word_to_the_upstream(
    service: ConnectorService, down: set[str], toys: type[toy.Toy]
) -> None:
    connector_id, other = await made(service), await made(service, "other")
    core = await core_of(service)
    token = (await core.store.scope("acme", "tests").connector(other)).config_encrypted
    moved = update(connectors).where(connectors.c.id == connector_id).values(config_encrypted=token)
    await core.database.write(lambda c: c.execute(moved))
    await turn(service)
    _, [event] = await rows.of(core.database, connector_id)
    assert (event.code, event.stage) == ("encryption_error", "config")
    assert (await service.health(other))["health"] == "healthy"


# -- the queue ----------------------------------------------------------------------------------


async def test_a_slow_upstream_holds_up_no_other(service: ConnectorService, toys: type[toy.Toy]) -> None:
    slow = [await made(service, f"slow {n}", open_s=30) for n in range(3)]
    quick = [await made(service, f"quick {n}", f"org-{n}") for n in range(5)]
    watch = Watch(await core_of(service))
    await watch.tick()
    for _ in range(200):
        await asyncio.sleep(0.01)
        if all([(await service.health(one))["health"] == "healthy" for one in quick]):
            break
    else:
        raise AssertionError("the quick ones waited for the slow ones")
    assert [(await service.health(one))["health"] for one in slow] == ["unknown"] * 3
    for task in list(watch._probing):
        task.cancel()
    await watch.idle()


async def test_one_organization_gets_its_share_and_no_more(service: ConnectorService) -> None:
    for number in range(6):
        await made(service, f"a{number}", "greedy")
    await made(service, "b", "modest")
    database = (await core_of(service)).database
    first = await probe_queue.claim(database, most=10, per_organization=2, lease_s=60)
    assert sorted(one.organization_id for one, _ in first) == ["greedy", "greedy", "modest"]
    assert not await probe_queue.claim(database, most=10, per_organization=2, lease_s=60), "what is claimed counts"
    await probe_queue.put_back(database, next(one for one, _ in first if one.organization_id == "greedy"), now(100))
    assert [
        one.organization_id for one, _ in await probe_queue.claim(database, most=10, per_organization=2, lease_s=60)
    ] == ["greedy"]
    assert len(await probe_queue.claim(database, most=1, per_organization=9, lease_s=60)) == 1


async def test_a_claim_that_was_overtaken_keeps_nothing(service: ConnectorService) -> None:
    connector_id = await made(service)
    core = await core_of(service)
    [(late, connector)] = await probe_queue.claim(core.database, most=1, per_organization=1, lease_s=-1)
    [(quick, _)] = await probe_queue.claim(core.database, most=1, per_organization=1, lease_s=60)
    assert quick.fence == late.fence + 1
    await health.record(core, connector, Found(), fence=quick.fence)
    assert await health.record(core, connector, Found(**DOWN), fence=late.fence) is None
    assert (await service.get(connector_id))["last_test_result"] == "success"


async def test_probes_are_spread_and_come_sooner_while_things_are_unclear(service: ConnectorService) -> None:
    core = await core_of(service)
    times = {health.next_probe(core, row("healthy")) for _ in range(50)}
    assert len(times) == 50
    assert now(53) < min(times) < max(times) < now(67)
    assert now(12) < health.next_probe(core, row("degraded", 1)) < now(18)
    assert now(53) < health.next_probe(core, row("error", 5)) < now(67)


async def test_a_connector_has_an_interval_of_its_own(service: ConnectorService) -> None:
    connector_id = await made(service)
    assert (await service.health(connector_id))["interval_s"] == 60
    assert (await service.set_health(connector_id, {"interval_s": 1000}))["interval_s"] == 1000
    await turn(service)
    assert now(850) < (await service.health(connector_id))["next_probe_at"] < now(1150)
    assert (await service.set_health(connector_id, {"interval_s": None}))["interval_s"] == 60
    with pytest.raises(BadRequest):
        await service.set_health(connector_id, {})
    with pytest.raises(InvalidRequest):
        await service.set_health(connector_id, {"interval_s": 1})


async def test_the_watch_works_until_it_is_cancelled_and_leaves_nothing(
    service: ConnectorService, toys: type[toy.Toy]
) -> None:
    connector_id = await made(service)
    working = asyncio.create_task(service.watch())
    for _ in range(500):
        await asyncio.sleep(0.01)
        if (await service.health(connector_id))["health"] == "healthy":
            break
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert (await service.health(connector_id))["health"] == "healthy"
