"""`set_password` on real servers: the account's own new password counts for log-ins from then on, and no log has it."""

from __future__ import annotations

import secrets
from typing import Any

import pytest
from tests.upstreams.mariadb import Mariadb
from tests.upstreams.mongodb import READ, Mongodb
from tests.upstreams.redis import Redis as RedisServer

from studio.contract import Provider
from studio.errors import AuthFailed, UpstreamError
from studio.providers.mongodb.provider import Mongodb as MongodbProvider
from studio.providers.mysql.provider import Mysql
from studio.providers.redis.password import NOT_KEPT
from studio.providers.redis.provider import Redis
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
