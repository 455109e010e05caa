"""Thousands of generated statements on five engines: what is accepted as a read changes nothing.

STUDIO_ATTACK_STATEMENTS sets how many a seed and engine, STUDIO_ATTACK_SEED the second seed; the first is fixed.
MongoDB is an emulator here (see `tests/upstreams/mongodb.py`); the other four are real.
"""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.attack.readonly import corpus
from tests.attack.readonly.engines_documents import MongodbEngine, RedisEngine
from tests.attack.readonly.engines_sql import MariadbEngine, Postgresql, SqliteEngine
from tests.attack.readonly.oracle import FIXED_SEED, RANDOM_SEED, STATEMENTS, Engine, control, differential
from tests.attack.report import report

from studio.errors import StudioError, UpstreamError

# asyncmy turns notes of the server, on statements that are meant to be strange, into warnings
pytestmark = [pytest.mark.timeout(120 + STATEMENTS // 5), pytest.mark.filterwarnings("ignore")]
SERVERS = {
    "postgresql": (Postgresql, "own_postgres"),
    "mariadb": (MariadbEngine, "own_mariadb"),
    "sqlite": (SqliteEngine, None),
    "redis": (RedisEngine, "module_redis"),
    "mongodb": (MongodbEngine, "mongodb_emulator"),
}
SEEN = {"mongodb": 0.8}
"""The share of writes whose effect the oracle sees; 0.95 for the others. The emulator lacks $out."""
SLOW = {"postgresql", "mysql"}
"""Putting back a whole database takes 0.3 s, so a run takes some of the writes; a long one takes all."""


@pytest.fixture(params=SERVERS)
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Engine]:
    """Started on a state of its own."""
    made, fixture = SERVERS[request.param]
    engine: Any = made(*([request.getfixturevalue(fixture)] if fixture else []))
    await engine.start(tmp_path)
    yield engine
    await engine.stop()


@pytest.mark.parametrize("seed", [FIXED_SEED, RANDOM_SEED], ids=["fixed", "random"])
async def test_what_is_accepted_as_a_read_changes_nothing(
    engine: Engine, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = await differential(engine, engine.mutator(seed).statements(STATEMENTS * engine.quick))
    with capsys.disabled():
        print(f"\n{engine.kind}: seed {seed}: {outcome}")
    report.count(
        "statements", engine.kind, tried=outcome.tried, accepted=outcome.accepted, changed=len(outcome.changed)
    )
    assert not outcome.changed, f"seed {seed}: {outcome.changed[:5]}"
    assert outcome.accepted > outcome.tried / 50, "so few were accepted that nothing was shown"


async def test_without_the_product_in_between_the_oracle_sees_what_is_written(engine: Engine) -> None:
    """The negative control: the same corpus, by the plain driver as a writer."""
    writes = engine.writes()
    if engine.kind in SLOW and "STUDIO_ATTACK_STATEMENTS" not in os.environ:
        writes = random.Random(FIXED_SEED).sample(writes, 15)  # some change nothing: the same ones each time
    run, seen, parts = await control(engine, writes)
    enough = seen >= run * SEEN.get(engine.kind, 0.95) - 1
    report.count("controls", engine.kind, written=run, seen=seen, blind=not enough)
    assert enough, f"the oracle saw {seen} of {run} writes, in {sorted(parts)}"


async def test_at_most_one_honest_read_in_a_hundred_is_refused(engine: Engine) -> None:
    reads = corpus.statements(*engine.reads)
    refused: list[str] = []
    before = await engine.state()
    for text in reads:
        try:
            await engine.read(text)
        except UpstreamError:  # the server's own no: only what the emulator lacks
            if engine.kind != "mongodb":
                refused.append(text)
        except StudioError as exc:
            refused.append(f"{text} ({exc.code})")
    assert await engine.state() == before
    above = len(refused) > len(reads) / 100
    report.count("reads", engine.kind, honest=len(reads), refused=len(refused), above=above)
    assert len(reads) >= 175
    assert not above, refused
