"""The pages of `sqlite` and `postgresql`: their examples run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests import poison
from tests.servers import Postgres

PAGES = Path(__file__).parents[2] / "docs" / "providers"


def run_example(kind: str, folder: Path, **environment: str) -> str:
    [example] = re.findall(r"```python\n(.*?)```", (PAGES / f"{kind}.md").read_text(), re.S)
    env = poison.program(folder, **environment)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example], capture_output=True, text=True, env=env, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_sqlite_example_runs(tmp_path: Path) -> None:
    assert run_example("sqlite", tmp_path) == "Connection successful\n[{'name': 'Grace'}]\n"


@pytest.mark.server
def test_the_postgresql_example_runs(postgres: Postgres, tmp_path: Path) -> None:
    said = run_example(
        "postgresql",
        tmp_path,
        POSTGRESQL_HOST=postgres.host,
        POSTGRESQL_PORT=str(postgres.port),
        POSTGRESQL_DATABASE=postgres.database,
        POSTGRESQL_USERNAME=postgres.user,
        POSTGRESQL_PASSWORD=postgres.password,
    )
    assert said == "Connection successful\n[{'n': 1, 'product': 7}, {'n': 2, 'product': 14}] True\n"


def test_every_provider_that_can_be_used_has_a_page() -> None:
    from studio import providers

    missing = [kind for kind in providers.built() if not (PAGES / f"{kind}.md").exists()]
    assert not missing
