"""SeaweedFS, a real object store that speaks S3: signatures are checked, and each account has its own rights."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import hmac
import http.client
import json
import secrets
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, Queue
from typing import Any
from urllib.parse import quote

import pytest
from tests import poison
from tests.servers import Server, StartFailed, certificates, fetch, free_port

PROGRAM = Path(__file__).resolve().parents[2] / ".venv-servers" / "bin" / "weed"
BUCKET = "studio-tests"


class ObjectServer(Server):
    """What the S3-speaking servers of the tests share: two keys, a bucket, and a client without the product."""

    key = "studioadmin"
    bucket = BUCKET

    def __init__(self) -> None:
        super().__init__()
        self.secret = secrets.token_urlsafe(24)

    @property
    def url(self) -> str:
        """The S3 endpoint."""
        return f"http://{self.host}:{self.port}"

    def client(self) -> Any:
        """botocore's own blocking client, as the administrator."""
        import botocore.session
        from botocore.config import Config

        with poison.lifted():
            return botocore.session.Session().create_client(
                "s3", region_name="us-east-1", endpoint_url=self.url, aws_access_key_id=self.key,
                aws_secret_access_key=self.secret,
                config=Config(signature_version="s3v4", proxies={}, request_checksum_calculation="when_required",
                              response_checksum_validation="when_required", s3={"addressing_style": "path"}),
            )  # fmt: skip

    def put(self, name: str, body: bytes = b"", bucket: str = BUCKET) -> None:
        """Store an object under its whole name."""
        self.client().put_object(Bucket=bucket, Key=name, Body=body)

    def read(self, name: str, bucket: str = BUCKET) -> bytes:
        """An object by its whole name."""
        found: bytes = self.client().get_object(Bucket=bucket, Key=name)["Body"].read()
        return found

    def names(self, prefix: str = "") -> list[str]:
        """Whole names below a whole prefix."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return [entry["Key"] for page in pages for entry in page.get("Contents", ())]

    def fill(self, names: Iterable[str]) -> None:
        """Store a small object under each whole name, as fast as the server takes them."""
        now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        scope = f"{now[:8]}/us-east-1/s3/aws4_request"
        signing = functools.reduce(_hmac, scope.split("/"), f"AWS4{self.secret}".encode())
        queue = Queue[str]()
        for name in names:
            queue.put(name)

        def work() -> None:
            link = http.client.HTTPConnection(self.host, self.port)
            with contextlib.closing(link), contextlib.suppress(Empty):
                while True:
                    path = f"/{self.bucket}/{quote(queue.get_nowait())}"
                    link.request("PUT", path, b"x", self._signed(path, now, scope, signing))
                    answer = link.getresponse()
                    answer.read()
                    assert answer.status == 200, answer.status

        with ThreadPoolExecutor(8) as pool:
            for done in [pool.submit(work) for _ in range(8)]:
                done.result()

    def _signed(self, path: str, now: str, scope: str, signing: bytes) -> dict[str, str]:
        named = "host;x-amz-content-sha256;x-amz-date"
        canonical = (
            f"PUT\n{path}\n\nhost:{self.host}:{self.port}\nx-amz-content-sha256:UNSIGNED-PAYLOAD\n"
            f"x-amz-date:{now}\n\n{named}\nUNSIGNED-PAYLOAD"
        )
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        signature = _hmac(signing, f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{digest}").hex()
        credential = f"AWS4-HMAC-SHA256 Credential={self.key}/{scope}, SignedHeaders={named}, Signature={signature}"
        return {"x-amz-date": now, "x-amz-content-sha256": "UNSIGNED-PAYLOAD", "Authorization": credential}

    def uploads(self, prefix: str = "") -> list[str]:
        """Names of multipart uploads that were begun and neither completed nor aborted."""
        found = self.client().list_multipart_uploads(Bucket=self.bucket, Prefix=prefix)
        return [upload["Key"] for upload in found.get("Uploads", ())]


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


class Seaweedfs(ObjectServer):
    """Master, volume, filer and S3 gateway in one process; `reader` may only read and list."""

    reader = ("studioreader", "reader-secret")

    def __init__(self) -> None:
        super().__init__()
        self.tls_port = free_port()

    def prepare(self) -> None:
        """Accounts and a certificate."""
        accounts = [
            _account("admin", self.key, self.secret, ["Admin", "Read", "List", "Tagging", "Write"]),
            _account("reader", *self.reader, [f"Read:{BUCKET}", f"List:{BUCKET}"]),
        ]
        self.write("s3.json", json.dumps({"identities": accounts}))
        self.write("c.pem", certificates().cert)
        self.write("k.pem", certificates().key)
        (self.dir / "data").mkdir()

    def command(self) -> list[str]:
        """`weed mini`, with everything it would show to others switched off."""
        if not PROGRAM.exists():
            raise StartFailed("the servers' environment is missing; run: make servers")
        names = ["master", "volume", "filer", "admin"]
        ports = [f"-{name}.port{kind}={free_port()}" for name in names for kind in ("", ".grpc")]
        return [
            str(PROGRAM), "-logtostderr", "-v=0", "mini", f"-dir={self.dir / 'data'}", f"-ip={self.host}",
            f"-ip.bind={self.host}", "-master.telemetry=false", "-webdav=false", "-admin.ui=false", *ports,
            f"-s3.port={self.port}", f"-s3.port.grpc={free_port()}", "-s3.port.iceberg=0", "-s3.port.lance=0",
            f"-s3.config={self.dir / 's3.json'}", "-s3.autoCreateBucket=false", f"-filer.localSocket={self.dir / 'f'}",
            f"-s3.localSocket={self.dir / 's'}", f"-s3.port.https={self.tls_port}",
            f"-s3.cert.file={self.dir / 'c.pem'}", f"-s3.key.file={self.dir / 'k.pem'}",
        ]  # fmt: skip

    def ready(self) -> bool:
        """Its own health route answers, and the bucket is there."""
        return answers(f"{self.url}/healthz") and self._bucket()

    def _bucket(self) -> bool:
        try:
            if BUCKET not in [bucket["Name"] for bucket in self.client().list_buckets()["Buckets"]]:
                self.client().create_bucket(Bucket=BUCKET)
        except Exception:  # it says 200 a little before it takes writes
            return False
        return True

    def config(self, **changes: Any) -> dict[str, Any]:
        """A connector's configuration for this server; None leaves a field out."""
        fields = {
            "endpoint_url": self.url, "bucket": BUCKET, "access_key_id": self.key, "secret_access_key": self.secret,
            **changes,
        }  # fmt: skip
        return {name: value for name, value in fields.items() if value is not None}


def _account(name: str, key: str, secret: str, actions: list[str]) -> dict[str, Any]:
    return {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}


def answers(url: str) -> bool:
    """Whether a GET is answered with 200."""
    try:
        with fetch(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def running(server: Server) -> Iterator[Any]:
    """Start it, hand it out, and end it."""
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def seaweedfs() -> Iterator[Seaweedfs]:
    """The one of the whole run; tests isolate themselves by prefix."""
    yield from running(Seaweedfs())


@pytest.fixture
def own_seaweedfs() -> Iterator[Seaweedfs]:
    """One of a test's own, to kill and restart."""
    yield from running(Seaweedfs())
