"""Log-in and TLS before an emulator of MongoDB that has neither: run as a program of its own.

    python mongodb_front.py BACKEND_PORT PORT TLS_PORT CERTIFICATE KEY USERS

USERS is a JSON file, name to `{"password": …, "mechanisms": […], "privileges": […]}`. Clients of both ports
must log in by SCRAM (RFC 5802) before anything but hello, ping and buildInfo; then messages are passed on.
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
from typing import Any

import bson
from pymongo.saslprep import saslprep

OP_MSG = 2013
ROUNDS = {"SCRAM-SHA-1": 4096, "SCRAM-SHA-256": 15_000}
OPEN_COMMANDS = {"hello", "ismaster", "ping", "buildinfo", "endsessions"}


class Scram:
    """The server's side of one exchange. Raises ValueError where the client is not who it says."""

    def __init__(self, mechanism: str, payload: bytes, users: dict[str, Any]) -> None:
        self.digest = "sha1" if mechanism == "SCRAM-SHA-1" else "sha256"
        self.bare = payload.decode().removeprefix("n,,")
        fields = dict(part.split("=", 1) for part in self.bare.split(","))
        self.user = fields["n"].replace("=2C", ",").replace("=3D", "=")
        entry = users.get(self.user)
        if entry is None or mechanism not in entry["mechanisms"]:
            raise ValueError("no such user")
        password = entry["password"]
        if self.digest == "sha1":
            password = hashlib.md5(f"{self.user}:mongo:{password}".encode()).hexdigest()
        else:
            password = saslprep(password)
        salt, rounds = os.urandom(16), ROUNDS[mechanism]
        self.salted = hashlib.pbkdf2_hmac(self.digest, password.encode(), salt, rounds)
        self.nonce = fields["r"] + base64.b64encode(os.urandom(18)).decode()
        self.first = f"r={self.nonce},s={base64.b64encode(salt).decode()},i={rounds}"

    def finish(self, payload: bytes) -> bytes:
        """Check the client's proof; the server's own signature."""
        without, _, proof = payload.decode().rpartition(",p=")
        message = ",".join([self.bare, self.first, without]).encode()
        client_key = self._mac(self.salted, b"Client Key")
        signature = self._mac(hashlib.new(self.digest, client_key).digest(), message)
        expected = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        if f"r={self.nonce}" not in without or not hmac.compare_digest(expected, base64.b64decode(proof)):
            raise ValueError("wrong proof")
        return b"v=" + base64.b64encode(self._mac(self._mac(self.salted, b"Server Key"), message))

    def _mac(self, key: bytes, message: bytes) -> bytes:
        return hmac.new(key, message, self.digest).digest()


class Client:
    """One connection."""

    def __init__(self, file: Path, up: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        self.file = file
        self.users: dict[str, Any] = json.loads(file.read_text())
        self.up_reader, self.up_writer = up
        self.scram: Scram | None = None
        self.user: str | None = None

    async def answer(self, document: dict[str, Any], raw: bytes) -> bytes | dict[str, Any]:
        """The reply to a message: a document, or the backend's bytes."""
        name = next(iter(document)).lower()
        if name == "saslstart":
            return self.start(document["mechanism"], document["payload"])
        if name == "saslcontinue":
            return self.go_on(document["payload"])
        if name in {"hello", "ismaster"}:
            return await self.hello(document)
        if self.user is None and name not in OPEN_COMMANDS:
            return _error(13, "Unauthorized", f"Command {name} requires authentication")
        if name == "connectionstatus":
            return self.status()
        if name == "updateuser":
            return self.update(document)
        return await self.forward(raw)

    async def hello(self, document: dict[str, Any]) -> dict[str, Any]:
        asked = document.pop("saslSupportedMechs", None)
        speculative = document.pop("speculativeAuthenticate", None)
        reply = _document(await self.forward(_message(document, 1)))
        if asked:
            reply["saslSupportedMechs"] = self.users.get(asked.partition(".")[2], {}).get("mechanisms", [])
        if speculative:
            answer = self.start(speculative["mechanism"], speculative["payload"])
            if answer["ok"]:
                reply["speculativeAuthenticate"] = answer
        return reply

    def start(self, mechanism: str, payload: bytes) -> dict[str, Any]:
        try:
            self.scram = Scram(mechanism, payload, self.users)
        except (ValueError, KeyError):
            return _error(18, "AuthenticationFailed", "Authentication failed.")
        return {"conversationId": 1, "done": False, "payload": self.scram.first.encode(), "ok": 1.0}

    def go_on(self, payload: bytes) -> dict[str, Any]:
        if self.user is not None:
            return {"conversationId": 1, "done": True, "payload": b"", "ok": 1.0}
        try:
            assert self.scram is not None
            signature = self.scram.finish(payload)
        except (ValueError, AssertionError):
            return _error(18, "AuthenticationFailed", "Authentication failed.")
        self.user = self.scram.user
        return {"conversationId": 1, "done": True, "payload": signature, "ok": 1.0}

    def status(self) -> dict[str, Any]:
        """What MongoDB tells an account of itself."""
        privileges = self.users[self.user]["privileges"] if self.user else []
        return {"authInfo": {"authenticatedUserPrivileges": privileges}, "ok": 1.0}

    def update(self, document: dict[str, Any]) -> dict[str, Any]:
        """The account's own new password, if it has the privilege."""
        actions = [action for one in self.users[str(self.user)]["privileges"] for action in one["actions"]]
        if document["updateUser"] != self.user or "changeOwnPassword" not in actions:
            return _error(13, "Unauthorized", "not authorized to execute command updateUser")
        self.users[self.user]["password"] = document["pwd"]
        self.file.write_text(json.dumps(self.users))
        return {"ok": 1.0}

    async def forward(self, raw: bytes) -> bytes:
        self.up_writer.write(raw)
        return await _read(self.up_reader)


def _error(code: int, name: str, text: str) -> dict[str, Any]:
    return {"ok": 0.0, "errmsg": text, "code": code, "codeName": name}


def _message(document: dict[str, Any], answers: int) -> bytes:
    body = struct.pack("<I", 0) + b"\0" + bson.encode(document)
    return struct.pack("<iiii", 16 + len(body), answers, answers, OP_MSG) + body


def _document(raw: bytes) -> dict[str, Any]:
    size = struct.unpack_from("<i", raw, 21)[0]
    return dict(bson.decode(raw[21 : 21 + size]))


async def _read(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(16)
    return head + await reader.readexactly(struct.unpack_from("<i", head)[0] - 16)


async def main(backend: int, port: int, tls_port: int, certificate: str, key: str, users_file: str) -> None:
    """Serve both ports for ever."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up = await asyncio.open_connection("127.0.0.1", backend)
            client = Client(users, up)
            while True:
                raw = await _read(reader)
                if struct.unpack_from("<i", raw, 12)[0] != OP_MSG:
                    break
                reply = await client.answer(_document(raw), raw)
                request = struct.unpack_from("<i", raw, 4)[0]
                writer.write(reply if isinstance(reply, bytes) else _message(reply, request))
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            if "client" in locals():
                client.up_writer.close()

    users = Path(users_file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    await asyncio.start_server(serve, "127.0.0.1", port)
    await asyncio.start_server(serve, "127.0.0.1", tls_port, ssl=context)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:]))
