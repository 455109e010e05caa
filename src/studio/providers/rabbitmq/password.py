"""A new password for the user itself, through the server's management API: AMQP has no way to change one.

Source: the HTTP API's own reference, `/api/index.html` of the management plugin (`PUT /api/users/name`), and
https://www.rabbitmq.com/docs/passwords for the form of a hash.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from studio.contract.network import Network
from studio.contract.web import WebConfig, split_url
from studio.errors import AuthFailed, OperationNotSupported, StudioError, Unreachable, UpstreamError
from studio.providers._http.client import Answer, HttpClient, Request
from studio.providers._http.errors import translate

if TYPE_CHECKING:
    from studio.providers.rabbitmq.config import RabbitmqConfig

NO_URL = (
    "rabbitmq: a password is set upstream through the management API; give its address in management_url, "
    "or change the password there and give the new one"
)
_NOT_ALLOWED = (
    "the management API does not let this user set a password: RabbitMQ wants the tag administrator for that, even "
    "for one's own"
)


async def set_password(config: RabbitmqConfig, network: Network, new: str) -> None:
    """Replace the user's password and keep its tags. A salted hash alone is sent. Raises StudioError."""
    if config.management_url is None:
        raise OperationNotSupported(NO_URL)
    url = split_url(config.management_url)
    web = WebConfig.parse({
        "auth": {"type": "basic", "username": config.username, "password": config.password.get_secret_value()},
        "ssl_ca": config.tls_ca if url.scheme == "https" else None,
        "timeout_s": config.timeout_s, "connect_timeout_s": config.connect_timeout_s, "pool_size": 1,
    })  # fmt: skip
    path = f"{url.path.rstrip('/')}/api/users/{quote(config.username, safe='')}"
    client = HttpClient(web, url, network)
    try:
        async with AsyncExitStack() as stack:
            await client.open(stack)
            found = _object(await client.send(Request("GET", path, idempotent=True)))
            body = json.dumps({"tags": found.get("tags", ""), **hashed(new)}).encode()
            headers = {"Content-Type": "application/json"}
            _checked(await client.send(Request("PUT", path, headers=headers, body=body, idempotent=True)))
    except StudioError:
        raise
    except Exception as exc:
        raise translate(exc) or Unreachable("the management API cannot be reached") from exc


def hashed(password: str) -> dict[str, str]:
    """What RabbitMQ keeps of a password: base64 of a salt of four bytes and the SHA-256 of salt and password."""
    salt = secrets.token_bytes(4)
    digest = hashlib.sha256(salt + password.encode()).digest()
    return {
        "password_hash": base64.b64encode(salt + digest).decode("ascii"),
        "hashing_algorithm": "rabbit_password_hashing_sha256",
    }


def _checked(answer: Answer) -> Answer:
    """An answer that is none of a refusal. Its text is not repeated: it may be anybody's."""
    if answer.status < 300:
        return answer
    if answer.status in {401, 403}:
        if b"login failed" in answer.body[:1000].lower():
            raise AuthFailed("the management API refused the user name or the password")
        raise UpstreamError(_NOT_ALLOWED)
    if answer.status == 404:
        raise UpstreamError("the management API knows no such user, or is not at management_url")
    if answer.status >= 500:  # whether the password was set is not known
        raise Unreachable(f"the management API is in trouble ({answer.status}); try again")
    raise UpstreamError(f"the management API answered {answer.status}")


def _object(answer: Answer) -> dict[str, Any]:
    try:
        found = json.loads(_checked(answer).body)
    except ValueError:
        found = None
    if not isinstance(found, dict) or "tags" not in found:
        raise UpstreamError("what answers at management_url is not RabbitMQ's management API")
    return found
