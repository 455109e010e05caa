"""One `Idempotency-Key` at two applications on one PostgreSQL store, at the same moment: the change is made once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.servers import Postgres
from tests.surfaces.served import Api, serving

from studio.services import repeats
from studio.services.upkeep import upgrade_store
from studio.settings import Settings

K = "/api/v1/keys"
ROUNDS = 8


@pytest_asyncio.fixture
async def both(postgres: Postgres, tmp_path: Path) -> AsyncIterator[tuple[Api, Api]]:
    async with postgres.fresh_database() as name:
        url = f"postgresql+asyncpg://{postgres.user}:{postgres.password}@{postgres.host}:{postgres.port}/{name}"
        settings = Settings(
            data_dir=tmp_path, port=0, database_url=url, rate_limit_per_s=0, organization_rate_limit_per_s=0
        )
        await upgrade_store(settings)
        async with serving(settings) as one, serving(settings) as other:
            yield one, replace(other, keys=one.keys)  # the same caller at both


async def _raced(both: tuple[Api, Api]) -> list[int]:
    """Send each of some keys to both at once; how many changes each made."""
    made = []
    one, other = both
    for number in range(ROUNDS):
        before = len((await one.call("GET", K)).json["records"])
        found = await asyncio.gather(
            *(api.call("POST", K, {"role": "member"}, idempotency_key=f"race-{number}") for api in (one, other) * 2)
        )
        assert {reply.status for reply in found} <= {201, 409}
        ids: list[Any] = [reply.json["id"] for reply in found if reply.status == 201]
        assert ids
        made.append(len((await one.call("GET", K)).json["records"]) - before)
        assert len(set(ids)) == made[-1]
    return made


async def test_two_applications_on_postgresql_make_a_change_once(both: tuple[Api, Api]) -> None:
    assert await _raced(both) == [1] * ROUNDS


async def test_without_the_claim_in_the_transaction_both_make_it(
    both: tuple[Api, Api], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control."""
    monkeypatch.setattr(repeats.Repeatable, "_claim", lambda *_: None)
    assert max(await _raced(both)) > 1
