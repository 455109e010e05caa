"""Every code block of every page runs, in the page's order, as one session; what a page prints is what comes out.

A page's ```bash and ```python blocks run one after the other in one shell, in an empty folder with
its own data folder. A ```text block right after one holds lines that its output must have, in that
order; `…` stands for anything. A ```python title="name.py" (or toml) block is written to that file.
"""

from __future__ import annotations

import fnmatch
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests import poison

ROOT = Path(__file__).parent.parent.parent
FENCE = re.compile(r'^```(?P<kind>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<body>.*?)^```$', re.M | re.S)
RUNNABLE = {"bash", "python"}
FOR_THE_READERS_CLIENTS = {"NO_PROXY": "127.0.0.1", "SSL_CERT_FILE": "", "ALL_PROXY": "", "all_proxy": ""}
"""For curl and httpx, which the pages use beside the product."""
SHOWN = {"text", "json", "yaml", "toml"}
PAGES = [ROOT / "README.md", *(page for page in sorted((ROOT / "docs").glob("*.md")))]


@dataclass
class Block:
    """A block to run, and the lines that its output must hold."""

    kind: str
    body: str
    expected: list[str] = field(default_factory=list)


def blocks_of(page: Path, folder: Path) -> list[Block]:
    """The page's blocks that run; blocks with a title become files."""
    found: list[Block] = []
    end_of_last = -1
    text = page.read_text()
    for match in FENCE.finditer(text):
        kind, title, body = match["kind"], match["title"], match["body"]
        assert kind in RUNNABLE | SHOWN, f"{page.name}: a block of the kind {kind} is neither run nor shown"
        if title:
            target = folder / title
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(body)
        elif kind in RUNNABLE:
            found.append(Block(kind, body))
            end_of_last = match.end()
        elif kind == "text" and found and not text[end_of_last : match.start()].strip():
            found[-1].expected = body.splitlines()
    return found


def script_of(blocks: list[Block]) -> str:
    """One shell script that runs the blocks and marks where each begins."""
    parts = ["set -euo pipefail"]
    for number, block in enumerate(blocks):
        parts.append(f"printf '\\n@@@ {number}\\n'")
        if block.kind == "python":
            parts.append(f"python -W error -c {shlex.quote(block.body)}")
        else:
            parts.append(block.body)
    return "\n".join(parts)


def environment(folder: Path) -> dict[str, str]:
    """The reader's shell: this project's commands on the path, an empty data folder, a free port."""
    shell = poison.program(folder, COLUMNS="120", PROJECT=str(ROOT), **FOR_THE_READERS_CLIENTS)
    return shell | {"PATH": f"{Path(sys.executable).parent}:{shell['PATH']}"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_page_does_what_it_says(page: Path, tmp_path: Path) -> None:
    blocks = blocks_of(page, tmp_path)
    if not blocks:
        assert "```" not in page.read_text() or FENCE.search(page.read_text())
        return
    done = subprocess.run(
        ["bash", "-c", script_of(blocks)],
        cwd=tmp_path,
        env=environment(tmp_path),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, f"{page.name} ended with {done.returncode}:\n{done.stdout[-4000:]}"
    outputs = re.split(r"^@@@ \d+\n", done.stdout, flags=re.M)[1:]
    for block, output in zip(blocks, outputs, strict=True):
        expect_lines(block.expected, output.splitlines(), page.name)


def expect_lines(expected: list[str], output: list[str], page: str) -> None:
    """Each expected line, in order, somewhere in the output."""
    at = 0
    for line in expected:
        pattern = re.sub(r"([\[\]?*])", r"[\1]", line.rstrip()).replace("…", "*")
        while at < len(output) and not fnmatch.fnmatchcase(output[at].rstrip(), pattern):
            at += 1
        assert at < len(output), f"{page}: no line {line!r} in\n" + "\n".join(output)
        at += 1


def test_an_expectation_that_does_not_come_true_fails() -> None:
    expect_lines(["a …c"], ["x", "a b c"], "page")
    with pytest.raises(AssertionError):
        expect_lines(["a c"], ["a b c"], "page")
    with pytest.raises(AssertionError):
        expect_lines(["b", "a"], ["a", "b"], "page")
