"""Servers that mean harm, one for each way of each protocol: nobody is led away, and nothing is given away."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Any

import pytest
from tests.attack import corpus
from tests.attack.conftest import NETWORKED, Serve
from tests.attack.report import report
from tests.attack.rogues import PLAYS, Lure
from tests.attack.sink import connects, sink

from studio.errors import StudioError

ROGUES = corpus.read("rogues")
WAYS = ("redirects", "advertises", "asks for the password", "asks for a file")
SECRET, FILE = "k3pt-s3cret-c4n4ry", "f1le-c4n4ry"
PLAYED = [
    (kind, way, play) for kind in NETWORKED for way in WAYS if isinstance(ROGUES[kind][way], list)
    for play in ROGUES[kind][way]
]  # fmt: skip


def test_every_way_of_every_protocol_is_played_or_said_not_to_exist() -> None:
    assert set(ROGUES) - {"setup"} == set(NETWORKED)
    for kind in NETWORKED:
        assert set(ROGUES[kind]) == set(WAYS), kind
    assert {play for _, _, play in PLAYED} == set(PLAYS)


def config_of(kind: str, way: str, port: int) -> dict[str, Any]:
    changed = ROGUES["setup"].get(kind, {}).get(way, {})
    config = {**corpus.config(kind, "127.0.0.2", port, SECRET), "connect_timeout_s": 0.5, "timeout_s": 1.0, **changed}
    return {name: value for name, value in config.items() if value is not None}


@pytest.mark.parametrize(("kind", "way", "play"), PLAYED, ids=[f"{kind}-{way}-{play}" for kind, way, play in PLAYED])
async def test_a_rogue_server_leads_nobody_away_and_gets_nothing(
    serve: Serve, tmp_path: Path, kind: str, way: str, play: str
) -> None:
    """The rogue's address is open; where it leads to is closed, as the store, the metadata service and a neighbour are."""
    (tmp_path / "file").write_text(FILE)
    target = await serve(host="0.0.0.0", egress_allow=("127.0.0.2/32",))
    async with sink() as away:
        hits = given = 0
        for host, port in (("127.0.0.1", away.port), ("169.254.169.254", 80)):
            async with sink("mysql" if kind == "mysql" else "") as rogue:
                rogue.say = PLAYS[play](Lure(host, port, str(tmp_path / "file"), ("127.0.0.2", rogue.port)))
                with connects() as dialled:
                    try:
                        made = await target.create(kind, config_of(kind, way, rogue.port))
                        await target.service.test_connection(made)
                        await target.query(kind, made)
                    except StudioError:
                        pass
                    await asyncio.sleep(0)
                assert rogue.connections, "nobody came to the rogue"
                hits += sum(address[:2] == (host, port) for address in dialled if isinstance(address, tuple))
                given += FILE.encode() in rogue.seen
                given += SECRET.encode() in rogue.seen and not corpus.read("kinds")[kind].get("clear")
        report.count("rogues", kind, played=2, hits=hits + away.connections + given)
        assert not away.connections
        assert not hits, dialled
        assert not given


@pytest.mark.filterwarnings("ignore")  # of a socket that pymongo leaves behind
@pytest.mark.parametrize("play", ["hosts of a replica set", "another primary"])
async def test_pymongo_left_to_itself_would_follow(play: str) -> None:
    """The control: the same rogue, and the driver's own client."""
    from pymongo import AsyncMongoClient

    async with sink() as away, sink() as rogue:
        rogue.say = PLAYS[play](Lure("127.0.0.1", away.port, "", ("127.0.0.1", rogue.port)))
        client: Any = AsyncMongoClient("127.0.0.1", rogue.port, replicaSet="rs0", serverSelectionTimeoutMS=300)
        with pytest.raises(Exception, match=r"rs0|primary|servers|connection"):
            await client.admin.command("ping")
        await client.close()
        assert away.connections
    del client
    gc.collect()
