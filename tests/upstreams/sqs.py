"""moto's SQS, an emulator over real HTTP: signatures and policies are checked, nothing survives a restart."""

from __future__ import annotations

import json
import secrets
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests import poison
from tests.servers import Server, StartFailed, certificates, fetch, listening

PROGRAM = Path(__file__).resolve().parents[2] / ".venv-servers" / "bin" / "moto_server"


class Moto(Server):
    """One account with three users and a role, and S3, STS and KMS beside SQS.

    `writer` may do everything in SQS, `reader` what the provider's page grants, `broker` only assume the role `lent`. In KMS `keeper` may use
    the key `alias/studio`, and `sealer` only encrypt with it.
    """

    secure = False

    def __init__(self) -> None:
        super().__init__()
        self.key = self.secret = ""
        self.reader = self.broker = self.keeper = self.sealer = ("", "")
        self.kms_key = ""
        self.role = ""

    @property
    def url(self) -> str:
        """The endpoint."""
        return f"{'https' if self.secure else 'http'}://{self.host}:{self.port}"

    def command(self) -> list[str]:
        """`moto_server` on loopback."""
        if not PROGRAM.exists():
            raise StartFailed("the servers' environment is missing; run: make servers")
        tls = [
            "-s",
            "-c",
            str(self.write("c.pem", certificates().cert)),
            "-k",
            str(self.write("k.pem", certificates().key)),
        ]
        return [str(PROGRAM), "-H", self.host, "-p", str(self.port), *(tls if self.secure else [])]

    def ready(self) -> bool:
        """Make the users as soon as it accepts, then have it check who asks."""
        if not listening(self.port):
            return False
        if not self.secure:
            self._guard()
        return True

    def _guard(self) -> None:
        iam = self.client("iam", "first", "first")
        everything = _policy(["sqs:*"])
        self.key, self.secret = _user(iam, "writer", everything)
        self.reader = _user(iam, "reader", _policy(["sqs:GetQueueUrl", "sqs:GetQueueAttributes", "sqs:ListQueues"]))
        self.broker = _user(iam, "broker", _policy(["sts:AssumeRole"]))
        self.keeper = _user(iam, "keeper", _policy(["kms:Encrypt", "kms:Decrypt"]))
        self.sealer = _user(iam, "sealer", _policy(["kms:Encrypt"]))
        kms = self.client("kms", "first", "first")
        self.kms_key = kms.create_key()["KeyMetadata"]["KeyId"]
        kms.create_alias(AliasName="alias/studio", TargetKeyId=self.kms_key)
        trust = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}
        document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
        self.role = iam.create_role(RoleName="lent", AssumeRolePolicyDocument=document)["Role"]["Arn"]
        iam.put_role_policy(RoleName="lent", PolicyName="it", PolicyDocument=_policy(["sqs:*", "s3:*"]))
        request = urllib.request.Request(
            f"{self.url}/moto-api/reset-auth", b"0", {"Content-Type": "text/plain"}, method="POST"
        )
        fetch(request, timeout=5).close()

    def client(self, service: str = "sqs", key: str | None = None, secret: str | None = None) -> Any:
        """botocore's own blocking client: the test's view that the product has no part in."""
        import botocore.session
        from botocore.config import Config

        with poison.lifted():
            return botocore.session.Session().create_client(
                service, region_name="us-east-1", endpoint_url=self.url, aws_access_key_id=key or self.key,
                aws_secret_access_key=secret or self.secret, config=Config(proxies={}), verify=False,
            )  # fmt: skip

    def create(self, name: str, **attributes: str) -> str:
        """Make a queue; its address."""
        more = {"FifoQueue": "true", **attributes} if name.endswith(".fifo") else attributes
        return str(self.client().create_queue(QueueName=name, Attributes=more)["QueueUrl"])

    def attributes(self, url: str) -> dict[str, str]:
        """What the server says of a queue."""
        found = self.client().get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        return {name: value for name, value in found.items() if name.startswith("Approximate")}

    def assumed(self) -> list[dict[str, Any]]:
        """What STS was asked for: each time a role was assumed, with its external id as it arrived."""
        with fetch(f"{self.url}/moto-api/data.json", timeout=5) as answer:
            return list(json.load(answer)["sts"]["AssumedRole"])

    def freeze(self) -> None:
        """Stop it in the middle of what it does; connections stay open."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def config(self, **changes: Any) -> dict[str, Any]:
        """A connector's configuration for this server; None leaves a field out."""
        fields = {
            "endpoint_url": self.url, "access_key_id": self.key, "secret_access_key": self.secret,
            "connect_timeout_s": 10.0, **changes,
        }  # fmt: skip
        return {name: value for name, value in fields.items() if value is not None}


class SecureMoto(Moto):
    """The same over TLS, without asking who comes."""

    secure = True


def _policy(actions: list[str]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, "Resource": "*"}]})


def _user(iam: Any, name: str, policy: str) -> tuple[str, str]:
    name = f"{name}-{secrets.token_hex(4)}"
    iam.create_user(UserName=name)
    iam.put_user_policy(UserName=name, PolicyName="it", PolicyDocument=policy)
    made = iam.create_access_key(UserName=name)["AccessKey"]
    return made["AccessKeyId"], made["SecretAccessKey"]


def _running(server: Server) -> Iterator[Any]:
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def moto() -> Iterator[Moto]:
    """The emulator of the whole run; tests isolate themselves by queue."""
    yield from _running(Moto())


@pytest.fixture
def own_moto() -> Iterator[Moto]:
    """One of a test's own, to end and to start again."""
    yield from _running(Moto())


@pytest.fixture(scope="module")
def secure_moto() -> Iterator[SecureMoto]:
    """One with TLS."""
    yield from _running(SecureMoto())
