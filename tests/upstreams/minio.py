"""MinIO's own gateway code, as JuiceFS ships it, over a folder. It is the gateway of 2021, not today's MinIO."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.servers import StartFailed
from tests.upstreams.seaweedfs import BUCKET, ObjectServer, answers, running

PROGRAM = Path(__file__).resolve().parents[2] / ".venv-servers" / "bin" / "juicefs"


class Minio(ObjectServer):
    """A MinIO server with one user, the administrator."""

    def prepare(self) -> None:
        """Make the volume."""
        if not PROGRAM.exists():
            raise StartFailed("the servers' environment is missing; run: make servers")
        self.run(
            str(PROGRAM), "format", self._meta, "tst", "--storage", "file", "--bucket", f"{self.dir / 'data'}/",
            "--trash-days", "0",
        )  # fmt: skip

    @property
    def _meta(self) -> str:
        return f"sqlite3://{self.dir / 'meta.db'}"

    def identity(self) -> dict[str, Any]:
        """The administrator's name and password travel in the environment: that is MinIO's way."""
        given = super().identity()
        more = {"MINIO_ROOT_USER": self.key, "MINIO_ROOT_PASSWORD": self.secret, "MINIO_BROWSER": "off"}
        return {**given, "env": {**given["env"], **more, "HOME": str(self.dir)}}

    def command(self) -> list[str]:
        """`juicefs gateway`, in the foreground."""
        return [
            str(PROGRAM), "gateway", self._meta, f"{self.host}:{self.port}", "--multi-buckets", "--keep-etag",
            "--object-tag", "--object-meta", "--no-usage-report", "--no-agent", "--no-bgjob", "--backup-meta", "0",
            "--metrics", "127.0.0.1:0", "--cache-dir", str(self.dir / "cache"), "--log", str(self.dir / "jfs.log"),
        ]  # fmt: skip

    def ready(self) -> bool:
        """MinIO's own health route answers, and the bucket is there."""
        if not answers(f"{self.url}/minio/health/ready"):
            return False
        client = self.client()
        if BUCKET not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
            client.create_bucket(Bucket=BUCKET)
        return True

    def config(self, **changes: Any) -> dict[str, Any]:
        """A connector's configuration for this server; None leaves a field out."""
        fields = {
            "endpoint": f"{self.host}:{self.port}", "secure": False, "bucket": BUCKET, "access_key": self.key,
            "secret_key": self.secret, **changes,
        }  # fmt: skip
        return {name: value for name, value in fields.items() if value is not None}


@pytest.fixture(scope="session")
def minio() -> Iterator[Minio]:
    """The one of the whole run; tests isolate themselves by prefix."""
    yield from running(Minio())


@pytest.fixture
def own_minio() -> Iterator[Minio]:
    """One of a test's own, to kill and restart."""
    yield from running(Minio())
