"""Encryption keys that a key service wraps: none lies plain, and only who may use that key starts the service."""

from __future__ import annotations

import asyncio
import base64
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tests import toy
from tests.upstreams.openbao import OpenBao, openbao, own_openbao  # noqa: F401
from tests.upstreams.sqs import Moto, moto, own_moto  # noqa: F401

from studio.errors import EgressDenied, EncryptionError
from studio.security.vault import new_key
from studio.services import key_service, rotation
from studio.services.connector_service import ConnectorService
from studio.services.key_service import WRAPPED, KeyService
from studio.services.master_keys import KEY_FILE
from studio.services.upkeep import encryption_status, new_encryption_key, upgrade_store, wrap_encryption_keys
from studio.settings import Settings


@dataclass
class Way:
    """The settings of one key service: of who may use its key, and of others."""

    right: dict[str, Any]
    encrypts_only: dict[str, Any]
    nobody: dict[str, Any]

    def settings(self, folder: Path, **more: Any) -> Settings:
        return Settings(data_dir=folder, **{**self.right, **more})


def by_vault(server: OpenBao) -> Way:
    right = {"key_service": "vault:transit/studio", "vault_url": server.url, "vault_token": server.token}
    policy = 'path "transit/encrypt/studio" { capabilities = ["update"] }'
    server.call("PUT", "sys/policies/acl/sealer", {"policy": policy})
    sealer = server.call("POST", "auth/token/create", {"policies": ["sealer"]})["auth"]["client_token"]
    return Way(right, {"vault_token": sealer}, {"vault_token": "no-token"})


def by_kms(server: Moto) -> Way:
    def user(pair: tuple[str, str]) -> dict[str, Any]:
        return {"kms_access_key_id": pair[0], "kms_secret_access_key": pair[1]}

    right = {"key_service": "aws-kms:alias/studio", "kms_region": "us-east-1", "kms_endpoint": server.url}
    nobody = {"kms_secret_access_key": "not-the-secret"}
    return Way({**right, **user(server.keeper)}, user(server.sealer), nobody)


@pytest.fixture(params=["vault", "aws-kms"])
def way(request: pytest.FixtureRequest) -> Way:
    if request.param == "vault":
        return by_vault(request.getfixturevalue("openbao"))
    return by_kms(request.getfixturevalue("moto"))


@pytest.fixture(params=["vault", "aws-kms"])
def own(request: pytest.FixtureRequest) -> tuple[Way, OpenBao | Moto]:
    """One whose server a test may stop."""
    if request.param == "vault":
        server = request.getfixturevalue("own_openbao")
        return by_vault(server), server
    server = request.getfixturevalue("own_moto")
    return by_kms(server), server


@pytest.fixture(autouse=True)
def provider() -> Iterator[None]:
    with toy.installed():
        yield


async def made(settings: Settings, name: str = "main") -> str:
    async with ConnectorService(settings) as service:
        return str((await service.create({**toy.body(), "name": name, "organization_id": "acme"}))["id"])


async def opens(settings: Settings, connector_id: str) -> bool:
    async with ConnectorService(settings) as service:
        return bool((await service.get(connector_id))["secrets_set"])


def stored(folder: Path) -> list[str]:
    return (folder / KEY_FILE).read_text().split()


def check_nothing_plain(settings: Settings) -> None:
    """No file holds a key, neither as text nor as its bytes."""
    for key in KeyService(settings).unwrap(stored(settings.data_dir)):
        for file in settings.data_dir.rglob("*"):
            content = file.read_bytes() if file.is_file() else b""
            assert key.encode() not in content, file
            assert base64.urlsafe_b64decode(key) not in content, file


async def rotate(settings: Settings) -> None:
    async for step in rotation.rotate(settings):
        last = step
    assert last.left == 0


# -- first start, restart, rotation --------------------------------------------------------------


async def test_a_first_start_stores_a_wrapped_key_and_the_next_one_opens_it(way: Way, tmp_path: Path) -> None:
    settings = way.settings(tmp_path)
    connector_id = await made(settings)
    assert [key.startswith(WRAPPED) for key in stored(tmp_path)] == [True]
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o777 == 0o600
    check_nothing_plain(settings)
    assert await opens(settings, connector_id)
    with pytest.raises(EncryptionError, match="set STUDIO_KEY_SERVICE"):
        await opens(Settings(data_dir=tmp_path), connector_id)


async def test_a_rotation_wraps_its_new_key(way: Way, tmp_path: Path) -> None:
    settings = way.settings(tmp_path)
    connector_id = await made(settings)
    await rotate(settings)
    assert [key.startswith(WRAPPED) for key in stored(tmp_path)] == [True, True]
    check_nothing_plain(settings)
    assert await opens(settings, connector_id)
    status = await encryption_status(settings)
    assert (status["ok"], status["source"], status["key_service"]) == (True, "key file", settings.key_service)
    assert [key["newest"] and key["rows"] > 0 for key in status["keys"]] == [True, False]


