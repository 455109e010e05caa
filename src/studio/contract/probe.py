"""The record of a connection test."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Stage:
    """One step of a connection test. `ms` is its time; `fix` says what usually mends it."""

    name: str
    ok: bool
    ms: float
    detail: str | None = None
    fix: str | None = None


@dataclass
class Probe:
    """The record of a connection test: timed stages, and what the account may do.

    `privileges` holds `enforced_by` ("account" or "service"), `excess` (a list of privileges that a
    read-only account should not hold), `grant` (statements for a least-privileged account, or what to ask
    for), and `detail` where the upstream does not tell everything.
    """

    stages: list[Stage] = field(default_factory=list)
    privileges: dict[str, Any] | None = None

    @contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        """Time a step; an exception marks it as the failing one and goes on up."""
        entry = Stage(name, ok=True, ms=0.0)
        start = time.perf_counter()
        try:
            yield entry
        except BaseException:
            entry.ok = False
            raise
        finally:
            entry.ms = (time.perf_counter() - start) * 1000
            self.stages.append(entry)
