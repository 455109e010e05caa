"""What aiohttp raises and what an upstream's status means, as errors of ours.

Until an answer has been read the other side may be anybody, so nothing that it sent is repeated.
An error answer is quoted, bounded and without the connector's credentials.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from studio.errors import AuthFailed, InvalidConfig, RateLimited, StudioError, Timeout, Unreachable, UpstreamError
from studio.providers._http.body import Answer
from studio.providers._http.redact import Redactor

_EXCERPT = 500
_NOT_SHOWN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
_TRUST = {
    10: "the server's certificate has expired",
    18: "the server's certificate is self-signed and not in ssl_ca",
    19: "the server's certificate comes from a CA that is neither in ssl_ca nor known to this system",
    20: "the server's certificate comes from a CA that is neither in ssl_ca nor known to this system",
    62: "the server's certificate is for another host name",
    64: "the server's certificate is for another IP address",
}
_ADVICE = {
    400: "check the parameters",
    403: "the credentials are known there but may not do this; use others, or ask for less",
    404: "check the path and the ids in it",
    405: "this path does not take that method",
    409: "it conflicts with what is there now; read it again first",
    410: "it is gone for good",
    412: "it changed since it was read; read it again first",
    413: "the request is too large for the upstream",
    422: "check the parameters",
    503: "the upstream is overloaded or down for maintenance; try again later",
}
MAX_RETRY_AFTER_S = 86_400.0


def translate(exc: Exception) -> StudioError | None:
    """A failed exchange as one of ours; None for what no driver raises."""
    import aiohttp

    if isinstance(exc, aiohttp.ClientConnectorCertificateError):
        return tls_error(exc.certificate_error)
    if isinstance(exc, aiohttp.ClientConnectorSSLError | aiohttp.ClientConnectorError):
        return connect_error(exc.os_error)
    if isinstance(exc, aiohttp.ServerTimeoutError):
        return Unreachable("the host did not take the connection within connect_timeout_s")
    if isinstance(exc, aiohttp.ClientPayloadError):
        return Unreachable("the connection was cut in the middle of the answer")
    if isinstance(exc, aiohttp.ClientConnectionError):
        return Unreachable("the connection was closed before an answer came")
    if isinstance(exc, aiohttp.ClientError | aiohttp.http.HttpProcessingError):
        return UpstreamError("the other side does not answer in HTTP that can be read")
    if isinstance(exc, ssl.SSLError | OSError | asyncio.IncompleteReadError) and not isinstance(exc, TimeoutError):
        return connect_error(exc)
    if isinstance(exc, TimeoutError):
        return Timeout("the upstream did not answer in time")
    return None


def connect_error(exc: BaseException) -> StudioError:
    """A connection that was not made, without a byte of what the other side sent."""
    if isinstance(exc, ssl.SSLError | ssl.CertificateError):
        return tls_error(exc)
    if isinstance(exc, ConnectionRefusedError):
        return Unreachable(
            "the host refused the connection: nothing listens on that port, or a firewall answers for it"
        )
    if isinstance(exc, ConnectionError | asyncio.IncompleteReadError):
        return Unreachable("the other side closed the connection; does it speak HTTP, and TLS where the URL is https?")
    if isinstance(exc, TimeoutError):
        return Unreachable("the host did not take the connection within connect_timeout_s")
    return Unreachable("the host cannot be reached; check host, port and the network between")


def tls_error(exc: BaseException) -> Unreachable:
    """A TLS handshake that failed."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return Unreachable("TLS failed: " + _TRUST.get(exc.verify_code, "the server's certificate is not trusted"))
    return Unreachable("TLS failed: the two sides found no common ground; does the server speak TLS on that port?")


def bad_ca(exc: Exception) -> InvalidConfig:
    """The configured CA is no certificate."""
    return InvalidConfig.at("config.ssl_ca", "holds no certificate that can be used")  # type: ignore[return-value]


def refused(answer: Answer, redactor: Redactor) -> StudioError:
    """An answer with an error status, or a redirect that is not followed."""
    status, wait = answer.status, retry_after(answer)
    if status in {401, 407}:
        return AuthFailed(f"the upstream refused the connector's credentials ({status}); check auth and headers")
    said = excerpt(answer, redactor)
    if status == 429:
        return RateLimited(f"the upstream asks for fewer requests (429){said}", retry_after_s=wait)
    if 300 <= status < 400:
        return UpstreamError(f"the upstream redirects to another place ({status}), and that is not followed")
    advice = f"; {_ADVICE[status]}" if status in _ADVICE else ""
    return UpstreamError(f"the upstream answered {status}{said}{advice}", retry_after_s=wait)


def excerpt(answer: Answer, redactor: Redactor) -> str:
    """The beginning of an error answer's text as `: "…"`, or nothing where it is no text."""
    kind = answer.media_type
    if not answer.body or not ("json" in kind or "xml" in kind or kind.startswith("text/")) or "html" in kind:
        return ""
    # A secret that the cut would halve is taken out before.
    text = redactor.text(answer.body[: 20 * _EXCERPT].decode("utf-8", "replace"))
    text = _NOT_SHOWN.sub(" ", text).strip()
    return f': "{text[:_EXCERPT]}"' if text else ""


def retry_after(answer: Answer) -> float | None:
    """Seconds from a `Retry-After` header (RFC 9110, section 10.2.3); None where there is none of use."""
    text = answer.headers.get("Retry-After", "").strip()
    try:
        seconds = float(text) if text.isdecimal() else (_date(text) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError):
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S)


def _date(text: str) -> datetime:
    found = parsedate_to_datetime(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)
