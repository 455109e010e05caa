"""What fake-gcs-server lacks, in front of it: tokens for signed assertions, rights, and signed URLs.

`gcs_app.py PORT BINARY ACCOUNTS.json`; run by `tests.upstreams.gcs`. ACCOUNTS maps an account's
e-mail to its public key and whether it may write.
"""

from __future__ import annotations

import asyncio
import base64
import ctypes
import hashlib
import json
import secrets
import signal
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import aiohttp
from aiohttp import web
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from yarl import URL

PORT, BINARY, ACCOUNTS = int(sys.argv[1]), sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
WRITES = ["storage.objects.create", "storage.objects.delete", "storage.objects.update"]
tokens: dict[str, str] = {}


def verified(email: str, signature: bytes, text: bytes) -> bool:
    account = ACCOUNTS.get(email)
    if account is None:
        return False
    key: Any = serialization.load_pem_public_key(account["public_key"].encode())
    try:
        key.verify(signature, text, padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature:
        return False
    return True


def refusal(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"code": status, "message": message}}, status=status)


async def token(request: web.Request) -> web.Response:
    form = await request.post()
    head, claims, signature = str(form["assertion"]).split(".")
    found = json.loads(base64.urlsafe_b64decode(claims + "=="))
    good = verified(found["iss"], base64.urlsafe_b64decode(signature + "=="), f"{head}.{claims}".encode())
    if not good or found["aud"] != f"http://{request.host}/token" or found["exp"] < time.time():
        return web.json_response({"error": "invalid_grant"}, status=400)
    made = secrets.token_urlsafe(30)
    tokens[made] = found["iss"]
    return web.json_response({"access_token": made, "expires_in": 3600, "token_type": "Bearer"})


async def revoke(_request: web.Request) -> web.Response:
    tokens.clear()
    return web.Response()


async def fill(request: web.Request) -> web.Response:
    """Store many small objects at once."""
    found = await request.json()
    left = iter(found["names"])

    async def work() -> None:
        for name in left:
            query = {"uploadType": "media", "name": name}
            path = f"{request.app['behind']}/upload/storage/v1/b/{found['bucket']}/o"
            async with request.app["http"].post(path, params=query, data=b"x") as answer:
                await answer.read()

    await asyncio.gather(*(work() for _ in range(8)))
    return web.Response()


async def signed(request: web.Request) -> web.StreamResponse:
    """A V4 signed URL of the XML API, turned into the JSON call that fake-gcs-server has."""
    query = request.rel_url.raw_query_string.partition("&X-Goog-Signature=")[0]
    email, scope = request.query["X-Goog-Credential"].split("/", 1)
    canonical = f"{request.method}\n{request.rel_url.raw_path}\n{query}\nhost:{request.host}\n\nhost\nUNSIGNED-PAYLOAD"
    stamp = request.query["X-Goog-Date"]
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = f"GOOG4-RSA-SHA256\n{stamp}\n{scope}\n{digest}".encode()
    if not verified(email, bytes.fromhex(request.query["X-Goog-Signature"]), text):
        return refusal(403, "SignatureDoesNotMatch")
    _, bucket, name = request.rel_url.raw_path.split("/", 2)
    if request.method == "PUT":
        return await forward(request, f"/upload/storage/v1/b/{bucket}/o?uploadType=media&name={name}", "POST")
    return await forward(request, f"/storage/v1/b/{bucket}/o/{name.replace('/', '%2F')}?alt=media")


async def everything(request: web.Request) -> web.StreamResponse:
    if "X-Goog-Signature" in request.query:
        return await signed(request)
    email = tokens.get(request.headers.get("Authorization", "").removeprefix("Bearer "))
    if email is None:
        anonymous = "Authorization" not in request.headers
        return refusal(401, "Anonymous caller does not have access." if anonymous else "Invalid Credentials")
    writes = ACCOUNTS[email]["writes"]
    if request.path.endswith("/iam/testPermissions"):
        asked = request.query.getall("permissions")
        return web.json_response({"permissions": [name for name in asked if writes or name not in WRITES]})
    if request.method != "GET" and not writes:
        return refusal(403, f"{email} does not have storage.objects.create access.")
    return await forward(request, request.rel_url.raw_path_qs)


async def forward(request: web.Request, path: str, method: str | None = None) -> web.StreamResponse:
    kept = {name: value for name, value in request.headers.items() if name not in {"Host", "Authorization"}}
    url = URL(f"{request.app['behind']}{path}", encoded=True)
    body = await request.read()
    async with request.app["http"].request(
        method or request.method, url, headers=kept, data=body, allow_redirects=False
    ) as answer:
        skipped = (
            {"Transfer-Encoding", "Connection", "Content-Encoding"} if "json" in answer.content_type else {"Connection"}
        )
        out = web.StreamResponse(status=answer.status)
        for name, value in answer.headers.items():
            if name not in skipped:
                out.headers.add(name, value.replace(request.app["behind"], f"http://{request.host}"))
        if 500 <= answer.status < 600 and "/" in unquote(path):
            print(method or request.method, path, answer.status, await answer.text(), flush=True)
        await out.prepare(request)
        async for chunk in answer.content.iter_any():
            await out.write(chunk)
        await out.write_eof()
        return out


def end_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


async def main() -> None:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    behind = f"http://127.0.0.1:{port}"
    child = await asyncio.create_subprocess_exec(
        BINARY, "-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory", "-external-url", behind,
        "-public-host", f"127.0.0.1:{port}", "-log-level", "warn", preexec_fn=end_with_parent,
    )  # fmt: skip
    app = web.Application(client_max_size=1 << 30)
    app["behind"] = behind
    app["http"] = aiohttp.ClientSession(auto_decompress=False)
    app.router.add_post("/token", token)
    app.router.add_post("/_revoke", revoke)
    app.router.add_post("/_fill", fill)
    app.router.add_route("*", "/{rest:.*}", everything)
    runner = web.AppRunner(app, handle_signals=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", PORT).start()
    await child.wait()


asyncio.run(main())
