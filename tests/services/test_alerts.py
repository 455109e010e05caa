"""Alerts: one for a change, with its recovery, however many watch; signed, repeated until taken, and without secrets."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from typing import Any

import pytest
from aiohttp import web
from sqlalchemy import select, update
from tests import toy
from tests.services.test_health import core_of, made, turn

from studio.models import now
from studio.services import alerts, channels, health, metrics
from studio.services.connector_service import ConnectorService
from studio.services.watch import Watch
from studio.settings import Settings
from studio.store import alerts as outbox
from studio.store.health import Found
from studio.store.tables import alerts as rows
from studio.store.tables import connectors

FOUND = Found("unreachable", "connect", "nothing listens there", "check host and port")
SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef01234567").decode()


@dataclass
class Receiver:
    """Where webhooks arrive; `answers` are the statuses of the next ones, 200 after them."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    requests: list[tuple[Mapping[str, str], bytes]] = field(default_factory=list)

    @property
    def told(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.requests]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    found = Receiver()

    async def take(request: web.Request) -> web.Response:
        found.requests.append((dict(request.headers), await request.read()))
        return web.Response(status=found.answers.pop(0) if found.answers else 200)

    application = web.Application()
    application.router.add_post("/hook", take)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    found.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/hook"
    yield found
    await runner.cleanup()


@asynccontextmanager
async def told_to(settings: Settings, **changes: Any) -> AsyncIterator[ConnectorService]:
    chosen = Settings(data_dir=settings.data_dir, **changes)
    async with ConnectorService(chosen) as service:
        yield service


async def fail(service: ConnectorService, connector_id: str, times: int = 3, found: Found = FOUND) -> None:
    core = await core_of(service)
    for _ in range(times):
        connector = await core.store.scope("acme", "tests").connector(connector_id)
        await health.record(core, connector, found)


async def delivered(service: ConnectorService) -> None:
    core = await core_of(service)
    later = update(rows).where(rows.c.done_at.is_(None)).values(due_at=now(-1))
    await core.database.write(lambda c: c.execute(later))
    for alert in await outbox.claim(core.database, most=100, lease_s=60):
        await alerts.deliver(core, alert)


async def test_a_failure_is_told_once_with_what_somebody_needs_and_so_is_the_recovery(
    settings: Settings, toys: type[toy.Toy], receiver: Receiver
) -> None:
    async with told_to(settings, alert_webhook_url=receiver.url) as service:
        connector_id = await made(service)
        for agent in ("agent-2", "agent-1"):
            await service.attach_to_agent(connector_id, agent, "db")
        await fail(service, connector_id, 2)
        await delivered(service)
        assert not receiver.requests, "degraded is nobody's emergency"
        await fail(service, connector_id, 5)
        await delivered(service)
        await fail(service, connector_id, 5)
        await delivered(service)
        [told] = receiver.told
        assert told["alert"] == "failing"
        assert told["organization_id"] == "acme"
        assert told["connector"]["id"] == connector_id
        assert told["connector"]["name"] == "toy"
        assert told["agents"] == ["agent-1", "agent-2"]
        assert (told["code"], told["stage"], told["message"], told["fix"]) == (
            "unreachable", "connect", "nothing listens there", "check host and port",
        )  # fmt: skip
        await fail(service, connector_id, 2, Found())
        await fail(service, connector_id, 2, Found())
        await delivered(service)
        assert [one["alert"] for one in receiver.told] == ["failing", "recovered"]
        assert "c4n4ry" not in str(receiver.requests)
        assert "db.example" not in str(receiver.requests), "no value of a config"


async def test_of_many_that_watch_one_tells(settings: Settings, toys: type[toy.Toy], receiver: Receiver) -> None:
    async with (
        told_to(settings, alert_webhook_url=receiver.url) as one,
        told_to(settings, alert_webhook_url=receiver.url) as two,
    ):
        connector_id = await made(one, open_error="ours")
        for _ in range(5):
            await turn(one)
            await asyncio.gather(*(turn(service, due=False) for service in (one, two, two, one)))
        assert (await one.health(connector_id))["health"] == "error"
        await asyncio.gather(*(turn(service, due=False) for service in (one, two)))
        assert [told["alert"] for told in receiver.told] == ["failing"]


async def test_the_signature_is_that_of_standard_webhooks(
    settings: Settings, toys: type[toy.Toy], receiver: Receiver
) -> None:
    async with told_to(settings, alert_webhook_url=receiver.url, alert_webhook_secret=SECRET) as service:
        assert (await service.test_alerts())["success"]
    [(headers, body)] = receiver.requests
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = hmac.digest(b"0123456789abcdef01234567", content, hashlib.sha256)
    assert headers["webhook-signature"] == f"v1,{base64.b64encode(expected).decode()}"
    assert headers["webhook-id"] == json.loads(body)["id"]
    # the example of the specification's own library
    example = channels.signed(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
    )
    assert example == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


