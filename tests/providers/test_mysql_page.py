"""The page of the `mysql` provider: its example runs as it stands, and what it says of the session is so."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests import poison
from tests.upstreams.mariadb import Mariadb

from studio.providers.mysql.pool import SQL_MODE
from studio.providers.mysql.provider import Mysql

PAGE = Path(__file__).parents[2] / "docs" / "providers" / "mysql.md"

pytestmark = pytest.mark.server


def test_the_example_runs(mariadb: Mariadb, mariadb_database: str, tmp_path: Path) -> None:
    [example] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    env = poison.program(tmp_path) | {
        "MYSQL_HOST": mariadb.host,
        "MYSQL_PORT": str(mariadb.port),
        "MYSQL_USER": mariadb.user,
        "MYSQL_PASSWORD": mariadb.password,
        "MYSQL_DATABASE": mariadb_database,
    }
    done = subprocess.run([sys.executable, "-W", "error", "-c", example], capture_output=True, text=True, env=env)
    assert (done.stdout, done.stderr) == ("Connection successful\n[{'name': 'Ada'}]\n", "")


def test_the_page_names_every_field_and_operation_and_the_mode_of_the_session() -> None:
    page = PAGE.read_text()
    shared = {"read_only", "timeout_s", "connect_timeout_s", "max_rows", "max_bytes", "pool_size"}
    for name in (set(Mysql.Config.model_fields) - shared) | set(Mysql.operations):
        assert f"`{name}`" in page, name
    assert SQL_MODE in page
