"""The service as a script meets it: nothing set up before, nothing left behind, and a key that is never lost quietly."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import pytest
from sqlalchemy import select
from tests import poison, toy
from tests.servers import Postgres

from studio.errors import EgressDenied, EncryptionError
from studio.security.vault import Vault, new_key
from studio.services.connector_service import ConnectorService
from studio.services.core import NotReady
from studio.services.master_keys import KEY_FILE
from studio.settings import Settings
from studio.store.tables import connectors, key_canaries

BEGIN = "import asyncio\nfrom studio.services.connector_service import ConnectorService\n"


def script(text: str, *, before: str = "") -> str:
    body = indent(dedent(text), "    ")
    return f"{BEGIN}{before}\nasync def main():\n    service = ConnectorService()\n{body}\nasyncio.run(main())\n"


def started(folder: Path, text: str, **environment: str) -> subprocess.Popen[str]:
    """Run a script the strict way: development mode, every warning an error."""
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", text]
    known = poison.program(folder, **environment)
    return subprocess.Popen(command, env=known, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit status, output, and what was said on stderr but for the loop's remarks about a slow machine."""
    output, said = process.communicate(timeout=60)
    kept = [line for line in said.splitlines() if not line.startswith("Executing <")]
    return process.returncode, output, "\n".join(kept)


def ran(folder: Path, text: str, **environment: str) -> str:
    status, output, said = ended(started(folder, text, **environment))
    assert (status, said) == (0, "")
    return output


# -- plain scripts ------------------------------------------------------------------------------

DOCUMENT = script(
    """
    org_id, user_id = "acme", "user-1"
    # Create connector
    connector = await service.create({
        "organization_id": org_id,
        "name": "My Database",
        "connector_type": "database",
        "provider": "postgresql",
        "config": CONFIG,
        "created_by": user_id,
    })

    # Test connection
    result = await service.test_connection(connector["id"])
    assert result["success"] is True, result
    assert result["message"] == "Connection successful"
    assert result["latency_ms"] > 0

    # Attach to agent
    instance = await service.attach_to_agent(
        connector_id=connector["id"],
        agent_id="agent-123",
        alias="db"
    )

    # List agent connectors
    connectors = await service.list_agent_connectors("agent-123")
    assert [c["id"] for c in connectors] == [instance["id"]]

    # Execute query (when agent runs)
    result = await service.execute_query(
        connector_id=connector["id"],
        query="SELECT * FROM users WHERE id = :id",
        params={"id": 123}
    )
    print(result["data"])
    """,
    before="import json, os\nCONFIG = json.loads(os.environ.pop('CONFIG'))",
)


@pytest.fixture
async def users(postgres: Postgres, database: str) -> dict[str, Any]:
    admin = await postgres.admin(database)
    await admin.execute("CREATE TABLE users (id int, name text); INSERT INTO users VALUES (123, 'Ada'), (124, 'Bob')")
    await admin.close()
    return postgres.config(database=database)


async def test_the_documents_sample_runs_as_it_stands_and_ends_without_a_word(
    users: dict[str, Any], tmp_path: Path
) -> None:
    import json

    output = await asyncio.to_thread(ran, tmp_path, DOCUMENT, CONFIG=json.dumps(users))
    assert output == "[{'id': 123, 'name': 'Ada'}]\n"


CREATE = """
connector = await service.create({
    "organization_id": "acme", "name": NAME, "connector_type": "database", "provider": "sqlite",
    "config": {"path": f"{NAME}.db", "create": True, "read_only": False},
})
"""
RUN = (
    CREATE
    + 'result = await service.execute("execute", {"query": "CREATE TABLE t (a)"}, connector_id=connector["id"])\n'
)


@pytest.mark.parametrize(
    ("text", "output"),
    [
        pytest.param(RUN + "print('done')", "done\n", id="left open"),
        pytest.param(RUN + "await service.close(); await service.close(); print('done')", "done\n", id="closed twice"),
        pytest.param(
            RUN + "async with service:\n    print((await service.get(connector['id']))['name'])", "one\n", id="with"
        ),
        pytest.param(
            RUN
            + dedent("""
            task = asyncio.create_task(service.execute_query(connector["id"], SLOW))
            await asyncio.sleep(0.3)
            print("left")
            """),
            "left\n",
            id="left running",
        ),
        pytest.param("print('nothing')", "nothing\n", id="never used"),
        pytest.param(
            "task = asyncio.create_task(service.list())\nawait asyncio.sleep(0)\nprint('left')",
            "left\n",
            id="left opening",
        ),
    ],
)
def test_a_script_ends_without_a_word_however_it_leaves_the_service(text: str, output: str, tmp_path: Path) -> None:
    slow = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) FROM c"
    assert ran(tmp_path, script(text, before=f"NAME = 'one'; SLOW = {slow!r}\n")) == output


