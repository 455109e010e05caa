"""Guards and their negative controls: each is switched off here, or by the test that the list names."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests import toy
from tests.attack import corpus
from tests.attack.conftest import Serve, Target
from tests.attack.report import report
from tests.attack.sink import sink

from studio import providers
from studio.contract.config import ANY
from studio.errors import StudioError

ROOT = Path(__file__).parents[2]
SECRET = "k3pt-s3cret-c4n4ry"
FAST = {"connect_timeout_s": 0.3, "timeout_s": 1.0}
Attack = Callable[[Serve], Awaitable[bool]]


@pytest.mark.parametrize("guard", corpus.read("controls"))
def test_each_guard_has_a_control_that_exists(guard: str) -> None:
    path, _, name = corpus.read("controls")[guard].partition("::")
    assert re.search(rf"^(?:async )?def {name}\(", (ROOT / path).read_text(), re.M), f"{guard}: no such test"
    report.count("guards", guard, off=1)


# -- attacks that one patch makes possible --------------------------------------------------------


async def dials_a_closed_place(serve: Serve) -> bool:
    target = await serve(host="0.0.0.0")
    async with sink("redis") as found:
        made = await target.create("redis", {**corpus.config("redis", "127.0.0.1", found.port, SECRET), **FAST})
        await target.service.test_connection(made)
        return found.connections > 0


async def takes_the_secret_along(serve: Serve) -> bool:
    target = await serve()
    async with sink("redis") as away:
        made = await target.create("redis", {**corpus.config("redis", "127.0.0.1", 9, SECRET), **FAST})
        try:
            await target.service.update(made, {"config": {"port": away.port}})
        except StudioError:
            return False
        await target.service.test_connection(made)
        return SECRET.encode() in away.seen


async def overrides_the_destination(serve: Serve) -> bool:
    target = await serve()
    made = await target.create("redis", {**corpus.config("redis", "127.0.0.1", 9, SECRET), **FAST})
    try:
        await target.service.attach_to_agent(made, "agent", "main", {"host": "127.0.0.2"})
    except StudioError:
        return False
    return True


async def _toy(serve: Serve, **config: Any) -> tuple[Target, str]:
    target = await serve()
    return target, (await target.service.create(toy.body(**config)))["id"]


async def gets_its_own_secret_back(serve: Serve) -> bool:
    target, made = await _toy(serve, read_only=False)
    try:
        answer = await target.service.execute("put", {"key": "k", "value": "p4ssw0rd-c4n4ry"}, connector_id=made)
    except StudioError:
        return False
    return "p4ssw0rd-c4n4ry" in corpus.text(answer)


async def writes_where_it_may_read(serve: Serve) -> bool:
    target, made = await _toy(serve)
    try:
        await target.service.execute("put", {"key": "k"}, connector_id=made)
    except StudioError:
        return False
    return True


async def gives_a_driver_a_key_of_its_own(serve: Serve) -> bool:
    target = await serve()
    try:
        await target.create("postgresql", {**corpus.config("postgresql", "h", 9), "passfile": "/etc/passwd"})
    except StudioError:
        return False
    return True


def _anything(config: Any, *_: object) -> dict[str, Any]:
    return dict.fromkeys(config.model_fields, ANY)


def _lax(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = providers.load("postgresql").Config
    monkeypatch.setattr(kind, "model_config", {**kind.model_config, "extra": "ignore"})
    monkeypatch.setattr(kind, "model_validate", classmethod(lambda cls, raw: cls.model_construct(**raw)))


GUARDS: dict[str, tuple[Attack, Callable[[pytest.MonkeyPatch], None]]] = {
    "egress table": (
        dials_a_closed_place,
        lambda patch: patch.setattr("studio.security.egress.Egress._judge", lambda *_: None),
    ),
    "secrets sealed to their destination": (
        takes_the_secret_along,
        lambda patch: patch.setattr("studio.contract.config.ProviderConfig.destination", classmethod(lambda *_: "")),
    ),
    "list of what may be overridden": (
        overrides_the_destination,
        lambda patch: patch.setattr("studio.contract.config.ProviderConfig.overridable", classmethod(_anything)),
    ),
    "a connector's own secret withheld": (
        gets_its_own_secret_back,
        lambda patch: patch.setattr("studio.contract.withheld.Watch.check", lambda *_: None),
    ),
    "effects in policy": (
        writes_where_it_may_read,
        lambda patch: patch.setattr("studio.security.policy.require_effect", lambda *_, **__: None),
    ),
    "unknown keys refused": (gives_a_driver_a_key_of_its_own, _lax),
}


@pytest.mark.parametrize("name", GUARDS)
async def test_the_attack_fails_with_the_guard_and_works_without_it(
    serve: Serve, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack, switch_off = GUARDS[name]
    with toy.installed():
        assert not await attack(serve), "the guard does not hold"
    with toy.installed():
        switch_off(monkeypatch)
        worked = await attack(serve)
    report.count("guards", name, off=1, silent=int(not worked))
    assert worked, "the attack does not work without the guard, so nothing is known of the guard"
