"""Signature Version 4: AWS's own published example, and botocore as a second opinion."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import pytest
from tests import poison
from tests.upstreams.httpbin import PROGRAMS

from studio.contract.web import AwsSigV4Auth
from studio.providers._http.sigv4 import signed_headers

NOW = datetime(2015, 8, 30, 12, 36, tzinfo=UTC)
KEYS = {"access_key_id": "AKIDEXAMPLE", "secret_access_key": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"}
ORACLE = """
import json, sys, datetime
from botocore import auth, awsrequest, credentials
class Clock(datetime.datetime):
    @classmethod
    def utcnow(cls): return cls(2015, 8, 30, 12, 36)
    @classmethod
    def now(cls, tz=None): return cls(2015, 8, 30, 12, 36, tzinfo=tz)
auth.get_current_datetime = lambda remove_tzinfo=True: datetime.datetime(2015, 8, 30, 12, 36)
for case in json.load(sys.stdin):
    request = awsrequest.AWSRequest(case["method"], case["url"], case["headers"], case["body"].encode())
    keys = credentials.Credentials(case["key"], case["secret"], case["token"])
    kind = auth.S3SigV4Auth if case["service"] == "s3" else auth.SigV4Auth
    kind(keys, case["service"], case["region"]).add_auth(request)
    print(request.headers["Authorization"])
"""


def sign(service: str = "service", token: str | None = None, **request: Any) -> str:
    fields = {"type": "aws_sigv4", "region": "us-east-1", "service": service, **KEYS}
    auth = AwsSigV4Auth(**fields, **({"session_token": token} if token else {}))
    given = {"method": "GET", "path": "/", "query": (), "headers": {}, "body": b"", "host": "example.amazonaws.com"}
    return signed_headers(auth, now=NOW, **{**given, **request})["Authorization"]


@pytest.mark.parametrize(
    ("request_", "signature"),
    [
        ({}, "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),  # get-vanilla
        ({"method": "POST"}, "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),  # post-vanilla
        (  # get-vanilla-query-order-key-case
            {"query": (("Param2", "value2"), ("Param1", "value1"))},
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
    ],
)
def test_the_published_examples_come_out(request_: dict[str, Any], signature: str) -> None:
    assert sign(**request_).endswith(f"Signature={signature}")


def test_botocore_signs_the_same() -> None:
    cases = [
        (service, method, path, query, body, token)
        for service in ("execute-api", "s3")
        for method in ("GET", "PUT")
        for path, query in (
            ("/", ()),
            ("/a%20b/%C3%A9", (("q", "a b"), ("z", ""), ("a", "/=&+~é"))),
            ("/things:batch", (("x", "2"), ("x", "1"))),
        )
        for body, token in (("", None), ('{"a": 1}', "session/token+=="))
    ]
    given = [
        {
            "service": service, "method": method, "body": body, "token": token, "region": "us-east-1",
            "key": KEYS["access_key_id"], "secret": KEYS["secret_access_key"],
            "headers": {"Content-Type": "application/json"} if body else {},
            "url": f"https://api.example.com{path}?" + "&".join(f"{k}={quote(v, safe='~')}" for k, v in query),
        }
        for service, method, path, query, body, token in cases
    ]  # fmt: skip
    done = subprocess.run(
        [str(PROGRAMS / "python"), "-c", ORACLE], input=json.dumps(given), capture_output=True, text=True, check=False,
        env=poison.clean(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ours = [
        sign(
            service, token, method=method, path=path, query=query, body=body.encode(), host="api.example.com",
            headers={"Content-Type": "application/json"} if body else {},
        )
        for service, method, path, query, body, token in cases
    ]  # fmt: skip
    assert ours == done.stdout.splitlines()
