"""Log-in and TLS before a Kafka emulator that has neither: run as a program of its own.

    python kafka_front.py BACKEND PORT CERTIFICATE KEY USERS

BACKEND is the emulator's address on PORT. In front of it, on the same port of other loopback addresses: SASL_SSL
on 127.0.0.1, SASL_PLAINTEXT on 127.0.0.2, PLAINTEXT on 127.0.0.3. Answers that name the emulator are made to
name the address that was asked (same length, so no frame changes). USERS is a JSON file, name to password.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import ssl
import struct
import sys
from pathlib import Path

API_VERSIONS, SASL_HANDSHAKE, SASL_AUTHENTICATE = 18, 17, 36
NAMING = {3, 10, 60}
"""Metadata, FindCoordinator and DescribeCluster: their answers hold the broker's address."""
MECHANISMS = {"PLAIN": None, "SCRAM-SHA-256": "sha256", "SCRAM-SHA-512": "sha512"}
ROUNDS = 4096


class Refused(Exception):
    """The client is not who it says."""


class Scram:
    """The server's side of one exchange (RFC 5802)."""

    def __init__(self, digest: str, users: dict[str, str]) -> None:
        self.digest, self.users = digest, users
        self.first = ""

    def step(self, payload: bytes) -> tuple[bytes, bool]:
        """The answer, and whether the client is in."""
        return (self._finish(payload), True) if self.first else (self._start(payload), False)

    def _start(self, payload: bytes) -> bytes:
        self.bare = payload.decode().split(",", 2)[2]
        fields = dict(part.split("=", 1) for part in self.bare.split(","))
        password = self.users.get(fields["n"].replace("=2C", ",").replace("=3D", "="))
        salt = os.urandom(16)
        # an unknown user gets a challenge too, as on a real broker
        secret = (password or os.urandom(8).hex()).encode()
        self.salted = hashlib.pbkdf2_hmac(self.digest, secret, salt, ROUNDS)
        self.nonce = fields["r"] + base64.b64encode(os.urandom(18)).decode()
        self.first = f"r={self.nonce},s={base64.b64encode(salt).decode()},i={ROUNDS}"
        return self.first.encode()

    def _finish(self, payload: bytes) -> bytes:
        without, _, proof = payload.decode().rpartition(",p=")
        message = ",".join([self.bare, self.first, without]).encode()
        client_key = self._mac(self.salted, b"Client Key")
        signature = self._mac(hashlib.new(self.digest, client_key).digest(), message)
        expected = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        if f"r={self.nonce}" not in without or not hmac.compare_digest(expected, base64.b64decode(proof)):
            raise Refused
        return b"v=" + base64.b64encode(self._mac(self._mac(self.salted, b"Server Key"), message))

    def _mac(self, key: bytes, message: bytes) -> bytes:
        return hmac.new(key, message, self.digest).digest()


class Client:
    """One connection of a client, and its own one to the emulator."""

    def __init__(self, users: dict[str, str], backend: str, asked: str, secure: bool) -> None:
        self.users = users
        self.backend, self.asked = backend.encode(), asked.encode()
        self.inside = not secure
        self.mechanism = ""
        self.scram: Scram | None = None
        self.pending: dict[int, int] = {}

    def before_login(self, frame: bytes) -> bytes | None:
        """The answer to a frame of the log-in; None for one to pass on. Raises Refused."""
        api, version, correlation = struct.unpack_from(">hhi", frame)
        if self.inside or api == API_VERSIONS:
            self.pending[correlation] = api
            return None
        body = frame[10 + max(0, struct.unpack_from(">h", frame, 8)[0]) :]
        head = struct.pack(">i", correlation)
        if api == SASL_HANDSHAKE:
            self.mechanism = body[2:].decode()
            digest = MECHANISMS.get(self.mechanism)
            self.scram = Scram(digest, self.users) if digest else None
            names = b"".join(struct.pack(">h", len(name)) + name.encode() for name in MECHANISMS)
            return head + struct.pack(">hi", 0 if self.mechanism in MECHANISMS else 33, len(MECHANISMS)) + names
        if api == SASL_AUTHENTICATE and version < 2 and self.mechanism:
            answer = self.authenticate(body[4:])
            life = struct.pack(">q", 0) if version else b""
            return head + struct.pack(">hhi", 0, -1, len(answer)) + answer + life
        raise Refused

    def authenticate(self, payload: bytes) -> bytes:
        if self.scram is not None:
            answer, self.inside = self.scram.step(payload)
            return answer
        _, user, password = payload.decode().split("\0")
        if self.users.get(user) != password:
            raise Refused
        self.inside = True
        return b""

    def refusal(self, frame: bytes) -> bytes:
        """What a broker says before it closes; nothing to a request that is no log-in."""
        api, version, correlation = struct.unpack_from(">hhi", frame)
        if api != SASL_AUTHENTICATE:
            return b""
        text = b"Authentication failed: Invalid username or password"
        body = struct.pack(">ihh", correlation, 58, len(text)) + text + struct.pack(">i", 0)
        return body + (struct.pack(">q", 0) if version else b"")

    def renamed(self, frame: bytes) -> bytes:
        """An answer of the emulator, under the address that the client knows."""
        api = self.pending.pop(struct.unpack_from(">i", frame)[0], -1)
        return frame.replace(self.backend, self.asked) if api in NAMING else frame


async def _frame(reader: asyncio.StreamReader) -> bytes:
    (size,) = struct.unpack(">i", await reader.readexactly(4))
    if not 0 < size <= 104_857_600:  # socket.request.max.bytes
        raise OSError("not Kafka")
    return await reader.readexactly(size)


async def _send(writer: asyncio.StreamWriter, frame: bytes) -> None:
    writer.write(struct.pack(">i", len(frame)) + frame)
    await writer.drain()


async def _back(client: Client, up: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            await _send(writer, client.renamed(await _frame(up)))
    except (OSError, asyncio.IncompleteReadError):
        writer.close()


async def main(backend: str, port: int, certificate: str, key: str, users: dict[str, str]) -> None:
    """Serve the three addresses for ever."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = writer.get_extra_info("sockname")[0]
        client = Client(users, backend, asked, secure=asked != "127.0.0.3")
        tasks = []
        frame = b""
        up_writer = None
        try:
            up, up_writer = await asyncio.open_connection(backend, port)
            tasks.append(asyncio.create_task(_back(client, up, writer)))
            while True:
                frame = await _frame(reader)
                answer = client.before_login(frame)
                await _send(up_writer if answer is None else writer, frame if answer is None else answer)
        except Refused:
            if said := client.refusal(frame):
                await _send(writer, said)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            for task in tasks:
                task.cancel()
            for one in (writer, up_writer):
                if one is not None:
                    one.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    await asyncio.start_server(serve, "127.0.0.1", port, ssl=context)
    await asyncio.start_server(serve, "127.0.0.2", port)
    await asyncio.start_server(serve, "127.0.0.3", port)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:5], json.loads(Path(sys.argv[5]).read_text())))
