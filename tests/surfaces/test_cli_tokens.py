"""The command line with a token in a key's place."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.surfaces.conftest import Server, Studio
from tests.upstreams.issuer import AUDIENCE, FakeIssuer, issuing

from studio.settings import Settings


@pytest.fixture
def issuer() -> Iterator[FakeIssuer]:
    """The fake issuer in a thread of its own, because commands run loops of their own."""
    ready = threading.Event()
    found: list[FakeIssuer] = []
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        async with issuing() as started:
            found.append(started)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert ready.wait(10)
    yield found[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)
    loop.close()


@pytest.fixture
def url(issuer: FakeIssuer, data_dir: Path) -> Iterator[str]:
    server = Server(Settings(oidc_issuer=issuer.url, oidc_audience=(AUDIENCE,), oidc_organization="default"))
    server.start()
    yield server.url
    server.stop()


def test_a_token_serves_where_a_key_does(
    tmp_path: Path, embedded: Studio, issuer: FakeIssuer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an option, from the environment, and from a file that each command reads anew."""
    assert embedded("--url", url, "--key", issuer.token(), "keys", "list").code == 0
    monkeypatch.setenv("STUDIO_API_KEY", issuer.token())
    assert embedded("--url", url, "keys", "list", "--json").json["total"] == 1
    file = tmp_path / "token"
    file.write_text(issuer.token(role="member") + "\n")
    assert embedded("--url", url, "--key", f"@{file}", "connectors", "list").code == 0
    assert embedded("--url", url, "--key", f"@{file}", "keys", "list").code == 4
    file.write_text(issuer.token(exp=1))
    refused = embedded("--url", url, "--key", f"@{file}", "connectors", "list")
    assert (refused.code, "the token has expired" in refused.err) == (4, True)
