"""The corpora: one statement a line below `data/`, in groups that a line `## name` begins."""

from __future__ import annotations

from pathlib import Path

DATA = Path(__file__).with_name("data")


def groups(name: str) -> dict[str, list[str]]:
    """The statements of a file by group. Of a line, only the end is stripped."""
    found: dict[str, list[str]] = {}
    group: list[str] = []
    for line in (DATA / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            group = found.setdefault(line[3:].strip(), [])
        elif line:
            group.append(line)
    return found


def statements(*names: str) -> list[str]:
    """The statements of several files, in their order."""
    return [text for name in names for group in groups(name).values() for text in group]


def script(name: str) -> str:
    """A schema, as it stands in its file."""
    return (DATA / name).read_text(encoding="utf-8")
