"""Live sessions: opened once, shared, bounded, and closed when outdated, idle or done."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from tests import toy
from tests.toy import Toy

from studio.errors import AuthFailed, Internal, NotFound, PoolBusy, StudioError, Timeout, UpstreamError
from studio.services.connector_service import ConnectorService
from studio.services.sessions import SessionKey, Sessions
from studio.settings import Settings


async def create(service: ConnectorService, name: str = "toy", **config: Any) -> str:
    made = await service.create({**toy.body(name, **config), "organization_id": "acme"})
    return str(made["id"])


async def sessions_of(service: ConnectorService) -> Sessions:
    return (await service._home.core()).sessions


async def until(condition: Any, within_s: float = 2) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.005)


@pytest.fixture
def gate(toys: type[Toy]) -> asyncio.Event:
    toys.gate = asyncio.Event()
    return toys.gate


# -- one opening --------------------------------------------------------------------------------


async def test_a_stampede_of_a_hundred_opens_one_session(service: ConnectorService) -> None:
    connector = await create(service, open_s=0.1, pool_size=10)
    answers = await asyncio.gather(*(service.execute_query(connector, "rows 1") for _ in range(100)))
    assert len(answers) == 100
    assert Toy.log["opened"] == 1


async def test_a_failing_opening_fails_everybody_who_waits_and_the_next_call_tries_again(
    service: ConnectorService,
) -> None:
    connector = await create(service, open_s=0.05)
    Toy.failures.append("ours")
    calls = [service.execute_query(connector, "rows 1") for _ in range(20)]
    errors = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(error) for error in errors} == {AuthFailed}
    assert (Toy.log["opening"], Toy.log["opened"]) == (1, 0)
    assert (await service.execute_query(connector, "rows 1"))["row_count"] == 1
    assert Toy.log["opened"] == 1


@pytest.mark.parametrize(
    ("failure", "expected"), [("driver", UpstreamError), ("builtin", UpstreamError), ("defect", Internal)]
)
async def test_what_a_driver_raises_while_it_opens_is_translated_too(
    service: ConnectorService, failure: str, expected: type[StudioError]
) -> None:
    connector = await create(service, open_error=failure)
    with pytest.raises(expected) as caught:
        await service.execute_query(connector, "rows 1")
    assert "canary" not in str(caught.value)
    tested = await service.test_connection(connector)
    assert (tested["success"], tested["code"]) == (False, expected.code)
    assert tested["stages"][-1]["ok"] is False
    assert "canary" not in str(tested)


async def test_a_caller_that_gives_up_does_not_take_the_opening_from_the_others(service: ConnectorService) -> None:
    connector = await create(service, open_s=0.1)
    impatient = asyncio.create_task(service.execute_query(connector, "rows 1"))
    patient = asyncio.create_task(service.execute_query(connector, "rows 1"))
    await asyncio.sleep(0.02)
    impatient.cancel()
    assert (await patient)["row_count"] == 1
    assert Toy.log["opening"] == 1
    with pytest.raises(asyncio.CancelledError):
        await impatient


# -- generations (attack 48) --------------------------------------------------------------------


async def test_a_changed_config_gets_a_new_session_while_the_old_one_finishes(
    service: ConnectorService, gate: asyncio.Event
) -> None:
    connector = await create(service, database="old")
    running = asyncio.create_task(service.execute_query(connector, "hold"))
    await until(lambda: Toy.log["hold"] == 1)
    await service.update(connector, {"config": {"database": "new"}})
    after = await service.execute_query(connector, "rows 1")
    assert after["data"][0]["at"].endswith("/new")
    assert (Toy.log["opened"], Toy.log["closed"]) == (2, 0)
    gate.set()
    assert (await running)["data"][0]["at"].endswith("/old")
    await until(lambda: Toy.log["closed"] == 1)


async def test_a_change_closes_the_idle_session_at_once(service: ConnectorService) -> None:
    connector = await create(service)
    await service.execute_query(connector, "rows 1")
    await service.update(connector, {"config": {"password": "new"}})
    await until(lambda: Toy.log["closed"] == 1)
    assert (await sessions_of(service)).open_count == 0


async def test_deleting_a_connector_closes_its_sessions(service: ConnectorService) -> None:
    connector = await create(service)
    await service.attach_to_agent(connector, "agent-1", "db", {"database": "x"})
    await service.execute_query(connector, "rows 1")
    await service.execute_query(agent_id="agent-1", alias="db", query="rows 1")
    assert Toy.log["opened"] == 2
    await service.delete(connector)
    await until(lambda: Toy.log["closed"] == 2)
    with pytest.raises(NotFound):
        await service.execute_query(connector, "rows 1")


async def test_attachments_that_narrow_alike_share_and_others_do_not(service: ConnectorService) -> None:
    connector = await create(service)
    for alias, override in [("a", {"database": "x"}), ("b", {"database": "x"}), ("c", {"database": "y"}), ("d", None)]:
        await service.attach_to_agent(connector, "agent-1", alias, override)
        await service.execute_query(agent_id="agent-1", alias=alias, query="rows 1")
    assert Toy.log["opened"] == 3
    await service.execute_query(connector, "rows 1")
    assert Toy.log["opened"] == 3


async def test_connectors_never_share_a_session(service: ConnectorService) -> None:
    for name in ("one", "two"):
        await service.execute_query(await create(service, name), "rows 1")
    assert Toy.log["opened"] == 2


# -- bounds -------------------------------------------------------------------------------------


@pytest.fixture
async def narrow(settings: Settings, toys: type[Toy]) -> AsyncIterator[ConnectorService]:
    """Two sessions in all, and three calls that may wait."""
    small = settings.model_copy(update={"max_sessions": 2, "max_waiters": 3})
    async with ConnectorService(small) as found:
        yield found


async def test_no_more_calls_run_at_once_than_the_pool_has_room_for(
    service: ConnectorService, gate: asyncio.Event
) -> None:
    connector = await create(service, pool_size=3)
    calls = [asyncio.create_task(service.execute_query(connector, "hold")) for _ in range(10)]
    await until(lambda: Toy.log["hold"] == 3)
    await asyncio.sleep(0.05)
    assert Toy.log["hold"] == 3
    gate.set()
    await asyncio.gather(*calls)
    assert Toy.log["hold"] == 10


async def test_one_waiter_too_many_is_told_that_the_pool_is_busy(narrow: ConnectorService, gate: asyncio.Event) -> None:
    connector = await create(narrow, pool_size=1)
    calls = [asyncio.create_task(narrow.execute_query(connector, "hold")) for _ in range(4)]
    await until(lambda: Toy.log["hold"] == 1)
    start = time.perf_counter()
    with pytest.raises(PoolBusy) as caught:
        await narrow.execute_query(connector, "rows 1")
    assert time.perf_counter() - start < 0.2
    assert caught.value.retry_after_s
    assert caught.value.retryable
    gate.set()
    assert len(await asyncio.gather(*calls)) == 4


@pytest.fixture
async def busy(service: ConnectorService) -> AsyncIterator[str]:
    """A connector of one slot, which a reader that does not read on keeps."""
    connector = await create(service, pool_size=1, timeout_s=0.3, max_rows=1_000_000, max_bytes=1 << 40)
    parts = service.stream(service.plan_query(await service.target(connector), "endless", None))
    await anext(parts)
    yield connector
    await parts.aclose()


async def test_a_deadline_that_passes_in_the_queue_is_pool_busy_and_nothing_was_sent(
    service: ConnectorService, busy: str
) -> None:
    start = time.perf_counter()
    with pytest.raises(PoolBusy):
        await service.execute_query(busy, "rows 1")
    assert 0.2 < time.perf_counter() - start < 0.4
    assert Toy.log["rows"] == 0


async def test_a_deadline_that_passes_in_the_queue_of_a_stream_is_pool_busy_too(
    service: ConnectorService, busy: str
) -> None:
    planned = service.plan_query(await service.target(busy), "rows 1", None)
    with pytest.raises(PoolBusy):
        await anext(service.stream(planned))
    assert Toy.log["rows"] == 0


@pytest.mark.parametrize("query", ["sleep 5", "endless", "hold"])
async def test_a_deadline_that_passes_later_is_a_timeout_and_the_work_is_cancelled(
    service: ConnectorService, gate: asyncio.Event, query: str
) -> None:
    connector = await create(service, pool_size=1, timeout_s=0.3, max_rows=100_000_000, max_bytes=1 << 40)
    took = []
    while not took or (min(took) >= 0.4 and len(took) < 8):  # the quickest: other work on the machine is not measured
        start = time.perf_counter()
        with pytest.raises(Timeout, match=r"timeout_s=0\.3"):
            await service.execute_query(connector, query)
        took.append(time.perf_counter() - start)
    assert 0.25 < min(took) < 0.4, "at most 100 ms past the deadline"
    assert Toy.log["cancelled"] == len(took)
    assert (await service.execute_query(connector, "rows 1"))["row_count"] == 1


async def test_a_deadline_that_passes_while_the_session_opens_is_a_timeout(service: ConnectorService) -> None:
    connector = await create(service, open_s=5.0, timeout_s=0.2)
    with pytest.raises(Timeout):
        await service.execute_query(connector, "rows 1")


async def test_the_servers_ceiling_cuts_a_longer_deadline(settings: Settings, toys: type[Toy]) -> None:
    async with ConnectorService(settings.model_copy(update={"max_timeout_s": 0.2})) as service:
        connector = await create(service, timeout_s=30.0)
        start = time.perf_counter()
        with pytest.raises(Timeout):
            await service.execute_query(connector, "sleep 5")
        assert time.perf_counter() - start < 0.4


async def test_the_longest_idle_session_makes_room_for_a_new_one(narrow: ConnectorService) -> None:
    one, two, three = [await create(narrow, name) for name in ("one", "two", "three")]
    for connector in (one, two, one, three):
        await narrow.execute_query(connector, "rows 1")
    await until(lambda: Toy.log["closed"] == 1)
    assert (await sessions_of(narrow)).open_count == 2
    await narrow.execute_query(one, "rows 1")
    assert Toy.log["opened"] == 3, "the one used last was kept"
    await narrow.execute_query(two, "rows 1")
    assert Toy.log["opened"] == 4, "the idlest was the one that went"


async def test_where_every_session_is_in_use_there_is_no_room(narrow: ConnectorService, gate: asyncio.Event) -> None:
    held = [await create(narrow, name) for name in ("one", "two")]
    calls = [asyncio.create_task(narrow.execute_query(connector, "hold")) for connector in held]
    await until(lambda: Toy.log["hold"] == 2)
    third = await create(narrow, "three")
    with pytest.raises(PoolBusy, match="every session"):
        await narrow.execute_query(third, "rows 1")
    gate.set()
    await asyncio.gather(*calls)
    assert (await narrow.execute_query(third, "rows 1"))["row_count"] == 1


async def test_one_dead_upstream_does_not_hold_the_others_up(service: ConnectorService) -> None:
    dead, fine = await create(service, "dead", open_s=30.0, timeout_s=1.0), await create(service, "fine")
    calls = [asyncio.create_task(service.execute_query(dead, "rows 1")) for _ in range(50)]
    await asyncio.sleep(0.05)
    start = time.perf_counter()
    for _ in range(10):
        await service.execute_query(fine, "rows 1")
    assert time.perf_counter() - start < 0.5
    errors = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(error) for error in errors} <= {Timeout, PoolBusy}


# -- closing ------------------------------------------------------------------------------------


async def test_an_idle_session_is_closed_and_a_used_one_is_kept(settings: Settings, toys: type[Toy]) -> None:
    async with ConnectorService(settings.model_copy(update={"session_idle_s": 0.2})) as service:
        idle, used = await create(service, "idle"), await create(service, "used")
        await service.execute_query(idle, "rows 1")
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            await service.execute_query(used, "rows 1")
            await asyncio.sleep(0.02)
        assert (Toy.log["opened"], Toy.log["closed"]) == (2, 1)
        await until(lambda: Toy.log["closed"] == 2)
        await service.execute_query(idle, "rows 1")
        assert Toy.log["opened"] == 3
        await until(lambda: Toy.log["closed"] == 3)


async def test_a_running_operation_is_never_idle(settings: Settings, toys: type[Toy]) -> None:
    async with ConnectorService(settings.model_copy(update={"session_idle_s": 0.05})) as service:
        connector = await create(service)
        assert (await service.execute_query(connector, "sleep 0.3"))["row_count"] == 1


async def test_closing_leaves_nothing_open_and_nothing_running(settings: Settings, toys: type[Toy]) -> None:
    before = asyncio.all_tasks()
    service = ConnectorService(settings)
    for name in ("one", "two", "three"):
        await service.execute_query(await create(service, name), "rows 1")
    await create(service, "never used")
    await service.close()
    await asyncio.sleep(0)
    assert (Toy.log["opened"], Toy.log["closed"]) == (3, 3)
    assert not Toy.live
    assert asyncio.all_tasks() == before


async def test_closing_does_not_wait_for_what_runs_nor_for_what_opens(settings: Settings, toys: type[Toy]) -> None:
    toys.gate = asyncio.Event()
    service = ConnectorService(settings)
    held, opening = await create(service, "held"), await create(service, "opening", open_s=30.0)
    calls = [asyncio.create_task(service.execute_query(connector, "hold")) for connector in (held, opening)]
    await until(lambda: Toy.log["hold"] == 1 and Toy.log["opening"] == 2)
    async with asyncio.timeout(2):
        await service.close()
    assert not Toy.live
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


async def test_closing_closes_an_outdated_session_that_is_still_in_use(settings: Settings, toys: type[Toy]) -> None:
    toys.gate = asyncio.Event()
    service = ConnectorService(settings)
    connector = await create(service)
    call = asyncio.create_task(service.execute_query(connector, "hold"))
    await until(lambda: Toy.log["hold"] == 1)
    await service.update(connector, {"config": {"database": "new"}})
    await service.close()
    assert not Toy.live
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)


async def test_a_closed_service_opens_again_on_the_next_call(service: ConnectorService) -> None:
    connector = await create(service)
    await service.execute_query(connector, "rows 1")
    await service.close()
    assert (await service.execute_query(connector, "rows 1"))["row_count"] == 1
    assert Toy.log["opened"] == 2


async def test_a_session_whose_closing_fails_does_not_stop_the_others() -> None:
    closed: list[str] = []

    async def opener(stack: AsyncExitStack) -> Any:
        stack.callback(closed.append, "closed")
        if not closed:
            stack.push_async_callback(_explode)
        return object()

    async def _explode() -> None:
        raise OSError("gone")

    sessions = Sessions(max_sessions=9, max_waiters=9, idle_s=9)
    for number in range(3):
        async with sessions.lease(SessionKey(str(number), 1, ""), 1, opener):
            pass
    await sessions.close()
    assert closed == ["closed"] * 3


async def test_a_slow_reader_that_stops_gives_its_session_back(service: ConnectorService) -> None:
    connector = await create(service, pool_size=1, max_rows=100_000_000, max_bytes=1 << 40)
    planned = service.plan_query(await service.target(connector), "endless", None)
    parts = service.stream(planned)
    await anext(parts)
    await parts.aclose()
    assert (await service.execute_query(connector, "rows 1"))["row_count"] == 1
