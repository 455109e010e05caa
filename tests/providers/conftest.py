"""Fixtures of upstream servers: one import a kind; each starts on first use and ends with the run."""

from tests.upstreams.redis import own_redis, redis_db, redis_server  # noqa: F401
