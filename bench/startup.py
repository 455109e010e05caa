"""How long until something answers: the help, a command on the embedded store, and the server."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.scale import first_answer

ROUNDS = 7


def run() -> list[tuple[str, str, list[list[str]]]]:
    """One table."""
    studio = str(Path(sys.executable).with_name("studio"))
    lines = [["what", "median, s", "quickest, s", "goal"]]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first_answer(folder, None)  # the store is made, files are in the cache
        for what, goal, once in (
            ("studio --help", 0.3, lambda: _command(folder, studio, "--help")),
            ("studio connectors list, embedded store", None, lambda: _command(folder, studio, "connectors", "list")),
            ("studio serve to its first answer", 1.0, lambda: first_answer(folder, None)[0]),
        ):
            print(f"{what} …", file=sys.stderr, flush=True)
            times = [once() for _ in range(ROUNDS)]
            middle = statistics.median(times)
            met = "" if goal is None else f"≤ {goal:g} s: {'reached' if middle <= goal else '**missed**'}"
            lines.append([what, f"{middle:.2f}", f"{min(times):.2f}", met])
    return [("Start", f"Wall time of {ROUNDS} starts each.", lines)]


def _command(folder: Path, *command: str) -> float:
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "STUDIO_DATA_DIR": str(folder)}
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return time.perf_counter() - start
