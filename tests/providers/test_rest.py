"""The rest provider on a real httpbin."""

from __future__ import annotations

from typing import Any

import pytest
from tests.upstreams.httpbin import Httpbin

from studio.testing.api import ApiConformance


class TestRest(ApiConformance):
    """The family's suite."""

    kind = "rest"
    endpoint = "base_url"
    one = "GET /anything/7"
    slow = "GET /delay/10"
    broken = "GET /status/418"
    write = "POST /post"

    @pytest.fixture
    async def config(self, httpbin: Httpbin) -> dict[str, Any]:
        return httpbin.config()