async def test_an_alert_is_tried_again_with_pauses_until_it_is_taken(
    settings: Settings, toys: type[toy.Toy], receiver: Receiver
) -> None:
    receiver.answers = [400, 404, 410]
    async with told_to(settings, alert_webhook_url=receiver.url) as service:
        connector_id = await made(service)
        await fail(service, connector_id)
        core, pauses = await core_of(service), []
        for _ in range(3):
            await delivered(service)
            [row] = await core.database.read(lambda c: c.execute(select(rows)).all())
            assert row.done_at is None
            pauses.append(row.due_at)
            assert not await outbox.claim(core.database, most=9, lease_s=60), "not before its time"
        assert now(17) < pauses[2] < now(41)
        await delivered(service)
        [row] = await core.database.read(lambda c: c.execute(select(rows)).all())
        assert (row.attempts, row.outcome) == (4, "ok")
        assert len({told["id"] for told in receiver.told}) == 1, "the receiver can tell that it is one alert"


async def test_an_alert_outlives_the_process_that_should_have_sent_it(
    settings: Settings, toys: type[toy.Toy], receiver: Receiver
) -> None:
    async with told_to(settings, alert_webhook_url=receiver.url) as service:
        await fail(service, await made(service))
        core = await core_of(service)
        assert len(await outbox.claim(core.database, most=9, lease_s=0)) == 1  # claimed, and then the process is gone
    async with told_to(settings, alert_webhook_url=receiver.url) as service:
        watch = Watch(await core_of(service))
        await watch.tick()
        await watch.idle()
    assert [told["alert"] for told in receiver.told] == ["failing"]


async def test_one_that_is_never_taken_is_given_up(settings: Settings, toys: type[toy.Toy], receiver: Receiver) -> None:
    receiver.answers = [400] * 100
    async with told_to(settings, alert_webhook_url=receiver.url) as service:
        await fail(service, await made(service))
        for _ in range(alerts.ATTEMPTS + 3):
            await delivered(service)
        core = await core_of(service)
        [row] = await core.database.read(lambda c: c.execute(select(rows)).all())
        assert row.done_at is not None
        assert (row.attempts, row.outcome) == (alerts.ATTEMPTS, "upstream_error")


async def test_a_webhook_passes_the_gate(settings: Settings, toys: type[toy.Toy], receiver: Receiver) -> None:
    closed = {"alert_webhook_url": receiver.url, "egress_deny": ("127.0.0.0/8",)}
    async with told_to(settings, **closed) as service:
        answer = await service.test_alerts()
    assert not answer["success"]
    assert not receiver.requests
    async with told_to(settings, alert_webhook_url="http://169.254.169.254/hook") as service:
        assert not (await service.test_alerts())["success"]


async def test_a_test_without_a_channel_says_so(settings: Settings, toys: type[toy.Toy]) -> None:
    async with told_to(settings) as service:
        assert await service.test_alerts() == {"success": False, "channels": []}


async def test_a_package_can_bring_a_channel_of_its_own(
    settings: Settings, toys: type[toy.Toy], monkeypatch: pytest.MonkeyPatch
) -> None:
    point = EntryPoint(name="pager", group=alerts.GROUP, value="tests.services.test_alerts:page")
    monkeypatch.setattr(alerts, "entry_points", lambda group, name: [point] if name == "pager" else [])
    PAGED.clear()
    async with told_to(settings, alert_plugins=("pager", "nobody")) as service:
        answer = await service.test_alerts()
    assert [(one["channel"], one["success"]) for one in answer["channels"]] == [("pager", True), ("nobody", False)]
    assert "STUDIO_ALERT_PLUGINS" in answer["channels"][1]["message"]
    assert [one["alert"] for one in PAGED] == ["test"]


PAGED: list[Mapping[str, Any]] = []


async def page(alert: Mapping[str, Any]) -> None:
    """A channel of the tests."""
    PAGED.append(alert)


async def test_secrets_that_end_are_told_of_once_before_and_once_after(
    settings: Settings, toys: type[toy.Toy], receiver: Receiver
) -> None:
    async with told_to(settings, alert_webhook_url=receiver.url) as service:
        connector_id = await made(service)
        await made(service, "other")
        await service.attach_to_agent(connector_id, "agent-1", "db")
        core = await core_of(service)

        async def ends(in_s: float) -> None:
            change = update(connectors).where(connectors.c.id == connector_id).values(secret_expires_at=now(in_s))
            await core.database.write(lambda c: c.execute(change))
            for _ in range(2):
                await Watch(core).keep_up()
            await delivered(service)

        await ends(30 * 86_400)
        assert not receiver.requests
        await ends(6 * 86_400)
        await ends(-60)
    assert [told["alert"] for told in receiver.told] == ["secret_expires", "secret_expired"]
    assert receiver.told[0]["agents"] == ["agent-1"]
    assert "rotate" in receiver.told[0]["fix"]


