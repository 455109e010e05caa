"""The service program of `soap.py`; runs under gunicorn in the servers' virtual environment.

/soap11 and /soap12 take everybody; /basic wants HTTP Basic; /text11, /text12, /digest11 and /digest12 want
a UsernameToken. GET …?wsdl gives the WSDL, GET /state what the service holds.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from spyne import (
    Application,
    Array,
    Boolean,
    ByteArray,
    ComplexModel,
    Date,
    DateTime,
    Decimal,
    Double,
    Fault,
    Integer,
    Integer32,
    ServiceBase,
    Unicode,
    XmlAttribute,
    rpc,
)
from spyne.protocol.soap import Soap11, Soap12
from spyne.server.wsgi import WsgiApplication

USER, PASSWORD = "us@er", Path("password").read_text()
OASIS = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss"
WSSE, WSU = f"{{{OASIS}-wssecurity-secext-1.0.xsd}}", f"{{{OASIS}-wssecurity-utility-1.0.xsd}}"
STATE: dict[str, Any] = {"users": {}, "calls": 0, "slow": 0}
SEEN: set[str] = set()
LOCK = threading.Lock()

Role = Unicode(values=["member", "admin"], type_name="Role")


class User(ComplexModel):
    __namespace__ = "urn:book"
    id = Integer32(min_occurs=0)
    name = Unicode(min_occurs=1, nillable=False)
    role = Role(min_occurs=0)
    tags = Array(Unicode)
    balance = Decimal(min_occurs=0)
    kind = XmlAttribute(Unicode)


class Everything(ComplexModel):
    __namespace__ = "urn:book"
    text = Unicode
    number = Integer
    small = Integer32
    amount = Decimal
    ratio = Double
    yes = Boolean
    day = Date
    at = DateTime
    raw = ByteArray
    many = Unicode(max_occurs="unbounded")


class Book(ServiceBase):
    @rpc(_returns=Unicode)
    def version(ctx):
        """Which version of the address book answers."""
        return "1.0"

    @rpc(Integer32(min_occurs=1, nillable=False), Integer32(min_occurs=0), _returns=Integer)
    def add(ctx, a, b):
        """Add two numbers."""
        return a + (b or 0)

    @rpc(Unicode, _returns=Unicode)
    def echo(ctx, text):
        return text

    @rpc(Everything, _returns=Everything)
    def same(ctx, thing):
        return thing

    @rpc(User.customize(min_occurs=1, nillable=False), _returns=Integer32)
    def saveUser(ctx, user):
        with LOCK:
            key = len(STATE["users"]) + 1
            STATE["users"][key] = {"name": user.name, "tags": user.tags, "kind": user.kind, "role": user.role}
        return key

    @rpc(Integer32, _returns=Array(User))
    def users(ctx, count):
        return [
            User(id=n, name=f"User {n}", role="member", tags=["a", "b"], balance="1.50", kind="x") for n in range(count)
        ]

    @rpc(Double, _returns=Unicode)
    def slow(ctx, seconds):
        with LOCK:
            STATE["slow"] += 1
        time.sleep(seconds)
        with LOCK:
            STATE["slow"] -= 1
        return "done"

    @rpc(Unicode)
    def fail(ctx, text):
        raise Fault("Client.BadThing", f"it broke: {text}")

    @rpc()
    def crash(ctx):
        raise RuntimeError("canary of the server's own")


def token_of(ctx: Any) -> Any:
    for header in ctx.in_header_doc or ():
        if header.tag == f"{WSSE}Security":
            return header.find(f"{WSSE}UsernameToken")
    return None


def wants(kind: str) -> Any:
    """A listener that lets a call through if its token proves the password in that way."""

    def check(ctx: Any) -> None:
        token = token_of(ctx)
        password = token.find(f"{WSSE}Password") if token is not None else None
        if (
            password is None
            or token.findtext(f"{WSSE}Username") != USER
            or not password.get("Type").endswith(f"#Password{kind}")
        ):
            raise Fault("Client.FailedAuthentication", "the security token could not be authenticated")
        right = PASSWORD
        if kind == "Digest":
            nonce, created = token.findtext(f"{WSSE}Nonce"), token.findtext(f"{WSU}Created")
            age = datetime.now(UTC) - datetime.strptime(created, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
            hashed = hashlib.sha1(base64.b64decode(nonce) + created.encode() + PASSWORD.encode())
            right = base64.b64encode(hashed.digest()).decode()
            with LOCK:
                fresh = nonce not in SEEN and abs(age.total_seconds()) < 60
                SEEN.add(nonce)
            if not fresh:
                raise Fault("Client.FailedAuthentication", "replayed")
        if password.text != right:
            raise Fault("Client.FailedAuthentication", f"wrong: {password.text}")

    return check


def count(ctx: Any) -> None:
    with LOCK:
        STATE["calls"] += 1


def made(protocol: Any, listener: Any = None) -> Any:
    application = Application(
        [Book], "urn:book", name="Book", in_protocol=protocol(validator="lxml"), out_protocol=protocol()
    )
    application.event_manager.add_listener("method_call", count)
    if listener is not None:
        application.event_manager.add_listener("method_call", listener)
    return WsgiApplication(application)


PORTS = {
    "/soap11": made(Soap11), "/soap12": made(Soap12), "/basic": made(Soap11),
    "/text11": made(Soap11, wants("Text")), "/text12": made(Soap12, wants("Text")),
    "/digest11": made(Soap11, wants("Digest")), "/digest12": made(Soap12, wants("Digest")),
}  # fmt: skip


def app(environ: Any, start_response: Any) -> Any:
    path = environ["PATH_INFO"]
    if path == "/state":
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps(STATE).encode()]
    if path == "/basic":
        pair = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if environ.get("HTTP_AUTHORIZATION") != f"Basic {pair}":
            start_response("401 Unauthorized", [("Content-Type", "text/plain")])
            return [b"no"]
    if path not in PORTS:
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"nothing here"]
    return PORTS[path](environ, start_response)