async def test_keys_of_the_settings_are_wrapped_too(way: Way, tmp_path: Path) -> None:
    settings = way.settings(tmp_path)
    given = [(await new_encryption_key(settings))["key"] for _ in range(2)]
    assert len(set(given)) == 2
    assert all(key.startswith(WRAPPED) for key in given)
    connector_id = await made(way.settings(tmp_path, encryption_keys=given[0]))
    both = way.settings(tmp_path, encryption_keys=f"{given[1]}, {given[0]}")
    await rotate(both)
    assert await opens(way.settings(tmp_path, encryption_keys=given[1]), connector_id)
    assert not (tmp_path / KEY_FILE).exists()


async def test_a_plain_key_file_is_refused_until_it_is_wrapped(way: Way, tmp_path: Path) -> None:
    connector_id = await made(Settings(data_dir=tmp_path))
    (plain,) = stored(tmp_path)
    settings = way.settings(tmp_path)
    with pytest.raises(EncryptionError, match="studio encryption wrap"):
        await opens(settings, connector_id)
    for _ in range(2):  # the second time there is nothing to do
        done = await wrap_encryption_keys(settings)
        assert done == {"source": "key file", "keys": stored(tmp_path)}
    assert KeyService(settings).unwrap(stored(tmp_path)) == [plain]
    check_nothing_plain(settings)
    assert await opens(settings, connector_id)


async def test_wrapping_the_keys_of_the_settings_hands_them_back(way: Way, tmp_path: Path) -> None:
    plain = [new_key(), new_key()]
    settings = way.settings(tmp_path, encryption_keys=",".join(plain))
    done = await wrap_encryption_keys(settings)
    assert done["source"] == "STUDIO_ENCRYPTION_KEYS"
    assert KeyService(settings).unwrap(done["keys"]) == plain


async def test_wrapping_without_a_key_service_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(EncryptionError, match="set STUDIO_KEY_SERVICE"):
        await wrap_encryption_keys(Settings(data_dir=tmp_path))


# -- who may not ---------------------------------------------------------------------------------


async def test_who_may_not_use_the_key_does_not_start(way: Way, tmp_path: Path) -> None:
    connector_id = await made(way.settings(tmp_path))
    before = stored(tmp_path)
    for others in (way.nobody, way.encrypts_only):
        with pytest.raises(EncryptionError, match="does not let this service use the key"):
            await opens(way.settings(tmp_path, **others), connector_id)
    assert stored(tmp_path) == before


async def test_a_key_that_could_not_be_opened_again_is_never_stored(way: Way, tmp_path: Path) -> None:
    fresh = way.settings(tmp_path / "fresh", **way.encrypts_only)
    with pytest.raises(EncryptionError, match="decrypt"):
        await made(fresh)
    assert not (fresh.data_dir / KEY_FILE).exists()
    plain = Settings(data_dir=tmp_path / "plain")
    connector_id = await made(plain)
    before = stored(plain.data_dir)
    with pytest.raises(EncryptionError, match="decrypt"):
        await wrap_encryption_keys(way.settings(plain.data_dir, **way.encrypts_only))
    assert stored(plain.data_dir) == before
    assert await opens(plain, connector_id)


async def test_a_key_that_was_tampered_with_stops_the_start(way: Way, tmp_path: Path) -> None:
    settings = way.settings(tmp_path)
    connector_id = await made(settings)
    (kept,) = stored(tmp_path)
    middle = len(kept) * 3 // 4
    changed = kept[:middle] + ("A" if kept[middle] != "A" else "B") + kept[middle + 1 :]
    for text in (changed, WRAPPED, WRAPPED + "vault:v9:AAAA", WRAPPED + "AAAA", WRAPPED + '"}'):
        (tmp_path / KEY_FILE).write_text(text)
        with pytest.raises(EncryptionError, match="does not open a wrapped key") as caught:
            await opens(settings, connector_id)
        assert len(text) < 20 or text not in str(caught.value)
    (tmp_path / KEY_FILE).write_text(kept)
    assert await opens(settings, connector_id)


