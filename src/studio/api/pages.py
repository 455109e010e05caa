"""The one page: the API browser at `/docs`, under a policy that names what it may load."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache

from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import Response

_CDN = "https://cdn.jsdelivr.net"


@cache
def page(openapi_url: str, title: str) -> Response:
    """Swagger UI on an OpenAPI document."""
    html = get_swagger_ui_html(openapi_url=openapi_url, title=title)
    html.headers["content-security-policy"] = _policy(bytes(html.body))
    return html


def _policy(page: bytes) -> str:
    """Its own inline script by digest (CSP3, 2.3.1), Swagger UI from its CDN, and calls to this service."""
    scripts = re.findall(rb"<script>(.*?)</script>", page, re.DOTALL)
    digests = [f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'" for script in scripts]
    return (
        f"default-src 'none'; script-src {_CDN} {' '.join(digests)}; style-src {_CDN} 'unsafe-inline'; "
        "img-src data: https://fastapi.tiangolo.com; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
