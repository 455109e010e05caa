"""AWS Signature Version 4, as AWS documents it ("Create a signed AWS API request")."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from datetime import datetime
from urllib.parse import quote

from studio.contract.web import AwsSigV4Auth

_SIGNED = ("content-type", "host")


def signed_headers(
    auth: AwsSigV4Auth,
    *,
    method: str,
    host: str,
    path: str,
    query: Sequence[tuple[str, str]],
    headers: Mapping[str, str],
    body: bytes,
    now: datetime,
) -> dict[str, str]:
    """The headers to add to a request.

    Args:
        host: the Host header as it will be sent.
        path: percent-encoded, as it will be sent.
        query: decoded names and values.
        headers: those that are sent too; `Content-Type` and `X-Amz-*` among them are signed.
        now: the time, in UTC.
    """
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    digest = hashlib.sha256(body).hexdigest()
    added = {"X-Amz-Date": stamp}
    if auth.service == "s3":
        added["X-Amz-Content-Sha256"] = digest
    if auth.session_token is not None:
        added["X-Amz-Security-Token"] = auth.session_token.get_secret_value()
    names = {name.lower(): value for name, value in {**headers, **added, "host": host}.items()}
    signed = {
        name: " ".join(names[name].split()) for name in sorted(names) if name in _SIGNED or name.startswith("x-amz-")
    }
    request = "\n".join(
        [method, _path(path, auth.service), _query(query), *(f"{name}:{value}" for name, value in signed.items()), "",
         ";".join(signed), digest]
    )  # fmt: skip
    scope = f"{stamp[:8]}/{auth.region}/{auth.service}/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(request.encode()).hexdigest()])
    signature = hmac.new(_key(auth, stamp[:8]), text.encode(), hashlib.sha256).hexdigest()
    added["Authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={auth.access_key_id}/{scope}, SignedHeaders={';'.join(signed)}, "
        f"Signature={signature}"
    )
    return added


def _path(path: str, service: str) -> str:
    """Every service but S3 encodes the path a second time."""
    return path or "/" if service == "s3" else quote(path or "/", safe="/~")


def _query(query: Sequence[tuple[str, str]]) -> str:
    pairs = sorted((quote(name, safe="~"), quote(value, safe="~")) for name, value in query)
    return "&".join(f"{name}={value}" for name, value in pairs)


def _key(auth: AwsSigV4Auth, day: str) -> bytes:
    key = b"AWS4" + auth.secret_access_key.get_secret_value().encode()
    for part in (day, auth.region, auth.service, "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key
