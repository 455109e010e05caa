"""The audit log over HTTP, through the client, and on the command line."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.surfaces.conftest import Server, Studio

from studio.client import RemoteService
from studio.errors import Forbidden, StudioError
from studio.services.recorder import Recorder

MAKE = ("connectors", "create", "--name", "Main", "--provider", "sqlite", "--set", "path=app.db")


def used(studio: Studio) -> None:
    assert studio(*MAKE).code == 0
    assert studio("connectors", "attach", "Main", "--agent", "agent-1", "--alias", "db").code == 0
    assert studio("query", "db", "SELECT count(*) FROM users", "--agent", "agent-1").code == 0
    assert studio("connectors", "delete", "nowhere").code != 0


def falsify(data_dir: Path) -> None:
    with closing(sqlite3.connect(data_dir / "studio.db")) as store:
        store.execute("UPDATE audit_log SET subject = 'other' WHERE organization_id = 'default' AND seq = 2")
        store.commit()


def test_the_command_line_lists_and_filters(studio: Studio) -> None:
    used(studio)
    page = studio("audit", "list", "--json").json
    events = [row["event"] for row in page["records"] if row["event"] != "key.create"]
    assert set(events) >= {"execute", "connector.attach", "connector.create"}
    (row,) = studio("audit", "list", "--event", "execute", "--json").json["records"]
    assert (row["operation"], row["agent_id"], row["rows"]) == ("query", "agent-1", 1)
    assert "SELECT" not in json.dumps(row)
    table = studio("audit", "list", "--agent", "agent-1", "--limit", 1)
    assert "there are older rows" in table.err
    assert "agent-1" in table.out
    assert studio("audit", "list", "--verdict", "odd").code == 2


def test_the_command_line_exports_every_row_and_says_how_it_ended(studio: Studio) -> None:
    used(studio)
    lines = [json.loads(line) for line in studio("audit", "export").out.splitlines()]
    assert lines[-1]["$result"] == {"success": True, "row_count": len(lines) - 1}
    assert [line["seq"] for line in lines[:-1]] == sorted(line["seq"] for line in lines[:-1])


def test_verify_says_whole_and_names_what_is_not(studio: Studio, data_dir: Path) -> None:
    used(studio)
    whole = studio("audit", "verify")
    assert (whole.code, whole.out.split(",")[0]) == (0, "default: whole")
    head = studio("audit", "verify", "--json").json["head"]
    assert studio("audit", "verify", "--head", head).code == 0
    falsify(data_dir)
    broken = studio("audit", "verify")
    assert broken.code == 5
    assert "NOT WHOLE" in broken.out
    assert "row 2: the row was changed" in broken.out


def test_every_book_of_the_store_is_verified_on_its_machine(embedded: Studio, data_dir: Path) -> None:
    used(embedded)
    embedded("connectors", "create", "--name", "M", "--provider", "sqlite", "--set", "path=a.db", "--organization", "b")
    report = embedded("audit", "verify", "--all", "--json").json
    assert report["ok"]
    assert [book["organization_id"] for book in report["books"]] == ["", "b", "default"]
    falsify(data_dir)
    assert embedded("audit", "verify", "--all").code == 5
    assert embedded("--url", "http://127.0.0.1:1", "audit", "verify", "--all").code == 2


def test_pruning_keeps_the_chain(embedded: Studio) -> None:
    used(embedded)
    before = embedded("audit", "verify", "--json").json["rows"]
    pruned = embedded("audit", "prune", "--before", "2999-01-01", "--json").json
    assert pruned["dropped"] == before
    after = embedded("audit", "verify", "--json").json
    assert (after["ok"], after["first"]) == (True, before + 1)
    assert embedded("audit", "prune", "--before", "soon").code == 2


def test_strict_also_fails_for_a_process_that_did_not_end_in_order(
    embedded: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as killed:
        killed.setattr("studio.services.recorder.Recorder.close", Recorder.flush)
        used(embedded)
    monkeypatch.setattr("studio.services.recorder.platform.node", lambda: "another")
    said = embedded("audit", "verify")
    assert (said.code, "its last reads may be missing" in said.out) == (0, True)
    assert embedded("audit", "verify", "--strict").code == 5


async def exported(server: Server, **query: str) -> list[dict[str, Any]]:
    headers = {"authorization": f"Bearer {server.key}", "accept": "application/x-ndjson"}
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{server.url}/api/v1/audit", headers=headers, params=query) as answer,
    ):
        assert answer.status == 200
        assert answer.content_type == "application/x-ndjson"
        return [json.loads(line) for line in (await answer.text()).splitlines()]


async def test_http_exports_as_ndjson_in_pages_of_its_own(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("studio.api.audit._PAGE", 3)
    async with RemoteService(server.url, server.key) as remote:
        for number in range(8):
            await remote.create_key({"role": "member", "name": f"k{number}"})
    lines = await exported(server)
    assert [line["seq"] for line in lines[:-1]] == list(range(1, 10))
    assert lines[-1] == {"$result": {"success": True, "row_count": 9}}
    assert (await exported(server, verdict="failed"))[-1]["$result"]["row_count"] == 0


async def test_an_export_that_breaks_off_says_so(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    from studio.services.connector_service import ConnectorService

    monkeypatch.setattr("studio.api.audit._PAGE", 1)
    whole = ConnectorService.list_audit
    calls = []

    async def broken(self: Any, **more: Any) -> Any:
        calls.append(more)
        if len(calls) == 3:
            raise Forbidden("no more")
        return await whole(self, **more)

    async with RemoteService(server.url, server.key) as remote:
        for _ in range(3):
            await remote.create_key({"role": "member"})
    monkeypatch.setattr(ConnectorService, "list_audit", broken)
    end = (await exported(server))[-1]["$result"]
    assert (end["success"], end["row_count"], end["code"]) == (False, 2, "forbidden")


async def test_the_id_of_a_refused_request_leads_to_its_row(server: Server) -> None:
    async with RemoteService(server.url, server.key) as remote:
        member = await remote.create_key({"role": "member"})
        async with RemoteService(server.url, member["key"]) as reader:
            with pytest.raises(StudioError) as caught:
                await reader.list_keys()
        (note,) = caught.value.__notes__
        page = await remote.list_audit(filters={"request_id": note.removeprefix("request id ")})
    (row,) = page["records"]
    assert (row["event"], row["code"], row["subject"]) == ("key.list", "forbidden", f"key:{member['id']}")
