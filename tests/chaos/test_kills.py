"""Replicas and PostgreSQL itself are killed, as `kill -9` does it, while clients change things and cause effects."""

from __future__ import annotations

import asyncio
import random
import signal

import pytest
from tests.chaos.cluster import Cluster, Upstream
from tests.chaos.report import report
from tests.chaos.scale import KILLS
from tests.chaos.work import Work

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.server, pytest.mark.timeout(900)]
STORE_EVERY = 3
"""After so many kills of replicas PostgreSQL is killed too."""


async def test_kills_lose_nothing_repeat_nothing_and_leave_no_effect_without_its_row(
    cluster: Cluster, upstream: Upstream
) -> None:
    work = await Work.made(cluster, upstream)
    async with work.under_way():
        for number in range(1, KILLS + 1):
            await asyncio.sleep(random.uniform(0.05, 0.5))
            # Every second one dies at a random moment, the others when what they sent has just arrived.
            replica = random.choice(cluster.replicas) if number % 2 else await work.sender()
            await replica.stop(signal.SIGKILL)
            await replica.start()
            if number % STORE_EVERY == 0:
                await asyncio.sleep(random.uniform(0.05, 0.5))
                await asyncio.to_thread(cluster.postgres.crash)
                await asyncio.sleep(random.uniform(0, 0.5))
                await asyncio.to_thread(cluster.postgres.launch)
        await asyncio.sleep(0.5)
    report.measured("kills", KILLS // STORE_EVERY, of=KILLS)
    report.measured("unknown", work.unknown, of=work.asked)
    await work.judged()
