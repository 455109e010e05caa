"""`set_password` on real servers: the account's own new password counts for log-ins from then on, and no log has it."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import pytest
from tests.upstreams.mariadb import Mariadb
from tests.upstreams.mongodb import READ, Mongodb
from tests.upstreams.rabbitmq import Rabbitmq as RabbitmqServer
from tests.upstreams.redis import Redis as RedisServer

from studio.contract import Provider
from studio.errors import (
    AuthFailed,
    EgressDenied,
    OperationNotSupported,
    SecretsRequired,
    StudioError,
    Unreachable,
    UpstreamError,
)
from studio.providers.mongodb.provider import Mongodb as MongodbProvider
from studio.providers.mysql.provider import Mysql
from studio.providers.rabbitmq.provider import Rabbitmq
from studio.providers.redis.password import NOT_KEPT
from studio.providers.redis.provider import Redis
from studio.security.egress import Egress
from studio.services.connector_service import ConnectorService
from studio.settings import Settings
from studio.testing.harness import open_provider

NEW = "n3w-" + secrets.token_urlsafe(24)


async def works(kind: type[Provider[Any]], config: dict[str, Any]) -> bool:
    async with open_provider(kind, config) as provider:
        try:
            await provider.ping()
        except AuthFailed:
            return False
        return True


async def test_mariadb_gets_the_hash_alone(mariadb: Mariadb) -> None:
    with mariadb.fresh_user(f"SELECT ON {mariadb.database}.*") as account:
        config = mariadb.config(**account)
        log = mariadb.dir / "general.log"
        mariadb.sql(f"SET GLOBAL general_log_file='{log}'", "SET GLOBAL general_log=1")
        try:
            async with open_provider(Mysql, config) as provider:
                assert await provider.set_password(NEW) is None
        finally:
            mariadb.sql("SET GLOBAL general_log=0")
        assert not await works(Mysql, config)
        assert await works(Mysql, {**config, "password": NEW})
        written = log.read_text()
        assert "SET PASSWORD" in written
        assert NEW not in written


async def test_redis_gets_the_hash_alone_and_says_where_it_is_not_kept(redis_server: RedisServer) -> None:
    name, old = f"u{secrets.token_hex(4)}", secrets.token_urlsafe(12)
    admin = redis_server.admin()
    await admin.execute_command("ACL", "SETUSER", name, "on", f">{old}", "~*", "+@all")
    config = redis_server.config(username=name, password=old)
    try:
        async with open_provider(Redis, config) as provider:
            assert await provider.set_password(NEW) is None  # it wrote its configuration file
        assert not await works(Redis, config)
        assert await works(Redis, {**config, "password": NEW})
        await admin.execute_command("ACL", "SETUSER", name, "-config", "-acl|save")
        async with open_provider(Redis, {**config, "password": NEW}) as provider:
            assert await provider.set_password(NEW[::-1]) == NOT_KEPT
        assert await works(Redis, {**config, "password": NEW[::-1]})
        assert NEW not in (redis_server.dir / "redis.conf").read_text()
    finally:
        await admin.execute_command("ACL", "DELUSER", name)
        await admin.aclose()


async def test_an_account_that_may_not_change_its_password_is_told_so(redis_server: RedisServer) -> None:
    config = redis_server.config()  # app: -@admin
    async with open_provider(Redis, config) as provider:
        with pytest.raises(Exception, match="permissions") as caught:
            await provider.set_password(NEW)
        assert isinstance(provider.error(caught.value), UpstreamError)
    assert await works(Redis, config)


async def test_mongodb_changes_its_own_password_where_it_may(mongodb_server: Mongodb) -> None:
    name, old = f"u{secrets.token_hex(4)}", secrets.token_urlsafe(12)
    mongodb_server.add_user(name, old, [*READ, "changeOwnPassword"])
    config = mongodb_server.config(username=name, password=old)
    async with open_provider(MongodbProvider, config) as provider:
        assert await provider.set_password(NEW) is None
    assert not await works(MongodbProvider, config)
    assert await works(MongodbProvider, {**config, "password": NEW})
    mongodb_server.add_user(name, old, READ)
    async with open_provider(MongodbProvider, config) as provider:
        with pytest.raises(Exception, match="not authorized") as caught:
            await provider.set_password(NEW)
        assert isinstance(provider.error(caught.value), UpstreamError)


async def test_rabbitmq_gets_the_hash_alone_and_keeps_the_tags_of_the_user(rabbitmq: RabbitmqServer) -> None:
    with rabbitmq.fresh_user("administrator", "policymaker") as account:
        config = rabbitmq.config(**account, management_url=f"http://{rabbitmq.host}:{rabbitmq.management_port}")
        rabbitmq.api("PUT", f"user-limits/{account['username']}/max-connections", {"value": 7})
        async with open_provider(Rabbitmq, config) as provider:
            await provider.ping()
            assert await provider.set_password(NEW) is None
            await provider.ping()  # a connection that stands is not cut
        assert not await works(Rabbitmq, config)
        assert await works(Rabbitmq, {**config, "password": NEW})
        found = rabbitmq.api("GET", f"users/{account['username']}")
        assert (found["tags"], found["limits"]) == (["administrator", "policymaker"], {"max-connections": 7})
        secure = {"management_url": f"https://{rabbitmq.host}:{rabbitmq.management_tls_port}", "tls_ca": rabbitmq.ca}
        async with open_provider(Rabbitmq, {**config, **secure, "password": NEW}) as provider:
            await provider.set_password(NEW[::-1])
        assert await works(Rabbitmq, {**config, "password": NEW[::-1]})


async def test_a_rotation_of_rabbitmq_makes_the_password_and_a_preview_says_whether_it_can(
    rabbitmq: RabbitmqServer, tmp_path: Path
) -> None:
    with rabbitmq.fresh_user("administrator") as account:
        config = rabbitmq.config(**account, read_only=False)
        given = {"organization_id": "acme", "connector_type": "messaging", "provider": "rabbitmq"}
        async with ConnectorService(Settings(data_dir=tmp_path)) as service:
            made = await service.create({**given, "name": "Orders", "config": config})
            assert not (await service.preview_rotate(made["id"], {"generate": True}))["can_generate"]
            with pytest.raises(OperationNotSupported):
                await service.rotate(made["id"], {"generate": True})
            url = f"http://{rabbitmq.host}:{rabbitmq.management_port}"
            with pytest.raises(SecretsRequired):  # the password would go there too
                await service.update(made["id"], {"config": {"management_url": url}})
            await service.update(made["id"], {"config": {"management_url": url, "password": account["password"]}})
            assert (await service.preview_rotate(made["id"], {"generate": True}))["can_generate"]
            assert (await service.rotate(made["id"], {"generate": True, "grace_s": 0}))["generated"]
            assert (await service.test_connection(made["id"]))["success"]
        assert not await works(Rabbitmq, config)


async def test_rabbitmq_says_what_is_missing_where_it_cannot_set_a_password(rabbitmq: RabbitmqServer) -> None:
    url = f"http://{rabbitmq.host}:{rabbitmq.management_port}"

    async def refused(account: dict[str, str], **changes: Any) -> StudioError:
        async with open_provider(Rabbitmq, rabbitmq.config(**account, **changes)) as provider:
            with pytest.raises(StudioError) as caught:
                await provider.set_password(NEW)
        return caught.value

    with rabbitmq.fresh_user() as plain:
        assert isinstance(missing := await refused(plain), OperationNotSupported)
        assert "management_url" in missing.message
        assert isinstance(untagged := await refused(plain, management_url=url), UpstreamError)
        assert "tag administrator" in untagged.message
        rabbitmq.api("PUT", f"users/{plain['username']}", {"password": plain["password"], "tags": "management"})
        assert isinstance(await refused(plain, management_url=url), UpstreamError)
        wrong = {**plain, "password": "wrong"}
        assert isinstance(await refused(wrong, management_url=url), AuthFailed)
        another = f"http://{rabbitmq.host}:{rabbitmq.port}"  # speaks AMQP
        assert isinstance(await refused(plain, management_url=another), Unreachable | UpstreamError)
        assert await works(Rabbitmq, rabbitmq.config(**plain))


async def test_rabbitmq_s_management_api_is_behind_the_egress_gate(rabbitmq: RabbitmqServer) -> None:
    port = rabbitmq.management_port
    config = rabbitmq.config(management_url=f"http://{rabbitmq.host}:{port}")
    async with open_provider(
        Rabbitmq, config, network=Egress(private_open=True, deny=[f"127.0.0.1/32:{port}"])
    ) as provider:
        await provider.ping()
        with pytest.raises(EgressDenied):
            await provider.set_password(NEW)
