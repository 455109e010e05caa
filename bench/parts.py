"""What a run found, in parts: each is written as soon as it is finished, and the page is made of all that are there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter

from bench.peers.rounds import Row
from bench.peers.streams import Stream
from bench.runner import Outcome

FOLDER = Path(__file__).parent / "results"
Table = tuple[str, str, list[list[str]]]
"""Title, what it says, and lines whose first is the head."""


@dataclass
class Part:
    """A case, when and how it was measured, and what was found; most have one kind of finding only."""

    name: str
    rounds: int
    seconds: float
    took_s: float = 0.0
    at: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"))
    rows: list[Row] = field(default_factory=list)
    streams: list[Stream] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    small: list[Outcome] = field(default_factory=list)
    whole: list[Outcome] = field(default_factory=list)


_JSON = TypeAdapter(Part)


def keep(part: Part, folder: Path | None = None) -> None:
    """Write a part in place of the former one, whole or not at all."""
    folder = folder or FOLDER
    folder.mkdir(exist_ok=True)
    target = folder / f"{part.name}.json"
    fresh = target.with_suffix(".new")
    fresh.write_bytes(_JSON.dump_json(part, indent=1) + b"\n")
    os.replace(fresh, target)


def kept(names: Sequence[str], folder: Path | None = None) -> list[Part]:
    """The parts that are there, in the order of `names`."""
    paths = [(folder or FOLDER) / f"{name}.json" for name in names]
    return [_JSON.validate_json(path.read_bytes()) for path in paths if path.exists()]
