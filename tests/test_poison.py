"""The poison of the run is real: what takes it turns a run red, by its name, and what is kept from it does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests import poison

ROOT = Path(__file__).parent.parent
TAKES = {
    "the rogue server was dialled, with": """
        import urllib.request

        def test_a_library_obeys_the_proxy_of_the_environment():
            urllib.request.urlopen("http://upstream.example/").close()
    """,
    ".pgpass was opened": """
        import pathlib, subprocess, sys

        def test_a_process_reads_a_file_of_its_home():
            subprocess.run([sys.executable, "-c", "open(__import__('os').environ['PGPASSFILE']).close()"], check=True)
    """,
    "-pguser arrived at a test's server": """
        import asyncio, os

        async def test_a_driver_sends_what_it_found():
            async def hear(reader, writer):
                await reader.read()
                writer.close()

            async with await asyncio.start_server(hear, "127.0.0.1") as server:
                _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
                writer.write(os.environ["PGUSER"].encode())
                writer.close()
                await writer.wait_closed()
                await asyncio.sleep(0.1)
    """,
}
KEPT_FROM_IT = """
        import os, subprocess, urllib.request
        from tests import poison

        def test_what_is_no_part_of_the_product_finds_nothing():
            print_all = ["env"]
            assert b"p01s0n" not in subprocess.run(print_all, env=poison.clean(), capture_output=True).stdout
            assert b"p01s0n" in subprocess.run(print_all, capture_output=True).stdout
            with poison.lifted():
                assert "http" not in urllib.request.getproxies()
            assert "p01s0n" in os.environ["PGPASSWORD"]
"""


def run_of(folder: Path, *tests: str) -> tuple[int, str]:
    """A run of its own of these tests; its exit code and what it printed."""
    for number, text in enumerate(tests):
        (folder / f"test_{number}.py").write_text("if True:\n" + text)
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-c", str(ROOT / "pyproject.toml"), str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=poison.clean(), capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_a_run_in_which_anything_takes_the_poison_fails_and_says_what_did(tmp_path: Path) -> None:
    code, said = run_of(tmp_path, *TAKES.values())
    assert (code, " failed" in said) == (pytest.ExitCode.TESTS_FAILED, False), said
    for what in TAKES:
        assert what in said, said
    assert f"files poisoned: {len(TAKES)} seen" in said


def test_a_run_in_which_nothing_does_passes(tmp_path: Path) -> None:
    code, said = run_of(tmp_path, KEPT_FROM_IT)
    assert (code, "files poisoned: 0 seen" in said) == (pytest.ExitCode.OK, True), said


HANGS = """
        import asyncio, socket, pytest

        KEPT = []

        @pytest.mark.timeout(1)
        async def test_a_loop_that_sleeps():
            await asyncio.sleep(1000)

        async def test_a_connection_that_nobody_closes():
            KEPT.append(socket.create_server(("127.0.0.1", 0)))
            KEPT.append(await asyncio.open_connection(*KEPT[0].getsockname()))

        def test_what_comes_after():
            pass
"""


def test_a_test_that_hangs_or_leaves_a_connection_open_fails_and_the_run_goes_on(tmp_path: Path) -> None:
    code, said = run_of(tmp_path, HANGS)
    assert code == pytest.ExitCode.TESTS_FAILED, said
    for what in ("a_loop_that_sleeps - Failed: Timeout", "nobody_closes - ResourceWarning", "2 passed, 1 error"):
        assert what in said, said


OWN = {"poison.py", "servers.py", "test_poison.py", "test_ambient.py"}
"""Who makes environments: the two homes of it, and those who try it."""


@pytest.mark.parametrize("way_around", ['os.environ["PATH"]', "os.environ.items()", "urlopen("])
def test_no_test_makes_an_environment_of_its_own_or_asks_a_proxy(way_around: str) -> None:
    """`poison.program`, `poison.clean` and `servers.fetch` are there for it."""
    written = [path for path in (ROOT / "tests").rglob("*.py") if "node_modules" not in path.parts]
    assert [path for path in written if path.name not in OWN and way_around in path.read_text()] == []
