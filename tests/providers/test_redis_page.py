"""The page of the `redis` provider: its example runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests import poison
from tests.upstreams.redis import Redis

PAGE = Path(__file__).parents[2] / "docs" / "providers" / "redis.md"

pytestmark = pytest.mark.server


def test_the_example_runs(redis_server: Redis, tmp_path: Path) -> None:
    [example] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    env = poison.program(tmp_path) | {
        "REDIS_HOST": redis_server.host,
        "REDIS_PORT": str(redis_server.port),
        "REDIS_USERNAME": redis_server.user,
        "REDIS_PASSWORD": redis_server.password,
    }
    done = subprocess.run([sys.executable, "-W", "error", "-c", example], capture_output=True, text=True, env=env)
    assert (done.stdout, done.stderr) == ("Connection successful\n{'name': 'Ada'}\n", "")
