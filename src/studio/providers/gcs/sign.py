"""V4 signed URLs (Google Cloud Storage, "V4 signing process with your own program")."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

if TYPE_CHECKING:
    from studio.providers.gcs.http import Account


def signed_url(account: Account, origin: str, path: str, method: str, seconds: int, now: datetime) -> str:
    """A URL for one method on one path, good from `now` for so many seconds."""
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    scope = f"{stamp[:8]}/auto/storage/goog4_request"
    fields = {
        "X-Goog-Algorithm": "GOOG4-RSA-SHA256",
        "X-Goog-Credential": f"{account.email}/{scope}",
        "X-Goog-Date": stamp,
        "X-Goog-Expires": str(seconds),
        "X-Goog-SignedHeaders": "host",
    }
    query = "&".join(f"{name}={quote(value, safe='-_.~')}" for name, value in sorted(fields.items()))
    canonical = f"{method}\n{path}\n{query}\nhost:{urlsplit(origin).netloc}\n\nhost\nUNSIGNED-PAYLOAD"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    signature = account.sign(f"GOOG4-RSA-SHA256\n{stamp}\n{scope}\n{digest}".encode()).hex()
    return f"{origin}{path}?{query}&X-Goog-Signature={signature}"