def test_one_service_may_be_used_by_several_loops_in_turn(tmp_path: Path) -> None:
    text = f"{BEGIN}service = ConnectorService()\nfor _ in range(3):\n    print(asyncio.run(service.list())['total'])\n"
    assert ran(tmp_path, text) == "0\n0\n0\n"


def test_a_script_that_fails_shows_its_own_error_and_nothing_else(tmp_path: Path) -> None:
    status, _, said = ended(started(tmp_path, script(CREATE + "raise SystemExit(7)", before="NAME = 'one'")))
    assert (status, said) == (7, "")


# -- the key ------------------------------------------------------------------------------------


async def opened(settings: Settings) -> str:
    """Start and end a service; the id of its key."""
    async with ConnectorService(settings) as service:
        core = await service._home.core()
        return core.configs._vault.key_id


async def test_the_key_file_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        settings = Settings(data_dir=tmp_path / "data")
        first = await opened(settings)
    finally:
        os.umask(before)
    path = tmp_path / "data" / KEY_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    text = path.read_text()
    assert await opened(settings) == first
    assert path.read_text() == text
    assert [entry.name for entry in path.parent.iterdir() if KEY_FILE in entry.name] == [KEY_FILE]


async def test_what_a_crashed_start_left_behind_does_not_stop_the_next_one(tmp_path: Path) -> None:
    """In a container every start has the same process id."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / f".{KEY_FILE}.{os.getpid()}").write_text("half a k")
    assert await opened(Settings(data_dir=folder))


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660, 0o604])
async def test_a_key_file_that_others_can_read_stops_the_start(settings: Settings, mode: int) -> None:
    (settings.data_dir / KEY_FILE).chmod(mode)
    with pytest.raises(EncryptionError, match="chmod 600"):
        await opened(settings)


@pytest.mark.parametrize("text", ["", "\n", "changeme", new_key()[:-4], "é"])
async def test_a_key_file_that_holds_no_key_stops_the_start(settings: Settings, text: str) -> None:
    (settings.data_dir / KEY_FILE).write_text(text)
    with pytest.raises(EncryptionError):
        await opened(settings)


def contents(settings: Settings) -> list[bytes]:
    return [path.read_bytes() for path in sorted(settings.data_dir.glob("studio.db"))]


@pytest.mark.parametrize("how", ["file", "setting"])
async def test_a_wrong_key_stops_the_start_and_writes_nothing(settings: Settings, how: str) -> None:
    before = contents(settings)
    if how == "file":
        (settings.data_dir / KEY_FILE).write_text(new_key())
    else:
        settings = Settings(data_dir=settings.data_dir, encryption_keys=new_key())
    with pytest.raises(EncryptionError, match="is not configured"):
        await opened(settings)
    assert contents(settings) == before


async def test_a_lost_key_file_stops_the_start_and_no_new_one_is_made(settings: Settings) -> None:
    (settings.data_dir / KEY_FILE).unlink()
    before = contents(settings)
    with pytest.raises(EncryptionError, match="put the key back"):
        await opened(settings)
    assert not (settings.data_dir / KEY_FILE).exists()
    assert contents(settings) == before


async def test_a_newer_key_in_front_writes_and_the_older_one_still_reads(settings: Settings, toys: Any) -> None:
    old = (settings.data_dir / KEY_FILE).read_text().strip()
    async with ConnectorService(settings) as service:
        made = await service.create({**toy.body(), "organization_id": "acme"})
    new = new_key()
    both = Settings(data_dir=settings.data_dir, encryption_keys=f"{new}, {old}")
    async with ConnectorService(both) as service:
        assert (await service.get(made["id"]))["secrets_set"] == ["login.token", "password"]
        await service.update(made["id"], {"name": "again"})
        core = await service._home.core()
        rows = await core.database.read(lambda c: c.execute(select(connectors.c.key_id)).scalars().all())
        known = await core.database.read(lambda c: c.execute(select(key_canaries.c.key_id)).scalars().all())
    assert rows == [Vault([new]).key_id]
    assert set(known) == {Vault([new]).key_id, Vault([old]).key_id}
    with pytest.raises(EncryptionError):
        await opened(Settings(data_dir=settings.data_dir, encryption_keys=new))


def test_processes_that_start_together_on_an_empty_folder_end_with_one_key(tmp_path: Path) -> None:
    text = CREATE + "print((await service.get(connector['id']))['name'])"
    processes = [started(tmp_path, script(text, before=f"NAME = 'p{number}'")) for number in range(4)]
    answers = [ended(process) for process in processes]
    assert answers == [(0, f"p{number}\n", "") for number in range(4)]
    names = ran(tmp_path, script("for found in (await service.list())['records']: print(found['name'])"))
    assert sorted(names.split()) == ["p0", "p1", "p2", "p3"]
    assert len((tmp_path / "data" / KEY_FILE).read_text().split()) == 1


# -- starting -----------------------------------------------------------------------------------


async def test_many_first_calls_at_once_open_one_store(tmp_path: Path) -> None:
    service = ConnectorService(Settings(data_dir=tmp_path / "data"))
    answers = await asyncio.gather(*(service.list() for _ in range(50)))
    assert {answer["total"] for answer in answers} == {0}
    await service.close()


async def test_a_start_that_failed_is_tried_again_by_the_next_call(settings: Settings) -> None:
    key = settings.data_dir / KEY_FILE
    text = key.read_text()
    key.unlink()
    service = ConnectorService(settings)
    for _ in range(2):
        with pytest.raises(EncryptionError):
            await service.list()
    key.write_text(text)
    key.chmod(0o600)
    assert (await service.list())["total"] == 0
    await service.close()


async def test_a_first_caller_that_gives_up_does_not_spoil_the_start(tmp_path: Path) -> None:
    service = ConnectorService(Settings(data_dir=tmp_path / "data"))
    first = asyncio.create_task(service.list())
    await asyncio.sleep(0)
    first.cancel()
    assert (await service.list())["total"] == 0
    await service.close()


async def test_closing_at_the_same_time_from_two_places_is_fine(settings: Settings) -> None:
    service = ConnectorService(settings)
    await service.list()
    await asyncio.gather(service.close(), service.close())


@pytest.mark.parametrize("url", ["mysql://u:c4n4ry@h/d", "nonsense-c4n4ry", "oracle://h"])
async def test_a_store_of_another_kind_is_refused_without_its_url(tmp_path: Path, url: str) -> None:
    with pytest.raises(NotReady, match="STUDIO_DATABASE_URL") as caught:
        await opened(Settings(data_dir=tmp_path, database_url=url))
    assert "c4n4ry" not in str(caught.value)


async def test_a_server_store_that_was_never_upgraded_says_what_to_run(
    postgres: Postgres, database: str, tmp_path: Path
) -> None:
    url = f"postgresql+asyncpg://{postgres.user}:{postgres.password}@{postgres.host}:{postgres.port}/{database}"
    with pytest.raises(NotReady, match="studio db upgrade"):
        await opened(Settings(data_dir=tmp_path, database_url=url))
    assert not (tmp_path / KEY_FILE).exists()


async def test_the_services_own_listener_and_store_are_never_dialled(tmp_path: Path) -> None:
    """Attack 2. Loopback is open here, and these two ports are not."""
    async with ConnectorService(Settings(data_dir=tmp_path, port=8765)) as service:
        egress = (await service._home.core()).egress
        egress.permit("127.0.0.1", 8766)
        for address in ("127.0.0.1", "::ffff:127.0.0.1"):
            with pytest.raises(EgressDenied, match="own store or listener"):
                egress.permit(address, 8765)


async def test_the_private_ranges_close_where_others_can_reach_the_service(tmp_path: Path) -> None:
    async with ConnectorService(Settings(data_dir=tmp_path, host="0.0.0.0", port=8765)) as service:
        egress = (await service._home.core()).egress
        for address in ("127.0.0.1", "10.0.0.1"):
            with pytest.raises(EgressDenied, match="STUDIO_EGRESS_ALLOW"):
                egress.permit(address, 5432)
