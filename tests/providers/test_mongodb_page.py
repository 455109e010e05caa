"""The page of the `mongodb` provider: its example runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests import poison
from tests.upstreams.mongodb import Mongodb

PAGE = Path(__file__).parents[2] / "docs" / "providers" / "mongodb.md"

pytestmark = pytest.mark.server


def test_the_example_runs(mongodb_server: Mongodb, mongodb_database: str, tmp_path: Path) -> None:
    [example] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    env = poison.program(tmp_path) | {
        "MONGODB_HOST": mongodb_server.host,
        "MONGODB_PORT": str(mongodb_server.port),
        "MONGODB_DATABASE": mongodb_database,
        "MONGODB_USERNAME": mongodb_server.user,
        "MONGODB_PASSWORD": mongodb_server.password,
    }
    done = subprocess.run([sys.executable, "-W", "error", "-c", example], capture_output=True, text=True, env=env)
    assert (done.stdout, done.stderr) == ("Connection successful\n[{'id': 7, 'name': 'Ada'}]\n", "")
