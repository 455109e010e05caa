"""The queue of probes, what is kept of a finding, and the outbox of alerts; on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.exc import IntegrityError
from tests.store.conftest import KEY
from tests.store.test_store import connector

from studio.models import Connector, new_id, now
from studio.store import alerts, health, probe_queue
from studio.store.audit import AuditLog
from studio.store.engine import Database
from studio.store.health import Event, Found
from studio.store.probe_queue import Health
from studio.store.store import Scope, Store
from studio.store.tables import alerts as alert_rows
from studio.store.tables import connector_health

FAILED = Found("unreachable", "connect", "no", "look")


async def added(scope: Scope, *names: str, organization: str = "acme") -> list[Connector]:
    made = [connector(name, organization) for name in names]
    for one in made:
        await scope.add_connector(one)
    return made


def to(state: str) -> health.Step:
    return lambda row: replace(row, state=state, due_at=now(60), lease_until=probe_queue.FREE, changed_at=now())


def silent(*_: Any) -> Sequence[Mapping[str, Any]]:
    return []


def rows(about: str, *channels: str) -> list[dict[str, Any]]:
    return [
        {
            "id": new_id(), "organization_id": "acme", "connector_id": "c", "about": about, "channel": channel,
            "body": "{}", "created_at": now(), "due_at": now(-1), "lease_until": "", "attempts": 0,
        }
        for channel in channels
    ]  # fmt: skip


async def test_each_due_probe_is_claimed_once_however_many_ask_at_once(acme: Scope, database: Database) -> None:
    await added(acme, *(f"n{number}" for number in range(30)))
    claims = await asyncio.gather(
        *(probe_queue.claim(database, most=7, per_organization=100, lease_s=60) for _ in range(8))
    )
    ids = [row.connector_id for claim in claims for row, _ in claim]
    assert len(ids) == len(set(ids))
    while more := await probe_queue.claim(database, most=7, per_organization=100, lease_s=60):
        ids += [row.connector_id for row, _ in more]
    assert len(set(ids)) == len(ids) == 30
    assert all(row.connector_id == found.id for claim in claims for row, found in claim)


async def test_a_lease_that_is_over_is_claimed_again_under_a_higher_fence(acme: Scope, database: Database) -> None:
    await added(acme, "one")
    [(first, one)] = await probe_queue.claim(database, most=1, per_organization=1, lease_s=-1)
    [(second, _)] = await probe_queue.claim(database, most=1, per_organization=1, lease_s=60)
    assert second.fence == first.fence + 1
    assert await health.record(database.write, one, FAILED, to("degraded"), silent, fence=first.fence) is None
    event = await health.record(database.write, one, FAILED, to("degraded"), silent, fence=second.fence)
    assert event is not None
    assert (event.before, event.after, event.stage) == ("unknown", "degraded", "connect")


async def test_the_share_of_an_organization_counts_what_is_claimed(database: Database) -> None:
    store = Store(AuditLog(database, KEY))
    for organization in ("acme", "beta"):
        names = [f"{organization}{number}" for number in range(5)]
        await added(store.scope(organization, "tests"), *names, organization=organization)
    first = await probe_queue.claim(database, most=100, per_organization=2, lease_s=60)
    assert sorted(row.organization_id for row, _ in first) == ["acme", "acme", "beta", "beta"]
    assert not await probe_queue.claim(database, most=100, per_organization=2, lease_s=60)
    assert len(await probe_queue.claim(database, most=100, per_organization=3, lease_s=60)) == 2


async def test_an_organization_that_fills_the_head_of_the_queue_hides_no_other(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_queue, "AHEAD", 1)
    store = Store(AuditLog(database, KEY))
    for organization, count in (("greedy", 20), ("beta", 3), ("alpha", 2)):
        names = [f"{organization}{number}" for number in range(count)]
        await added(store.scope(organization, "tests"), *names, organization=organization)
    found = []
    for _ in range(5):  # each looks at eight rows, and those are all of the greedy one
        [(row, _one)] = await probe_queue.claim(database, most=1, per_organization=1, lease_s=60)
        found.append(row.organization_id)
        if len(found) > 1:
            await probe_queue.put_back(database, row, now(100))
    assert found == ["greedy", "beta", "beta", "beta", "alpha"], "the longest due first, and no second of the greedy"


async def test_inactive_connectors_are_put_aside_and_come_back_when_they_are_active(
    acme: Scope, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_queue, "AHEAD", 1)
    made = await added(acme, *(f"n{number}" for number in range(9)))
    off = [await acme.change_connector(one.id, version=1, values={"status": "inactive"}) for one in made[:8]]
    assert [one.id for _, one in await claimed(database)] == [made[8].id], "those in front are passed over"
    due = select(connector_health.c.connector_id).where(connector_health.c.due_at <= now())
    assert await database.read(lambda c: c.scalars(due).all()) == [made[8].id]
    for one in off[:2]:
        await acme.change_connector(one.id, version=2, values={"status": "active"}, changes=["status"])
    assert {one.id for _, one in await claimed(database)} == {one.id for one in off[:2]}


async def claimed(database: Database) -> list[tuple[Health, Connector]]:
    return await probe_queue.claim(database, most=9, per_organization=9, lease_s=60)


async def test_a_finding_follows_the_version_that_was_tested_and_an_inactive_one_stays(
    acme: Scope, database: Database
) -> None:
    (one,) = await added(acme, "one")
    await health.record(database.write, one, FAILED, to("error"), silent)
    tested = await acme.connector(one.id)
    assert (tested.status, tested.last_test_result, tested.last_error, tested.version) == ("error", "failed", "no", 1)
    await health.record(database.write, one, Found(), to("healthy"), silent)
    tested = await acme.connector(one.id)
    assert (tested.status, tested.last_test_result, tested.last_error) == ("active", "success", None)
    changed = await acme.change_connector(one.id, version=1, values={"status": "inactive"})
    assert await health.record(database.write, one, FAILED, to("error"), silent) is None
    assert (await acme.connector(one.id)).last_error is None
    await health.record(database.write, changed, Found(), to("healthy"), silent)
    assert (await acme.connector(one.id)).status == "inactive"
    assert not await probe_queue.claim(database, most=9, per_organization=9, lease_s=60)


async def test_a_change_and_its_alerts_are_kept_together_or_not_at_all(acme: Scope, database: Database) -> None:
    (one,) = await added(acme, "one")

    def broken(tested: Connector, event: Event, agents: Sequence[str]) -> Sequence[Mapping[str, Any]]:
        return [*rows(event.id, "webhook"), *rows(event.id, "webhook")]

    with pytest.raises(IntegrityError):
        await health.record(database.write, one, FAILED, to("error"), broken)
    row, events = await health.of(database, one.id)
    assert (row.state, events, await alerts.waiting(database)) == ("unknown", [], 0)
    assert (await acme.connector(one.id)).status == "active"
    told = lambda tested, event, agents: rows(event.id, "webhook", "email")  # noqa: E731
    await health.record(database.write, one, FAILED, to("error"), told)
    assert await alerts.waiting(database) == 2


async def test_what_is_found_at_the_same_time_makes_one_change(acme: Scope, database: Database) -> None:
    (one,) = await added(acme, "one")
    told = lambda tested, event, agents: rows(event.id, "webhook")  # noqa: E731
    await asyncio.gather(*(health.record(database.write, one, FAILED, to("error"), told) for _ in range(6)))
    _, events = await health.of(database, one.id)
    assert len(events) == 1
    assert await alerts.waiting(database) == 1


async def test_an_alert_is_claimed_once_and_told_once(database: Database) -> None:
    await alerts.add(database, rows("change", "webhook", "email"))
    await alerts.add(database, rows("change", "webhook", "email", "pager"))
    assert await alerts.waiting(database) == 3
    claims = await asyncio.gather(*(alerts.claim(database, most=9, lease_s=60) for _ in range(4)))
    found = [one for claim in claims for one in claim]
    assert sorted(one.channel for one in found) == ["email", "pager", "webhook"]
    await alerts.end(database, found[0], "ok")
    await alerts.again(database, found[1], now(-1), "unreachable")
    [again] = await alerts.claim(database, most=9, lease_s=60)
    assert (again.channel, again.attempts, again.outcome) == (found[1].channel, 1, "unreachable")


async def test_history_and_health_go_with_the_connector_and_what_is_to_be_told_stays(
    acme: Scope, database: Database
) -> None:
    (one,) = await added(acme, "one")
    told = lambda tested, event, agents: rows(event.id, "webhook")  # noqa: E731
    await health.record(database.write, one, FAILED, to("error"), told)
    await acme.remove_connector(one.id)
    left = await database.read(
        lambda c: [c.scalar(select(func.count()).select_from(table)) for table in (connector_health, alert_rows)]
    )
    assert left == [0, 1]
    assert await health.record(database.write, one, FAILED, to("error"), told) is None


async def test_old_history_and_told_alerts_are_dropped_and_what_waits_is_not(acme: Scope, database: Database) -> None:
    (one,) = await added(acme, "one")
    told = lambda tested, event, agents: rows(event.id, "webhook", "email")  # noqa: E731
    await health.record(database.write, one, FAILED, to("error"), told)
    await alerts.end(database, (await alerts.claim(database, most=1, lease_s=60))[0], "ok")
    await health.forget(database, before=now(-60))
    assert len((await health.of(database, one.id))[1]) == 1
    await health.forget(database, before=now(60))
    assert (await health.of(database, one.id))[1] == []
    assert await alerts.waiting(database) == 1
    assert await health.counts(database) == {"error": 1}


async def test_a_claim_given_back_is_due_when_that_says(acme: Scope, database: Database) -> None:
    (one,) = await added(acme, "one")
    [(row, _)] = await probe_queue.claim(database, most=1, per_organization=1, lease_s=60)
    await probe_queue.put_back(database, replace(row, fence=row.fence - 1), now(-1))
    assert not await probe_queue.claim(database, most=1, per_organization=1, lease_s=60), "not by a claim of before"
    await probe_queue.put_back(database, row, now(-1))
    [(again, _)] = await probe_queue.claim(database, most=1, per_organization=1, lease_s=60)
    assert isinstance(again, Health)
    await database.write(
        lambda c: c.execute(update(connector_health).values(lease_until=probe_queue.FREE, due_at=now(100)))
    )
    assert not await probe_queue.claim(database, most=1, per_organization=1, lease_s=60), "not before its time"
    assert one.id == again.connector_id