async def test_what_the_key_wrapped_for_another_purpose_does_not_open(
    way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = way.settings(tmp_path)
    monkeypatch.setattr(key_service, "_PURPOSE", "something else")
    foreign = KeyService(settings).wrap(new_key())
    assert KeyService(settings).unwrap([foreign])
    monkeypatch.undo()
    with pytest.raises(EncryptionError, match="does not open a wrapped key"):
        KeyService(settings).unwrap([foreign])


@pytest.mark.parametrize("key", ["vault:transit/gone", "aws-kms:alias/gone"])
def test_a_key_that_is_not_there_is_told(key: str, tmp_path: Path, openbao: OpenBao, moto: Moto) -> None:  # noqa: F811
    way = by_vault(openbao) if key.startswith("vault") else by_kms(moto)
    with pytest.raises(EncryptionError, match=r"knows no such key|does not let this service"):
        KeyService(way.settings(tmp_path, key_service=key)).wrap(new_key())


# -- when the service is away --------------------------------------------------------------------


async def test_it_is_needed_at_the_start_and_not_after(own: tuple[Way, OpenBao | Moto], tmp_path: Path) -> None:
    way, server = own
    settings = way.settings(tmp_path)
    connector_id = await made(settings)
    async with ConnectorService(settings) as service:
        await service.get(connector_id)
        asked_once = KeyService(settings)
        keys = asked_once.unwrap(stored(tmp_path))
        server.close()
        assert asked_once.unwrap(stored(tmp_path)) == keys
        assert (await service.get(connector_id))["secrets_set"]
        await service.create({**toy.body(), "name": "another", "organization_id": "acme"})
    with pytest.raises(EncryptionError, match="the key service does not answer"):
        await opens(settings, connector_id)
    with pytest.raises(EncryptionError, match="the key service does not answer"):
        await made(way.settings(tmp_path / "fresh"))
    assert not (tmp_path / "fresh" / KEY_FILE).exists()


def test_one_that_hangs_is_given_up(own_moto: Moto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(key_service, "_TIMEOUT_S", 0.5)
    service = KeyService(by_kms(own_moto).settings(tmp_path))
    kept = service.wrap(new_key())
    own_moto.freeze()
    try:
        begin = time.monotonic()
        with pytest.raises(EncryptionError, match="does not answer"):
            service.unwrap([kept])
        assert time.monotonic() - begin < 10
    finally:
        own_moto.thaw()
    with pytest.raises(EncryptionError, match="does not answer"):
        service.unwrap([kept])  # held back: a running process does not ask at every call
    monkeypatch.setattr(key_service.time, "monotonic", lambda: begin + 60)
    assert service.unwrap([kept])


# -- several processes ---------------------------------------------------------------------------

_CREATE = """
import asyncio, sys
from tests import toy
from studio.services.connector_service import ConnectorService
from studio.settings import Settings

async def main():
    with toy.installed():
        async with ConnectorService(Settings()) as service:
            print((await service.create({**toy.body(), "name": sys.argv[1], "organization_id": "acme"}))["id"])

asyncio.run(main())
"""


def environment(settings: Settings, way: Way) -> dict[str, str]:
    given = {f"STUDIO_{name.upper()}": value for name, value in way.right.items()}
    here = str(Path(__file__).parents[2])
    return {**os.environ, **given, "STUDIO_DATA_DIR": str(settings.data_dir), "PYTHONPATH": here}


async def test_processes_that_start_together_end_with_one_wrapped_key(tmp_path: Path, openbao: OpenBao) -> None:  # noqa: F811
    way = by_vault(openbao)
    settings = way.settings(tmp_path)
    await upgrade_store(settings)  # migrating together is tested elsewhere
    started = [
        subprocess.Popen(  # noqa: ASYNC220 - starting one does not wait
            [sys.executable, "-c", _CREATE, f"c{number}"], env=environment(settings, way), stdout=subprocess.PIPE
        )
        for number in range(2)
    ]
    ids = [process.communicate(timeout=120)[0].decode().strip() for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert len(stored(tmp_path)) == 1
    for connector_id in ids:
        assert await opens(settings, connector_id)


async def test_a_running_process_opens_the_key_that_another_one_made(way: Way, tmp_path: Path) -> None:
    settings = way.settings(tmp_path)
    connector_id = await made(settings)
    async with ConnectorService(settings) as service:
        await service.get(connector_id)
        await rotate(settings)
        assert (await service.get(connector_id))["secrets_set"]
        assert await asyncio.gather(*[service.get(connector_id) for _ in range(5)])


# -- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"key_service": "vault:transit/studio"}, "needs STUDIO_VAULT_URL"),
        ({"key_service": "aws-kms:alias/studio"}, "needs STUDIO_KMS_REGION"),
        ({"key_service": "aws-kms:a", "kms_region": "eu-west-1"}, "needs STUDIO_KMS_ACCESS_KEY_ID"),
        ({"key_service": "vault:transit", "vault_url": "https://vault:8200"}, "must be vault:MOUNT/KEY"),
        ({"key_service": "vault:transit/../sys", "vault_url": "https://vault:8200"}, "must be vault:MOUNT/KEY"),
        ({"key_service": "gcp-kms:key"}, "must be vault:MOUNT/KEY"),
        ({"kms_endpoint": "http://kms.example.com"}, "must be an https URL"),
    ],
)
def test_a_setting_that_cannot_work_is_told_at_once(given: dict[str, str], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Settings(**given)  # type: ignore[arg-type]


def test_the_secret_of_kms_is_taken_out_of_the_environment() -> None:

    assert {"STUDIO_KMS_SECRET_ACCESS_KEY", "STUDIO_VAULT_TOKEN"} <= Settings.secret_variables()


async def test_no_connector_is_sent_to_the_key_service(tmp_path: Path, moto: Moto) -> None:  # noqa: F811
    async with ConnectorService(by_kms(moto).settings(tmp_path)) as service:
        core = await service._home.core()
        with pytest.raises(EgressDenied, match="never dialled"):
            core.egress.permit(moto.host, moto.port)
