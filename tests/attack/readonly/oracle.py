"""The differential oracle: what is accepted as a read must leave the state of the server as it was.

An `Engine` knows how to run a text through the product as a read, how to run it past the product as a
writer, what the state is as another session sees it, and how to put it back.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from tests.attack.readonly import corpus
from tests.attack.readonly.mutate import Mutator

from studio.errors import InvalidRequest, OperationNotSupported, ReadOnly, StudioError
from studio.services.connector_service import ConnectorService
from studio.settings import Settings

State = Mapping[str, str]
"""What there is, by part: tables, catalogue, roles, settings, locks, files …"""
BATCH = 150
FIXED_SEED = 20_261_123
STATEMENTS = int(os.environ.get("STUDIO_ATTACK_STATEMENTS", "2000"))
"""Statements a seed and engine. The default keeps the five engines within 90 s; a night's run takes 100,000."""
RANDOM_SEED = int(os.environ.get("STUDIO_ATTACK_SEED", "0")) or secrets.randbelow(1 << 31)
"""Another one each run; it is printed, and STUDIO_ATTACK_SEED runs it again."""
_OURS = (ReadOnly, InvalidRequest, OperationNotSupported)


@dataclass
class Outcome:
    """What a run of statements came to."""

    tried: int = 0
    accepted: int = 0
    by_guard: int = 0
    by_server: int = 0
    changed: list[tuple[str, list[str]]] = field(default_factory=list)
    """Statements that changed the state, with the parts that they changed."""

    def __str__(self) -> str:
        return (
            f"{self.tried} tried, {self.accepted} accepted, {len(self.changed)} changed something; "
            f"refused {self.by_guard} times here and {self.by_server} times by the server"
        )


class Engine(ABC):
    """One kind of server, and one connector to it that is read-only."""

    kind: ClassVar[str]
    files: ClassVar[str]
    """The name of its corpora."""
    reads: ClassVar[tuple[str, ...]]
    quick: ClassVar[int] = 1
    """How many times as many statements it takes in the same time."""
    service: ConnectorService

    async def start(self, folder: Path) -> None:
        """Register the connector and attach it; both are read-only because nobody said otherwise."""
        self.service = await ConnectorService(Settings(data_dir=folder / "studio")).__aenter__()
        made = await self.service.create(
            {
                "organization_id": "acme", "name": "it", "connector_type": "database", "provider": self.kind,
                "config": {"timeout_s": 5.0, **self.config(), "pool_size": 1},
            }
        )  # fmt: skip
        await self.service.attach_to_agent(made["id"], "agent", "it", {"max_rows": 20})

    async def stop(self) -> None:
        """End what `start` began."""
        await self.service.close()

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """The connector's config: an account that may do everything, so that only the product stands in the way."""

    @abstractmethod
    async def state(self) -> State:
        """The state as another session sees it. Waits until what goes on behind the callers' backs is done."""

    @abstractmethod
    async def restore(self) -> None:
        """Put everything back as it was at the beginning, whatever happened."""

    @abstractmethod
    async def write(self, text: str) -> None:
        """Run it past the product, with the plain driver as a writer. Whether it works does not matter."""

    async def read(self, text: str) -> Any:
        """Run it through the product as a read. Raises StudioError where it is refused."""
        return await self.service.execute("query", {"query": text}, agent_id="agent", alias="it")

    async def also(self, text: str) -> Any:
        """The other ways in: the statement as `execute_query` takes it, and its plan."""
        if hash(text) % 2:
            return await self.service.execute_query(agent_id="agent", alias="it", query=text)
        return await self.service.execute("explain", {"query": text}, agent_id="agent", alias="it")

    def fill(self, text: str) -> str:
        """The text with this server's own places in it."""
        return text

    def mutator(self, seed: int) -> Mutator:
        """What makes this engine's statements."""
        return Mutator(seed, *self.corpora())

    def writes(self) -> list[str]:
        """Statements that change what another session sees, each by itself."""
        return [self.fill(text) for text in corpus.groups(self.files)["writes"]]

    def corpora(self) -> tuple[list[str], list[str], list[str], list[str]]:
        """Writes (those of a session alone too), reads, calls and wrappers."""
        found = {name: [self.fill(text) for text in texts] for name, texts in corpus.groups(self.files).items()}
        return (
            found["writes"] + found.get("session", []),
            corpus.statements(*self.reads),
            found.get("calls", []),
            found["wrappers"],
        )


def changes(before: State, after: State) -> list[str]:
    """The parts that are not the same."""
    return [part for part in before if before[part] != after[part]]


async def differential(engine: Engine, texts: Iterable[str]) -> Outcome:
    """Run every text as a read, compare the state after each batch, and look closer where it differs."""
    outcome, batch = Outcome(), []
    before = await engine.state()
    for text in texts:
        await _tried(engine, text, outcome)
        batch.append(text)
        if len(batch) >= BATCH:
            before = await _compared(engine, batch, before, outcome)
            batch = []
    await _compared(engine, batch, before, outcome)
    return outcome


async def _tried(engine: Engine, text: str, outcome: Outcome) -> None:
    outcome.tried += 1
    taken = False
    for way in (engine.read, engine.also):
        try:
            async with asyncio.timeout(20):
                await way(text)
            taken = True
        except _OURS:
            outcome.by_guard += 1
        except StudioError as exc:
            if exc.code == "internal":
                raise AssertionError(f"a defect: {text!r}") from exc
            outcome.by_server += 1
    outcome.accepted += taken


async def _compared(engine: Engine, batch: list[str], before: State, outcome: Outcome) -> State:
    """The state after a batch; of one that changed it, every statement is run again by itself."""
    after = await engine.state()
    if not changes(before, after):
        return before
    await engine.restore()
    clean = await engine.state()
    guilty = False
    for text in batch:
        await _tried(engine, text, Outcome())
        if parts := changes(clean, await engine.state()):
            guilty = True
            outcome.changed.append((text, parts))
            await engine.restore()
    if not guilty:
        outcome.changed.append((f"a batch of {len(batch)} together", changes(before, after)))
    return await engine.state()


async def control(engine: Engine, texts: Iterable[str]) -> tuple[int, int, set[str]]:
    """With the product out of the way: how many were run, how many changed the state, and which parts of it."""
    clean = await engine.state()
    run = seen = 0
    parts: set[str] = set()
    for text in texts:
        run += 1
        await engine.write(text)
        if found := changes(clean, await engine.state()):
            seen += 1
            parts.update(found)
            await engine.restore()
            assert not changes(clean, await engine.state()), (text, changes(clean, await engine.state()))
    return run, seen, parts
