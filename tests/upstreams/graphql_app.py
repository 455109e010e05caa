"""The server program of `graphql.py`; runs in the servers' virtual environment.

python graphql_app.py PORT TOKEN_FILE [tls]
"""

from __future__ import annotations

import asyncio
import decimal
import enum
import json
import socket
import sys
from datetime import date
from pathlib import Path
from typing import Any

import strawberry
import uvicorn

STATE: dict[str, Any] = {"users": {}, "slow": 0, "calls": 0}


@strawberry.enum(description="How far somebody may go.")
class Role(enum.Enum):
    MEMBER = "member"
    ADMIN = "admin"


@strawberry.type
class Post:
    title: str
    rating: decimal.Decimal
    day: date

    @strawberry.field
    def author(self) -> User:
        return User(id=strawberry.ID("1"), name="Ada", role=Role.ADMIN)


@strawberry.type(description="Somebody in the address book.")
class User:
    id: strawberry.ID
    name: str
    role: Role

    @strawberry.field(description="What they wrote, newest first.")
    def posts(self, first: int = 3) -> list[Post]:
        return [Post(title=f"Post {n}", rating=decimal.Decimal("4.50"), day=date(2026, 1, n + 1)) for n in range(first)]

    @strawberry.field
    def secret(self) -> str | None:
        raise PermissionError("not for you")


@strawberry.input
class NewUser:
    name: str
    role: Role = Role.MEMBER
    tags: list[str] | None = None


@strawberry.type
class Query:
    @strawberry.field(description="Say hello.")
    def hello(self, name: str = "World") -> str:
        return f"Hello {name}"

    @strawberry.field
    def user(self, id: strawberry.ID) -> User | None:  # noqa: A002 - the argument's name in the schema
        if id == "1":
            return User(id=id, name="Ada", role=Role.ADMIN)
        name = STATE["users"].get(id)
        return User(id=id, name=name, role=Role.MEMBER) if name else None

    @strawberry.field
    def numbers(self, count: int) -> list[int]:
        return list(range(count))

    @strawberry.field
    async def slow(self, seconds: float) -> str:
        STATE["slow"] += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            STATE["slow"] -= 1
        return "done"

    @strawberry.field
    def fail(self) -> str:
        raise ValueError("it broke: a\x07b")


@strawberry.type
class Mutation:
    @strawberry.mutation
    def add_user(self, user: NewUser) -> User:
        key = str(len(STATE["users"]) + 2)
        STATE["users"][key] = user.name
        return User(id=strawberry.ID(key), name=user.name, role=user.role)


schema = strawberry.Schema(Query, Mutation)
TOKEN = Path(sys.argv[2]).read_text()


async def app(scope: Any, receive: Any, send: Any) -> None:
    """POST /graphql with the token, GET /state without."""
    if scope["type"] != "http":
        return
    if scope["path"] == "/state":
        await answer(send, 200, STATE)
        return
    sent = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    if sent != f"Bearer {TOKEN}":
        await answer(send, 401, {"errors": [{"message": f"bad token {sent}"}]})
        return
    STATE["calls"] += 1
    asked = json.loads(body)
    work = asyncio.ensure_future(
        schema.execute(
            asked["query"], variable_values=asked.get("variables"), operation_name=asked.get("operationName")
        )
    )
    gone = asyncio.ensure_future(receive())  # http.disconnect
    await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
    if not work.done():
        work.cancel()
        return
    gone.cancel()
    result = work.result()
    document: dict[str, Any] = {"data": result.data}
    if result.errors:
        document["errors"] = [error.formatted for error in result.errors]
    await answer(send, 200, document)


async def answer(send: Any, status: int, document: Any) -> None:
    body = json.dumps(document).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def main() -> None:
    # With the protocol named, asyncio switches Nagle's algorithm off for what it accepts.
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", int(sys.argv[1])))
    sock.listen(512)
    folder = Path(sys.argv[2]).parent
    tls = {"ssl_certfile": folder / "cert.pem", "ssl_keyfile": folder / "key.pem"} if "tls" in sys.argv else {}
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1, lifespan="off", **tls)
    asyncio.run(uvicorn.Server(config).serve(sockets=[sock]))


if __name__ == "__main__":
    main()
