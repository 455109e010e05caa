"""What the audit log says of what was done through the service: every change, every call, every refusal."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import Connection, select
from tests import toy

from studio.errors import Forbidden, InvalidRequest, NotFound, ReadOnly, StudioError, UpstreamError
from studio.models import Principal, Role
from studio.services import recorder as recording
from studio.services.audit import prune_store, verify_store
from studio.services.connector_service import ConnectorService
from studio.services.recorder import REFUSALS, Unrecorded
from studio.settings import Settings
from studio.store.tables import audit_log

ADMIN = Principal("acme", "key:admin", Role.ADMIN)
MEMBER = Principal("acme", "key:member", Role.MEMBER)
SAVE = {"name": "one", "description": "One row.", "query": "rows 1"}


@pytest.fixture
def admin(service: ConnectorService) -> ConnectorService:
    return service.acting_as(ADMIN)


async def made(admin: ConnectorService, name: str = "toy", **config: Any) -> str:
    return str((await admin.create(toy.body(name, **config)))["id"])


async def rows(admin: ConnectorService, **filters: str) -> list[dict[str, Any]]:
    """Oldest first, without those that are about processes."""
    found = (await admin.list_audit(filters=filters, limit=1000, oldest_first=True))["records"]
    return [row for row in found if not row["event"].startswith("writer.")]


# -- changes ------------------------------------------------------------------------------------

Change = Callable[[ConnectorService, dict[str, str]], Awaitable[Any]]
CHANGES: dict[str, tuple[Change, str]] = {
    "create": (lambda s, ids: s.create(toy.body("second")), "connector.create"),
    "update": (lambda s, ids: s.update(ids["connector"], {"name": "other"}), "connector.update"),
    "delete": (lambda s, ids: s.delete(ids["connector"]), "connector.delete"),
    "test_connection": (lambda s, ids: s.test_connection(ids["connector"]), "connector.test"),
    "test_config": (
        lambda s, ids: s.test_config({key: value for key, value in toy.body().items() if key != "name"}),
        "config.test",
    ),
    "attach": (lambda s, ids: s.attach(ids["connector"], {"agent_id": "a", "alias": "b"}), "connector.attach"),
    "attach_to_agent": (lambda s, ids: s.attach_to_agent(ids["connector"], "a", "b"), "connector.attach"),
    "detach_from_agent": (lambda s, ids: s.detach_from_agent(ids["instance"]), "connector.detach"),
    "create_key": (lambda s, ids: s.create_key({"role": "member"}), "key.create"),
    "narrow_key": (lambda s, ids: s.narrow_key(ids["key"], {"role": "member"}), "key.narrow"),
    "revoke_key": (lambda s, ids: s.revoke_key(ids["key"]), "key.revoke"),
    "create_saved_operation": (
        lambda s, ids: s.create_saved_operation(ids["connector"], {**SAVE, "name": "two"}),
        "saved_operation.create",
    ),
    "delete_saved_operation": (
        lambda s, ids: s.delete_saved_operation(ids["connector"], "one"),
        "saved_operation.delete",
    ),
    "rotate": (
        lambda s, ids: s.rotate(ids["connector"], {"config": {"password": "another-one"}}),
        "connector.rotate",
    ),
    "set_health": (lambda s, ids: s.set_health(ids["connector"], {"interval_s": 30}), "connector.health.set"),
}
"""Every use case that changes something, and the event that stands for it."""
RUNS = {"execute", "execute_query", "run", "stream", "stream_query", "upload", "download"}
ASKS = {
    "types", "describe_type", "get", "list", "preview_delete", "preview_update", "preview_rotate", "list_instances", "list_agent_connectors", "operations",
    "list_saved_operations", "list_keys", "health", "test_alerts", "watch", "list_audit", "verify_audit", "ready", "target", "plan", "plan_query",
    "acting_as", "authenticate", "principal", "close", "metrics", "create_first_key", "repeatable",
}  # fmt: skip
"""Those that change nothing. `create_first_key` has a test of its own."""


def test_every_use_case_is_known_to_change_something_or_not() -> None:
    public = {name for name in dir(ConnectorService) if not name.startswith("_")}
    assert public == set(CHANGES) | RUNS | ASKS, "say here which event a new use case leaves"


@pytest.mark.parametrize("name", CHANGES)
async def test_a_change_leaves_a_row_that_says_who(admin: ConnectorService, name: str) -> None:
    connector = await made(admin)
    await admin.create_saved_operation(connector, SAVE)
    ids = {
        "connector": connector,
        "instance": (await admin.attach_to_agent(connector, "agent-1", "db"))["id"],
        "key": (await admin.create_key({"role": "member"}))["id"],
    }
    before = len(await rows(admin))
    change, event = CHANGES[name]
    await change(admin, ids)
    new = (await rows(admin))[before:]
    assert [(row["event"], row["subject"], row["verdict"]) for row in new] == [(event, "key:admin", "ok")]
    assert (await admin.verify_audit())["ok"]


@pytest.mark.parametrize("name", CHANGES)
async def test_a_refused_change_leaves_a_row_too(admin: ConnectorService, name: str) -> None:
    connector = await made(admin)
    await admin.create_saved_operation(connector, SAVE)
    ids = {
        "connector": connector,
        "instance": (await admin.attach_to_agent(connector, "agent-1", "db"))["id"],
        "key": (await admin.create_key({"role": "member"}))["id"],
    }
    change, event = CHANGES[name]
    with pytest.raises(Forbidden):
        await change(admin.acting_as(MEMBER), ids)
    (row,) = await rows(admin, verdict="refused")
    assert (row["event"], row["subject"], row["code"]) == (event, "key:member", "forbidden")


def test_every_method_of_the_store_that_writes_takes_an_entry() -> None:
    """`Database.write` is called by the audit log, and by these, each for a reason; whatever else changes goes
    through `AuditLog.write`, which cannot be called without an entry."""
    from tests.test_architecture import trees

    allowed = {
        "store/audit.py": 2,  # with a row, and the rows of executions
        "store/audit_check.py": 1,  # pruning, which appends its row itself
        "store/keys.py": 3,  # when a key was last used; canaries; the log's own key
        "store/rotations.py": 1,  # sets whose grace is over
        "store/health.py": 1,  # what a probe found is nobody's doing
        "store/probe_queue.py": 2,  # who probes what, and old history
        "store/alerts.py": 3,  # the outbox
        "store/repeats.py": 2,  # answers that are kept to be given again
        "services/repeats.py": 1,
        "store/migrations/__init__.py": 1,
    }
    import ast

    calls: dict[str, int] = {}
    for path, tree in trees():
        if path.parts[0] in {"store", "services"}:
            for node in ast.walk(tree):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "write":
                    owner = ast.unparse(node.func.value)
                    if owner.endswith("database"):
                        calls[str(path)] = calls.get(str(path), 0) + 1
    assert calls == allowed
    parameters = inspect.signature(__import__("studio.store.audit", fromlist=["x"]).AuditLog.write).parameters
    assert parameters["entry"].default is inspect.Parameter.empty


async def test_the_first_key_leaves_a_row(service: ConnectorService) -> None:
    await service.create_first_key("acme")
    assert [row["event"] for row in await rows(service.acting_as(ADMIN))] == ["key.create"]


async def test_an_update_names_the_fields_and_no_value(admin: ConnectorService) -> None:
    connector = await made(admin)
    await admin.update(connector, {"name": "n", "config": {"max_rows": 5, "prefix": "canary-value"}})
    (row,) = await rows(admin, event="connector.update")
    assert row["details"] == {"fields": ["config.max_rows", "config.prefix", "name"], "version": 2}
    assert "canary-value" not in json.dumps(row)


async def test_a_failed_test_says_with_which_code(admin: ConnectorService) -> None:
    connector = await made(admin, password="wrong")
    await admin.test_connection(connector)
    (row,) = await rows(admin, event="connector.test")
    assert (row["verdict"], row["code"]) == ("failed", "auth_failed")


# -- executions ---------------------------------------------------------------------------------


async def attached(admin: ConnectorService, **config: Any) -> dict[str, str]:
    await admin.attach_to_agent(await made(admin, **config), "agent-1", "db")
    return {"agent_id": "agent-1", "alias": "db"}


async def test_a_read_leaves_one_row(admin: ConnectorService) -> None:
    where = await attached(admin)
    await admin.execute_query(query="rows 3", **where)
    (row,) = await rows(admin, event="execute")
    assert (row["operation"], row["effect"], row["verdict"], row["rows"]) == ("query", "read", "ok", 3)
    assert (row["agent_id"], row["alias"], row["subject"]) == ("agent-1", "db", "key:admin")
    assert row["bytes"] > 10
    assert 0 < row["latency_ms"] < 60_000
    assert len(row["digest"]) == 32


async def test_an_effect_is_noted_before_and_after(admin: ConnectorService) -> None:
    where = await attached(admin, read_only=False)
    await admin.execute("put", {"key": "k", "value": 1}, **where)
    begun, ended = await rows(admin, event="execute")
    assert (begun["verdict"], ended["verdict"], ended["effect"]) == ("started", "ok", "write")
    assert begun["request_id"] == ended["request_id"]
    assert (await admin.verify_audit())["unfinished"] == []


async def test_an_effect_stands_in_the_store_before_it_is_sent(
    admin: ConnectorService, toys: type[toy.Toy], monkeypatch: pytest.MonkeyPatch
) -> None:
    where = await attached(admin, read_only=False)
    core = await admin._home.core()
    seen: list[Any] = []

    async def put(self: Any, key: str, value: Any = None) -> dict[str, Any]:
        def work(connection: Connection) -> list[Any]:
            return list(connection.execute(select(audit_log.c.verdict).where(audit_log.c.operation == "put")))

        seen.extend(await core.database.read(work))
        return {}

    from dataclasses import replace

    monkeypatch.setitem(toys.operations, "put", replace(toys.operations["put"], method=put))  # type: ignore[index]
    target = await admin.target(operation="put", **where)
    planned = replace(admin.plan(target, "put", {"key": "k"}), operation=toys.operations["put"])
    await admin.run(planned)
    assert seen == [("started",)]


@pytest.mark.parametrize(
    ("query", "verdict", "code"), [("broken", "failed", "upstream_error"), ("defect", "failed", "internal")]
)
async def test_a_failure_leaves_its_code(admin: ConnectorService, query: str, verdict: str, code: str) -> None:
    where = await attached(admin)
    with pytest.raises(StudioError):
        await admin.execute_query(query=query, **where)
    (row,) = await rows(admin, event="execute")
    assert (row["verdict"], row["code"]) == (verdict, code)


async def test_a_cancelled_call_leaves_a_row(admin: ConnectorService, toys: type[toy.Toy]) -> None:
    where = await attached(admin)
    toys.gate = asyncio.Event()
    running = asyncio.create_task(admin.execute_query(query="hold", **where))
    while not toys.log["hold"]:
        assert not running.done()
        await asyncio.sleep(0.005)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    (row,) = await rows(admin, event="execute")
    assert row["verdict"] == "cancelled"


async def test_a_stream_counts_what_went_by(admin: ConnectorService) -> None:
    where = await attached(admin)
    planned = admin.plan_query(await admin.target(**where), "rows 250", None)
    async for _ in admin.stream(planned):
        pass
    (row,) = await rows(admin, event="execute")
    assert (row["verdict"], row["rows"]) == ("ok", 250)
    assert row["bytes"] > 2500


async def test_refusals_of_calls_leave_rows(admin: ConnectorService) -> None:
    where = await attached(admin)
    agent = admin.acting_as(Principal("acme", "key:agent", Role.MEMBER, agent_id="agent-1"))
    refused: list[tuple[type[StudioError], Awaitable[Any]]] = [
        (ReadOnly, agent.execute("put", {"key": "k"}, **where)),
        (NotFound, agent.execute_query(agent_id="agent-1", alias="nowhere", query="x")),
        (Forbidden, agent.execute_query(agent_id="agent-2", alias="db", query="x")),
        (InvalidRequest, agent.execute("query", {"nonsense": 1}, **where)),
        (StudioError, agent.execute("c4n4ry-as-an-operation", {}, **where)),
        (NotFound, agent.execute_query(agent_id="agent-1", alias="c4n4ry with spaces", query="x")),
    ]
    for error, call in refused:
        with pytest.raises(error):
            await call
    found = await rows(admin, subject="key:agent")
    assert [row["code"] for row in found] == [
        "read_only", "not_found", "forbidden", "invalid_request", "operation_not_supported", "not_found",
    ]  # fmt: skip
    assert {row["verdict"] for row in found} == {"refused"}
    assert "c4n4ry" not in json.dumps(found), "what nobody declared may hold anything"


async def test_a_flood_of_refusals_becomes_few_rows_that_count_them_all(admin: ConnectorService) -> None:
    connector = await made(admin)
    member = admin.acting_as(MEMBER)
    for _ in range(500):
        with pytest.raises(Forbidden):
            await member.delete(connector)
    found = await rows(admin, subject="key:member")
    assert len(found) == REFUSALS + 1
    assert sum(row["count"] for row in found) == 500


async def test_no_value_stands_in_a_row(admin: ConnectorService) -> None:
    where = await attached(admin, read_only=False)
    await admin.execute_query(query="rows 1", params={"a": "c4n4ry-param"}, **where)
    await admin.execute("put", {"key": "c4n4ry-key", "value": {"deep": "c4n4ry-value"}}, **where)
    await admin.execute("secrets", **where)
    with pytest.raises(UpstreamError):
        await admin.execute_query(query="broken c4n4ry-text", **where)
    with pytest.raises(StudioError):
        await admin.create({**toy.body("c4n4ry-name"), "nonsense": "c4n4ry-field"})
    core = await admin._home.core()
    await core.recorder.flush()
    everything = repr(await core.database.read(lambda connection: connection.execute(select(audit_log)).all()))
    for canary in ("c4n4ry", "p4ssw0rd", "t0k3n", "db.example"):
        assert canary not in everything


# -- when the log cannot be written -------------------------------------------------------------


async def test_an_effect_is_refused_and_not_sent_while_the_log_is_shut(
    admin: ConnectorService, toys: type[toy.Toy], monkeypatch: pytest.MonkeyPatch
) -> None:
    where = await attached(admin, read_only=False)
    await admin.execute_query(query="rows 1", **where)
    core = await admin._home.core()
    whole = core.log.write_batch

    async def shut(_batch: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(core.log, "write_batch", shut)
    monkeypatch.setattr(recording, "_RETRY_S", 0.01)
    for _ in range(3):
        with pytest.raises(Unrecorded, match="nothing was sent"):
            await admin.execute("put", {"key": "k"}, **where)
    assert toys.log["put"] == 0
    await admin.execute_query(query="rows 1", **where)  # reads go on while there is room
    monkeypatch.setattr(recording, "CAPACITY", 1)
    with pytest.raises(Unrecorded):
        await admin.execute_query(query="rows 1", **where)
    monkeypatch.setattr(core.log, "write_batch", whole)
    monkeypatch.setattr(recording, "CAPACITY", 10_000)
    await admin.execute("put", {"key": "k"}, **where)
    assert toys.log["put"] == 1
    report = await admin.verify_audit()
    assert (report["ok"], report["unfinished"]) == (True, [])
    found = await rows(admin, event="execute")
    assert len([row for row in found if row["verdict"] == "ok"]) == 3, "nothing was lost"


async def test_an_effect_does_not_wait_for_the_log_past_its_deadline(
    admin: ConnectorService, toys: type[toy.Toy], monkeypatch: pytest.MonkeyPatch
) -> None:
    where = await attached(admin, read_only=False, timeout_s=0.2)
    core = await admin._home.core()
    whole = core.log.write_batch
    gate = asyncio.Event()

    async def slow(batch: Any) -> None:
        await gate.wait()
        await whole(batch)

    monkeypatch.setattr(core.log, "write_batch", slow)
    start = asyncio.get_running_loop().time()
    with pytest.raises(Unrecorded):
        await admin.execute("put", {"key": "k"}, **where)
    assert asyncio.get_running_loop().time() - start < 2
    gate.set()
    assert (await admin.verify_audit())["unfinished"] == []
    assert toys.log["put"] == 0


# -- reading it ---------------------------------------------------------------------------------


async def test_the_log_is_for_admins_of_its_organization(admin: ConnectorService) -> None:
    await made(admin)
    for principal in (
        MEMBER,
        Principal("acme", "key:d", Role.DEVELOPER),
        Principal("acme", "k", Role.ADMIN, "agent-1"),
    ):
        for ask in (admin.acting_as(principal).list_audit(), admin.acting_as(principal).verify_audit()):
            with pytest.raises(Forbidden):
                await ask
    stranger = admin.acting_as(Principal("beta", "key:b", Role.ADMIN))
    assert (await stranger.list_audit(organization_id="acme"))["records"] == []
    assert (await stranger.verify_audit(organization_id="acme"))["rows"] == 0


async def test_it_is_filtered_and_paged(admin: ConnectorService) -> None:
    where = await attached(admin)
    for number in range(7):
        await admin.execute_query(query=f"rows {number}", **where)
    seen: list[int] = []
    cursor = None
    while True:
        page = await admin.list_audit(filters={"event": "execute"}, limit=3, cursor=cursor)
        seen += [row["rows"] for row in page["records"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == [6, 5, 4, 3, 2, 1, 0]
    every = await rows(admin)
    for name in ("subject", "agent_id", "connector_id", "operation", "verdict", "event", "request_id"):
        value = every[-1][name]
        assert {row[name] for row in await rows(admin, **{name: value})} == {value}
    middle = every[4]["at"]
    assert [row["at"] for row in await rows(admin, since=middle)] == [row["at"] for row in every if row["at"] >= middle]
    assert all(row["at"] < middle for row in await rows(admin, until=middle))
    for filters in ({"verdict": "odd"}, {"since": "yesterday"}, {"nonsense": "x"}):
        with pytest.raises(InvalidRequest):
            await admin.list_audit(filters=filters)


async def test_a_process_closes_its_book(settings: Settings, toys: type[toy.Toy]) -> None:
    for _ in range(2):
        async with ConnectorService(settings) as service:
            where = await attached_once(service.acting_as(ADMIN))
            await service.acting_as(ADMIN).execute_query(query="rows 1", **where)
    report = await verified(settings)
    assert report["ok"]
    assert [book["processes"] for book in report["books"]] == [[], []]


async def attached_once(admin: ConnectorService) -> dict[str, str]:
    if (await admin.list())["total"] == 0:
        await attached(admin)
    return {"agent_id": "agent-1", "alias": "db"}


async def verified(settings: Settings) -> dict[str, Any]:
    steps = [step async for step in verify_store(settings)]
    assert steps[-1].done == steps[-1].total
    assert steps[-1].report is not None
    return steps[-1].report


async def test_rotation_of_the_master_key_keeps_the_chain(settings: Settings, toys: type[toy.Toy]) -> None:
    from studio.services import rotation
    from studio.services.master_keys import KEY_FILE

    async with ConnectorService(settings) as service:
        await made(service.acting_as(ADMIN))
    steps = [step async for step in rotation.rotate(settings)]
    assert steps[-1].left == 0
    keys = (settings.data_dir / KEY_FILE).read_text().split()
    (settings.data_dir / KEY_FILE).write_text(keys[0])
    report = await verified(settings)
    assert report["ok"]
    async with ConnectorService(settings) as service:
        found = (await service.list_audit(oldest_first=True))["records"]
    assert [row["event"] for row in found if row["event"].startswith("encryption")] == [
        "encryption.rotate", "encryption.rotate", "encryption.retire",
    ]  # fmt: skip


async def test_old_rows_are_pruned_and_a_broken_chain_is_not(settings: Settings, toys: type[toy.Toy]) -> None:
    from sqlalchemy import update

    async with ConnectorService(settings) as service:
        await made(service.acting_as(ADMIN))
        await made(service.acting_as(ADMIN), "second")
        core = await service._home.core()
        first = update(audit_log).where(audit_log.c.seq == 1, audit_log.c.organization_id == "acme")
        before = await core.database.read(
            lambda c: c.scalar(
                select(audit_log.c.subject).where(audit_log.c.seq == 1, audit_log.c.organization_id == "acme")
            )
        )
        await core.database.write(lambda connection: connection.execute(first.values(subject="other")))
        with pytest.raises(StudioError, match="not whole"):
            await prune_store(settings, "2999-01-01", organization_id="acme")
        await core.database.write(lambda connection: connection.execute(first.values(subject=before)))
    assert (await prune_store(settings, "2999-01-01", organization_id="acme"))["dropped"] == 2
    assert (await verified(settings))["ok"]
    with pytest.raises(InvalidRequest):
        await prune_store(settings, "soon", organization_id="acme")
