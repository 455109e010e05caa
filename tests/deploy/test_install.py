"""The container file's own steps, run in a folder that has only what it copies; then the service from there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests import poison
from tests.servers import fetch

ROOT = Path(__file__).parent.parent.parent
CONTAINERFILE = (ROOT / "deploy" / "Containerfile").read_text()
BUILD = CONTAINERFILE.split("FROM ${BASE}\n")[0]
NO_NEW_CODE = """
import ctypes, os, sys
assert ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) == 0  # PR_SET_MDWE: what MemoryDenyWriteExecute= asks for; Linux 6.3
os.execv(sys.argv[1], sys.argv[1:])
"""
DRIVERS = (
    "apsw asyncpg pgparse asyncmy pymongo redis graphql zeep aiobotocore azure.storage.blob aiokafka cramjam aio_pika"
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the image has at /opt/studio."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("opt") / "studio"
    tools = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "UV_PROJECT_ENVIRONMENT": str(target)}
    environment = poison.clean(**tools, UV_PYTHON=sys.executable, UV_LINK_MODE="hardlink")
    environment.pop("VIRTUAL_ENV", None)
    steps = re.findall(r"^(COPY|RUN) (.*)$", BUILD, re.M)
    assert [kind for kind, _ in steps] == ["RUN", "COPY", "RUN", "COPY", "RUN"]
    for kind, rest in steps[1:]:  # the first one installs uv, which is here
        if kind == "RUN":  # with uv's cache and without byte code, or the test would take minutes
            step = rest.replace("--no-cache ", "")
            done = subprocess.run(step, shell=True, cwd=source, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            continue
        *names, _ = rest.split()
        for name in names:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, source / name)
    shutil.rmtree(source)  # nothing of it may be needed
    return target


def environment_of(folder: Path) -> dict[str, str]:
    return poison.program(folder, STUDIO_SECRETS_DIR=str(folder / "secrets"))


def test_the_service_is_ready_from_the_install_and_makes_no_new_code(installed: Path, tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    studio = str(installed / "bin" / "studio")
    environment = environment_of(tmp_path)
    key = subprocess.run([studio, "encryption", "new-key"], env=environment, capture_output=True, check=True).stdout
    (secrets / "STUDIO_ENCRYPTION_KEYS").write_bytes(key)
    (secrets / "STUDIO_DATABASE_URL").write_text("")  # as the unit says: SQLite
    (tmp_path / "data" / "files").mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", NO_NEW_CODE, studio, "serve", "--port", "0", "--json"]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        assert line, server.stderr and server.stderr.read()
        url = json.loads(line)["url"]
        with fetch(f"{url}/readyz", timeout=10) as answer:
            assert json.load(answer) == {"status": "ready"}
    finally:
        server.terminate()
        server.communicate(timeout=30)
    assert server.returncode == 0
    assert not (tmp_path / "data" / "encryption.key").exists()


def test_every_driver_loads_where_memory_is_never_both_written_and_run(installed: Path, tmp_path: Path) -> None:
    imports = f"import {', '.join(DRIVERS.split())}, pyarrow.parquet, opentelemetry.sdk, lxml.etree"
    command = [sys.executable, "-c", NO_NEW_CODE, str(installed / "bin" / "python"), "-W", "ignore", "-c", imports]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr


def test_a_development_package_is_not_in_the_image(installed: Path) -> None:
    found = {path.name for path in installed.glob("lib/python3*/site-packages/*")}
    assert {"studio", "asyncpg", "uvicorn"} <= found
    assert not {"pytest", "mypy", "hypothesis", "trustme"} & found
