"""The two ways out that an alert has by itself: a signed webhook, and mail. Both pass the egress gate.

The signature is that of Standard Webhooks (https://www.standardwebhooks.com): HMAC-SHA256 of
`id.timestamp.body` under the shared secret, so a receiver can tell that it is ours and not a replay.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import json
import smtplib
import socket
import ssl
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from email.message import EmailMessage
from typing import Any
from urllib.parse import unquote, urlsplit

from studio.contract.network import Network
from studio.contract.web import WebConfig, split_url
from studio.errors import AuthFailed, InvalidRequest, StudioError, Timeout, Unreachable, UpstreamError
from studio.providers._http.client import HttpClient, Request
from studio.providers._http.errors import translate
from studio.settings import Settings

TIMEOUT_S = 15.0
_LIMITS = WebConfig(timeout_s=TIMEOUT_S, connect_timeout_s=5, max_bytes=65_536, pool_size=1)


def signed(secret: str, alert_id: str, timestamp: int, body: bytes) -> str:
    """The header `webhook-signature`."""
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True) if secret.startswith("whsec_") else b""
    except binascii.Error:
        key = b""
    digest = hmac.digest(key or secret.encode(), f"{alert_id}.{timestamp}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(digest).decode('ascii')}"


async def webhook(settings: Settings, network: Network, alert: Mapping[str, Any]) -> None:
    """POST an alert. Raises StudioError: it was not taken."""
    assert settings.alert_webhook_url is not None
    try:
        url = split_url(settings.alert_webhook_url.get_secret_value())
    except ValueError as exc:
        raise InvalidRequest(f"STUDIO_ALERT_WEBHOOK_URL: {exc}") from None
    body = json.dumps(alert).encode()
    timestamp = int(time.time())
    headers = {"Content-Type": "application/json", "webhook-id": str(alert["id"]), "webhook-timestamp": str(timestamp)}
    if settings.alert_webhook_secret is not None:
        secret = settings.alert_webhook_secret.get_secret_value()
        headers["webhook-signature"] = signed(secret, str(alert["id"]), timestamp, body)
    client = HttpClient(_LIMITS, url, network)
    try:
        async with AsyncExitStack() as stack, asyncio.timeout(TIMEOUT_S):
            await client.open(stack)
            # Twice is not worse than once: the id tells the receiver.
            await client.fetch(Request("POST", url.path or "/", (), headers, body, idempotent=True))
    except StudioError as exc:
        raise type(exc)("the webhook was not taken; check STUDIO_ALERT_WEBHOOK_URL and its receiver") from exc
    except TimeoutError as exc:
        raise Timeout("the webhook's receiver did not answer in time") from exc
    except Exception as exc:
        raise translate(exc) or Unreachable("the webhook's receiver cannot be reached") from exc


async def email(settings: Settings, network: Network, alert: Mapping[str, Any]) -> None:
    """Send an alert to STUDIO_ALERT_EMAIL_TO. Raises StudioError: it was not taken."""
    if settings.smtp_url is None:
        raise InvalidRequest("STUDIO_SMTP_URL: is needed beside STUDIO_ALERT_EMAIL_TO")
    url = urlsplit(settings.smtp_url.get_secret_value())
    secure = url.scheme == "smtps"
    host, port = url.hostname or "", url.port or (465 if secure else 587)
    try:
        async with asyncio.timeout(TIMEOUT_S):
            sock = await network.connect(host, port)
            work = _Post(sock, host, port, secure, url.username, url.password)
            await asyncio.to_thread(work.post, message(settings, alert))
    except TimeoutError as exc:
        raise Timeout("the mail server did not answer in time") from exc
    except smtplib.SMTPAuthenticationError as exc:
        raise AuthFailed("the mail server refused the credentials of STUDIO_SMTP_URL") from exc
    except smtplib.SMTPException as exc:
        raise UpstreamError(f"the mail server did not take the message ({type(exc).__name__})") from exc
    except OSError as exc:
        raise Unreachable("the mail server cannot be reached, or its certificate does not hold") from exc


def message(settings: Settings, alert: Mapping[str, Any]) -> EmailMessage:
    """An alert as mail: who, what, where it fails, and what usually mends it."""
    connector = alert.get("connector", {})
    name = str(connector.get("name", "Studio Connectors"))
    mail = EmailMessage()
    # A header holds one line; a connector's name is checked for that when it is given, and here once more.
    mail["Subject"] = " ".join(f"[studio] {name}: {alert['alert'].replace('_', ' ')}".split())
    mail["From"] = settings.alert_email_from
    mail["To"] = ", ".join(settings.alert_email_to)
    mail["Message-ID"] = f"<{alert['id']}@studio-connectors>"
    lines = {
        "What": alert.get("message"),
        "Stage": alert.get("stage"),
        "Usual fix": alert.get("fix"),
        "Connector": f"{name} ({connector['provider']}, {connector['id']})" if connector else None,
        "Organization": alert.get("organization_id"),
        "Agents": ", ".join(alert.get("agents", ())) or None,
        "At": alert.get("at"),
    }
    mail.set_content("".join(f"{label}: {text}\n" for label, text in lines.items() if text))
    return mail


class _Post(smtplib.SMTP):
    """SMTP on a connection that has passed the gate. Clear text only to this machine: elsewhere STARTTLS or smtps."""

    def __init__(
        self, sock: socket.socket, host: str, port: int, secure: bool, username: str | None, password: str | None
    ) -> None:
        super().__init__(timeout=TIMEOUT_S)
        self._given, self._name, self._at, self._secure = sock, host, port, secure
        self._username, self._password = username, password

    def _get_socket(self, host: str, port: int, timeout: Any) -> socket.socket:
        self._given.settimeout(TIMEOUT_S)
        if self._secure:
            return ssl.create_default_context().wrap_socket(self._given, server_hostname=host)
        return self._given

    def post(self, message: EmailMessage) -> None:
        """Hand over one message."""
        try:
            self._host = self._name
            self.connect(self._name, self._at)
            self.ehlo()
            if not self._secure and self.has_extn("starttls"):
                self.starttls(context=ssl.create_default_context())
                self.ehlo()
            elif not self._secure and not _is_local(self._given):
                raise smtplib.SMTPNotSupportedError("the server offers no STARTTLS")
            if self._username:
                self.login(unquote(self._username), unquote(self._password or ""))
            self.send_message(message)
            self.quit()
        finally:
            self.close()
            self._given.close()


def _is_local(sock: socket.socket) -> bool:
    return str(sock.getpeername()[0]) in {"127.0.0.1", "::1"}