async def test_secrets_that_grow_old_are_told_of_once_where_an_operator_wants_that(
    settings: Settings, toys: type[toy.Toy], receiver: Receiver
) -> None:
    async with told_to(settings, alert_webhook_url=receiver.url, secret_max_age_days=90) as service:
        connector_id, _ = await made(service), await made(service, "young")
        core = await core_of(service)
        old = update(connectors).where(connectors.c.id == connector_id).values(secret_set_at=now(-91 * 86_400))
        await core.database.write(lambda c: c.execute(old))
        for _ in range(2):
            await Watch(core).keep_up()
        await service.rotate(connector_id, {"config": {"password": "n3w"}})
        await Watch(core).keep_up()
        await delivered(service)
    [told] = receiver.told
    assert (told["alert"], told["connector"]["id"]) == ("secret_old", connector_id)


async def test_metrics_tell_the_same(settings: Settings, toys: type[toy.Toy], receiver: Receiver) -> None:
    async with told_to(settings, alert_webhook_url=receiver.url) as service:
        await made(service, open_error="ours")
        for _ in range(4):
            await turn(service)
        await Watch(await core_of(service)).keep_up()
    text = metrics.render().decode()
    assert 'studio_probes_total{outcome="auth_failed",provider="toy"}' in text
    assert 'studio_health_changes_total{provider="toy",state="error"}' in text
    assert 'studio_alerts_total{channel="webhook",outcome="ok"}' in text
    assert 'studio_connectors{state="error"} 1.0' in text


# -- mail ---------------------------------------------------------------------------------------


@dataclass
class Post:
    """A mail server that takes what it is told, and remembers it."""

    port: int = 0
    lines: list[str] = field(default_factory=list)
    refuses: str | None = None


@pytest.fixture
async def post() -> AsyncIterator[Post]:
    found = Post()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def say(text: str) -> None:
            writer.write(text.encode() + b"\r\n")

        say("220 post")
        body = False
        while line := (await reader.readline()).decode().rstrip("\r\n"):
            found.lines.append(line)
            verb = line.partition(" ")[0].upper()
            if verb == "EHLO":
                say("250-post\r\n250 AUTH PLAIN")
            elif found.refuses == verb:
                say("535 no")
            elif verb == "AUTH":
                say("235 welcome")
            elif verb == "DATA":
                say("354 go on")
                body = True
                while (line := (await reader.readline()).decode().rstrip("\r\n")) != ".":
                    found.lines.append(line)
                say("250 kept")
            elif verb == "QUIT":
                say("221 bye")
                break
            else:
                say("250 fine")
        assert body or found.refuses
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    async with server:
        yield found


def mail(post: Post) -> dict[str, Any]:
    return {
        "alert_email_to": ("ops@example.com", "dba@example.com"),
        "smtp_url": f"smtp://studio:pa%40ss@127.0.0.1:{post.port}",
    }


async def test_mail_names_connector_stage_fix_and_agents(settings: Settings, toys: type[toy.Toy], post: Post) -> None:
    async with told_to(settings, **mail(post)) as service:
        connector_id = await made(service, "Orders database")
        await service.attach_to_agent(connector_id, "agent-1", "db")
        await fail(service, connector_id)
        await delivered(service)
    text = "\n".join(post.lines)
    assert "Subject: [studio] Orders database: failing" in text
    for part in ("nothing listens there", "Stage: connect", "check host and port", "agent-1", connector_id):
        assert part in text
    assert "rcpt TO:<ops@example.com>" in text
    assert "rcpt TO:<dba@example.com>" in text
    assert base64.b64encode(b"\0studio\0pa@ss").decode() in text, "the log-in"


async def test_a_mail_server_that_refuses_is_told_by_its_reason(
    settings: Settings, toys: type[toy.Toy], post: Post
) -> None:
    post.refuses = "AUTH"
    async with told_to(settings, **mail(post)) as service:
        [answer] = (await service.test_alerts())["channels"]
    assert "STUDIO_SMTP_URL" in answer["message"]
    assert "pa" + "@ss" not in str(answer)


async def test_mail_in_clear_text_goes_no_further_than_this_machine(
    settings: Settings, toys: type[toy.Toy], post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "_is_local", lambda sock: False)
    post.refuses = "nothing"
    async with told_to(settings, **mail(post)) as service:
        assert not (await service.test_alerts())["success"]
    assert not [line for line in post.lines if line.startswith(("AUTH", "mail", "DATA"))]
