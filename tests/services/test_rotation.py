"""Rotation of the master key: whole, beside writers, and killed at any point."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from studio.errors import EncryptionError
from studio.models import Sealed
from studio.security.vault import Place, Vault, new_key
from studio.services import rotation
from studio.services.connector_service import ConnectorService
from studio.services.master_keys import KEY_FILE
from studio.services.upkeep import encryption_status
from studio.settings import Settings


async def filled(settings: Settings, count: int) -> list[str]:
    async with ConnectorService(settings) as service:
        ids = []
        for number in range(count):
            made = await service.create(
                {
                    "organization_id": f"org-{number % 3}",
                    "name": f"c{number}",
                    "connector_type": "database",
                    "provider": "sqlite",
                    "config": {"path": f"{number}.db"},
                }
            )
            await service.attach_to_agent(made["id"], "agent-1", f"a{number}", {"max_rows": 5})
            ids.append(made["id"])
        return ids


async def rotated(settings: Settings) -> rotation.Progress:
    last: rotation.Progress | None = None
    async for step in rotation.rotate(settings):
        last = step
    assert last is not None
    return last


async def check_all_open(settings: Settings, ids: list[str]) -> None:
    async with ConnectorService(settings) as service:
        for connector_id in ids:
            assert (await service.get(connector_id))["config"]["path"].endswith(".db")
        assert len(await service.list_agent_connectors("agent-1")) == len(ids)


async def test_a_key_file_gets_a_new_key_and_every_row_moves_to_it(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    ids = await filled(settings, 7)
    before = (tmp_path / KEY_FILE).read_text().split()
    done = await rotated(settings)
    after = (tmp_path / KEY_FILE).read_text().split()
    assert (done.done, done.left, done.failed) == (15, 0, ())
    assert after[1:] == before
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert {key["key_id"]: key["rows"] for key in (await encryption_status(settings))["keys"]}[done.key_id] == 15
    (tmp_path / KEY_FILE).write_text(after[0])  # the old key is not needed any more
    await check_all_open(settings, ids)


async def test_keys_from_the_settings_rotate_to_the_first(tmp_path: Path) -> None:
    old, new = new_key(), new_key()
    ids = await filled(Settings(data_dir=tmp_path, encryption_keys=old), 3)
    done = await rotated(Settings(data_dir=tmp_path, encryption_keys=f"{new},{old}"))
    assert (done.done, done.left) == (7, 0)
    await check_all_open(Settings(data_dir=tmp_path, encryption_keys=new), ids)
    with pytest.raises(EncryptionError):
        await check_all_open(Settings(data_dir=tmp_path, encryption_keys=old), ids)


async def test_an_old_key_that_rows_still_use_cannot_be_left_out(tmp_path: Path) -> None:
    old, new = new_key(), new_key()
    await filled(Settings(data_dir=tmp_path, encryption_keys=old), 1)
    with pytest.raises(EncryptionError):
        await rotated(Settings(data_dir=tmp_path, encryption_keys=new))


async def test_a_running_service_follows_and_goes_on_writing(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    ids = await filled(settings, 20)
    async with ConnectorService(settings) as running:

        async def use() -> int:
            for turn in range(40):
                await running.update(ids[turn % 20], {"config": {"max_rows": turn + 1}})
                await running.get(ids[(turn * 7) % 20])
                await asyncio.sleep(0)
            return 40

        used, first = await asyncio.gather(use(), rotated(settings))
        assert used == 40
        # What the running service sealed by the old key in the meantime is found by the next run.
        last = first if first.left == 0 else await rotated(settings)
        assert last.left == 0
        for connector_id in ids:
            assert (await running.get(connector_id))["config"]["path"]


SCRIPT = """
import asyncio, sys
from pathlib import Path
from studio.services import rotation
from studio.settings import Settings
rotation.BATCH = 2
async def main():
    async for step in rotation.rotate(Settings(data_dir=Path(sys.argv[1]))):
        print(step.done, step.total, step.left, flush=True)
asyncio.run(main())
"""


def started(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


async def test_a_rotation_killed_again_and_again_ends_with_no_row_lost(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    ids = await filled(settings, 40)
    killed = 0
    for steps in (1, 2, 3, 4, 5, 6):
        process = started(tmp_path)
        assert process.stdout is not None
        for _ in range(steps):
            line = await asyncio.to_thread(process.stdout.readline)
            assert line, "the rotation ended before it was killed"
        await asyncio.sleep(0.001 * steps)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.wait()
        process.stdout.close()
        await check_all_open(settings, ids)
    assert killed >= 3
    assert len((tmp_path / KEY_FILE).read_text().split()) == 2  # each run went on with the first one's new key
    assert (await rotated(settings)).left == 0
    await check_all_open(settings, ids)


def test_resealing_keeps_secrets_bound_to_their_destination_and_place() -> None:
    old, new = new_key(), new_key()
    place = Place("acme", "row", "config", 1)
    sealed = Vault([old]).seal(place, {"host": "a"}, {"password": "s3cret"}, "destination-a")
    vault = Vault([new, old])
    moved = vault.reseal(place, sealed)
    assert moved.key_id == vault.key_id != sealed.key_id
    assert vault.release(place, moved, "destination-a") == {"password": "s3cret"}
    with pytest.raises(EncryptionError):
        vault.release(place, moved, "destination-b")
    with pytest.raises(EncryptionError):
        vault.reseal(Place("acme", "other", "config", 1), sealed)
    with pytest.raises(EncryptionError):
        vault.reseal(place, Sealed(sealed.token[:-4] + "AAAA", sealed.key_id))


def test_a_vault_asks_for_new_keys_only_when_a_row_names_one() -> None:
    old, new = new_key(), new_key()
    place = Place("acme", "row", "config", 1)
    asked: list[int] = []

    def again() -> list[str]:
        asked.append(1)
        return [new, old]

    vault = Vault([old], again=again)
    vault.open(place, vault.seal(place, {}, {}, ""))
    assert not asked
    vault.open(place, Vault([new]).seal(place, {}, {}, ""))
    assert asked == [1]
    assert vault.key_id == Vault([new]).key_id  # and seals with the newest from now on
