"""Fixtures of upstream servers: one import a kind; each starts on first use and ends with the run."""

from tests.upstreams.azurite import azurite, own_azurite  # noqa: F401
from tests.upstreams.gcs import gcs, own_gcs  # noqa: F401
from tests.upstreams.graphql import graphql_api, graphql_tls, own_graphql  # noqa: F401
from tests.upstreams.httpbin import httpbin, own_httpbin  # noqa: F401
from tests.upstreams.kafka import kafka, own_kafka, tansu  # noqa: F401
from tests.upstreams.mariadb import mariadb, mariadb_database, own_mariadb  # noqa: F401
from tests.upstreams.minio import minio, own_minio  # noqa: F401
from tests.upstreams.mongodb import mongodb_database, mongodb_emulator, mongodb_server  # noqa: F401
from tests.upstreams.oidc import oidc, oidc_server  # noqa: F401
from tests.upstreams.rabbitmq import own_rabbitmq, queue, rabbitmq  # noqa: F401
from tests.upstreams.redis import module_redis, own_redis, redis_db, redis_server  # noqa: F401
from tests.upstreams.seaweedfs import own_seaweedfs, seaweedfs  # noqa: F401
from tests.upstreams.soap import own_soap, soap_service, soap_tls  # noqa: F401
from tests.upstreams.sqs import moto, own_moto, secure_moto  # noqa: F401
