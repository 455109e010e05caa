"""A store on a server that is not there: every read says so, as something to be tried again."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
from sqlalchemy import literal_column, select, text
from sqlalchemy.exc import DBAPIError
from tests.servers import Postgres

from studio.api.problems import problem, status_of
from studio.errors import StoreAway
from studio.store.engine import open_database

ONE = select(literal_column("1"))


@pytest.mark.parametrize("how", [signal.SIGQUIT, signal.SIGINT], ids=["crashed", "shut down"])
async def test_reads_of_a_store_that_is_away_can_be_tried_again(
    own_postgres: Postgres, tmp_path: Path, how: signal.Signals
) -> None:
    where = f"{own_postgres.user}:{own_postgres.password}@{own_postgres.host}:{own_postgres.port}"
    database = open_database(f"postgresql://{where}/postgres", tmp_path)
    try:
        await database.ping()
        await asyncio.to_thread(own_postgres.stop, how)
        for _ in range(2):  # on a connection that was open, and on none
            for read in (database.lookup(ONE, {}), database.read(lambda c: c.scalar(ONE))):
                with pytest.raises(StoreAway) as caught:
                    await read
                assert caught.value.retryable
                assert status_of(caught.value) == 503
                assert problem(caught.value)[1]["retry-after"] == "1"
                assert own_postgres.password not in caught.value.message
        own_postgres.restart()  # not in a thread: the server ends with whatever thread started it
        await database.ping()
        assert await database.read(lambda c: c.scalar(ONE)) == 1
    finally:
        if own_postgres.process is None or own_postgres.process.poll() is not None:
            own_postgres.restart()
        await database.close()


async def test_a_statement_that_is_wrong_is_no_store_that_is_away(own_postgres: Postgres, tmp_path: Path) -> None:
    where = f"{own_postgres.user}:{own_postgres.password}@{own_postgres.host}:{own_postgres.port}"
    database = open_database(f"postgresql://{where}/postgres", tmp_path)
    try:
        with pytest.raises(DBAPIError):
            await database.read(lambda c: c.execute(text("SELECT nothing")))
    finally:
        await database.close()
