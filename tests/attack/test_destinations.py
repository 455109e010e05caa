"""A kept secret never travels: no key of a config, overridden, updated or smuggled into, takes it to another place."""

from __future__ import annotations

import pytest
from tests.attack import corpus
from tests.attack.conftest import KINDS, NETWORKED, Target
from tests.attack.report import report
from tests.attack.sink import sink

from studio import providers
from studio.errors import InvalidConfig, StudioError

CANARY = "k3pt-s3cret-c4n4ry"
FAST = {"connect_timeout_s": 0.2, "timeout_s": 1.0}
SHAPES = [
    "$HOST",
    "$HOST:$PORT",
    "http://$HOST:$PORT",
    "$PORT",
    "/tmp/sink",
    {"type": "none"},
    True,
    False,
    0,
    ["$HOST"],
]


def keys(kind: str) -> list[str]:
    """Every key of a provider's config."""
    return sorted(providers.load(kind).Config.model_json_schema(by_alias=True)["properties"])


async def used(target: Target, kind: str, connector_id: str) -> None:
    """Whatever happens."""
    await target.service.test_connection(connector_id)
    try:
        await target.query(kind, connector_id)
    except StudioError:
        return


@pytest.mark.parametrize("kind", NETWORKED)
async def test_no_key_of_a_config_takes_a_kept_secret_to_another_place(local: Target, kind: str) -> None:
    cases = travelled = 0
    async with sink(kind) as home, sink(kind) as away:
        shapes = corpus.filled(SHAPES, HOST="127.0.0.2", PORT=away.port)
        config = {**corpus.config(kind, "127.0.0.1", home.port, CANARY), **FAST}
        for key in keys(kind):
            made = await local.create(kind, config)
            for number, value in enumerate(shapes):
                cases += 2
                try:
                    await local.service.update(made, {"config": {key: value}})
                    await used(local, kind, made)
                    made = await local.create(kind, config)
                except StudioError as exc:
                    assert exc.code in {"invalid_config", "secrets_required"}, (key, exc)  # noqa: PT017
                try:
                    await local.service.attach_to_agent(made, "agent", f"{key}-{number}", {key: value})
                    await local.service.execute_query(
                        agent_id="agent", alias=f"{key}-{number}", query=corpus.read("kinds")[kind]["query"]
                    )
                except StudioError:
                    continue
        travelled = away.seen.count(CANARY.encode()) + bytes(away.seen).count(b"c4n4ry")
        report.count("cases", kind, run=cases, escapes=travelled)
        assert not travelled
        assert home.connections or kind == "soap"  # whose contract cannot be read from this sink


@pytest.mark.parametrize("kind", NETWORKED)
async def test_a_new_place_asks_for_the_secrets_again(local: Target, kind: str) -> None:
    """Each field that leads somewhere; with the secrets given again, it is the caller's own business."""
    async with sink(kind) as away:
        for key, value in corpus.leads(kind, "127.0.0.2", away.port).items():
            made = await local.create(kind, {**corpus.config(kind, "127.0.0.1", 9, CANARY), **FAST})
            try:
                await local.service.update(made, {"config": {key: value}})
            except StudioError as exc:
                assert exc.code in {"secrets_required", "invalid_config"}  # noqa: PT017
            await used(local, kind, made)
        report.count("cases", kind, run=len(corpus.leads(kind, "", 0)), escapes=away.seen.count(b"c4n4ry"))
        assert b"c4n4ry" not in away.seen


@pytest.mark.parametrize("kind", KINDS)
def test_no_key_of_a_driver_is_a_key_of_ours(kind: str) -> None:
    config = corpus.config(kind, "db.example.com", 1234, CANARY)
    own = set(keys(kind))
    foreign = [key for key in corpus.read("drivers") if key not in own]
    for key in foreign:
        with pytest.raises(InvalidConfig) as caught:
            providers.load(kind).Config.parse({**config, key: "x"})
        assert key in str(caught.value.fields)
    report.count("cases", kind, run=len(foreign), escapes=0)
    assert len(foreign) > 40


@pytest.mark.parametrize("kind", KINDS)
async def test_no_separator_smuggles_a_setting_into_a_driver(local: Target, kind: str) -> None:
    """Each field, with each separator, is refused or kept as it was written, and leads to nobody else."""
    run = changed = 0
    async with sink(kind) as home, sink(kind) as away:
        for hostile in corpus.filled(corpus.read("smuggling"), SINK=f"127.0.0.2:{away.port}"):
            for key, value in {**corpus.config(kind, "127.0.0.1", home.port), "password": "s3cret"}.items():
                if not isinstance(value, str) or key not in keys(kind):
                    continue
                for smuggled in (value + hostile, hostile + value):
                    run += 1
                    try:
                        parsed = providers.load(kind).Config.parse(
                            {**corpus.config(kind, "127.0.0.1", home.port), **FAST, key: smuggled}
                        )
                    except InvalidConfig:
                        continue
                    public, secrets = parsed.split()
                    kept = {**public, **secrets}[key]
                    changed += kept.lower().rstrip("/") != smuggled.lower().rstrip("/")
                    made = await local.create(
                        kind, {**corpus.config(kind, "127.0.0.1", home.port), **FAST, key: smuggled}
                    )
                    await local.service.test_connection(made)
        report.count("cases", kind, run=run, escapes=away.connections + changed)
        assert not away.connections
        assert not changed
