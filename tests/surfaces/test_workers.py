"""`studio serve --workers`: several processes behind one address, and none missing for long."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.servers import fetch, free_port


class Served:
    def __init__(self, data_dir: Path, *more: str, port: int = 0) -> None:
        environment = {**os.environ, "STUDIO_DATA_DIR": str(data_dir)}
        command = [str(Path(sys.executable).with_name("studio")), "serve", "--port", str(port), "--json", *more]
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def announced(self) -> dict[str, str]:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def workers(self) -> list[int]:
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        named = {int(each): Path(f"/proc/{each}/cmdline").read_bytes() for each in found}
        return [each for each, line in named.items() if b"resource_tracker" not in line]

    def ended(self) -> tuple[int, str]:
        self.process.send_signal(signal.SIGTERM)
        _, said = self.process.communicate(timeout=30)
        return self.process.returncode, said.decode()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    one = Served(tmp_path, "--workers", "2")
    yield one
    if one.process.poll() is None:
        one.process.kill()
        one.process.communicate()


def answers(url: str) -> bool:
    with fetch(url + "/readyz", timeout=10) as answer:
        return answer.status == 200


def test_workers_serve_are_replaced_and_end_together(served: Served) -> None:
    url = served.announced()["url"]
    assert all(answers(url) for _ in range(8))
    first = served.workers()
    assert len(first) == 2
    time.sleep(3.1)  # one that dies right after its start would end the rest
    os.kill(first[0], signal.SIGKILL)
    deadline = time.monotonic() + 20
    while len(now := served.workers()) < 2 or first[0] in now:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert all(answers(url) for _ in range(8))
    last = served.workers()
    status, said = served.ended()
    assert (status, "is replaced" in said) == (0, True)
    assert not any(Path(f"/proc/{each}").exists() for each in last)


def test_a_second_server_does_not_join_in_on_a_taken_port(tmp_path: Path) -> None:
    port = free_port()
    first = Served(tmp_path, "--workers", "2", port=port)
    try:
        assert first.announced()["url"].endswith(str(port))
        second = Served(tmp_path, "--workers", "2", port=port)
        _, said = second.process.communicate(timeout=30)
        assert second.process.returncode != 0
        assert b"cannot listen" in said
    finally:
        assert first.ended()[0] == 0
