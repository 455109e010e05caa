"""A result that holds the connector's own secret, in any spelling, does not leave."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any
from urllib.parse import quote, quote_plus

import orjson
import pytest
from tests import toy

from studio.contract.withheld import Watch
from studio.errors import ResultBlocked, UpstreamError
from studio.testing.harness import open_provider

SECRETS = ["k3pt-s3cret-c4n4ry", 'a"b\\c/d+e f&g=h', "pässwörd-ünd-mehr", "z" * 40, "tr/u+e=1"]
ENCODED = {
    "raw": lambda text: text,
    "json": lambda text: json.dumps({"v": text}),
    "json twice": lambda text: json.dumps(json.dumps(text, ensure_ascii=False), ensure_ascii=False),
    "url": lambda text: f"https://h/?a={quote(text, safe='')}&b=1",
    "form": lambda text: f"a={quote_plus(text)}",
    "hex": lambda text: ("xx" + text).encode().hex(),
    "HEX": lambda text: ("xx" + text).encode().hex().upper(),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 after one": lambda text: base64.b64encode(b"1" + text.encode() + b"23").decode(),
    "base64 after two": lambda text: base64.b64encode(b"12" + text.encode() + b"3").decode(),
    "basic": lambda text: "Basic " + base64.b64encode(f"user:{text}".encode()).decode(),
    "base64 for URLs": lambda text: base64.urlsafe_b64encode(b"xyz1" + text.encode()).decode(),
    "bytes": lambda text: b"\0\1" + text.encode() + b"\2",
}


def watch(secret: str, path: str = "password") -> Watch:
    return Watch({path: secret})


@pytest.mark.parametrize("form", [form for form in ENCODED if form not in {"json twice", "bytes"}])
@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_is_found_in_every_spelling(secret: str, form: str) -> None:
    with pytest.raises(ResultBlocked):
        watch(secret).check(orjson.dumps([(1, "before" + ENCODED[form](secret) + "after")]))
    watch(secret).check(orjson.dumps([(1, ENCODED[form](secret[::-1] + "x"))]) if secret[0] != "z" else b"")


def test_what_is_no_secret_or_too_common_to_be_told_from_data_is_not_looked_for() -> None:
    for path, secret in {
        "short": "hunter2", "password": "password", "secret_key": "minioadmin", "pin": "12345678",
        "headers.Accept": "application/json", "session_token": "FwoGZXIvYXdzEJr-long-token",
    }.items():  # fmt: skip
        Watch({path: secret}).check(orjson.dumps([secret]))
    for path in ("headers.Authorization", "headers.X-Api-Key", "auth.token", "headers.X\\.Secret"):
        with pytest.raises(ResultBlocked):
            Watch({path: "k3pt-s3cret"}).check(orjson.dumps(["k3pt-s3cret"]))


def test_a_key_is_known_by_its_longest_line_and_a_token_by_its_values() -> None:
    line = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7"
    pem = f"-----BEGIN PRIVATE KEY-----\n{line}\nshort\n-----END PRIVATE KEY-----\n"
    with pytest.raises(ResultBlocked):
        watch(pem, "service_account.private_key").check(orjson.dumps({"key": pem.replace("\n", "\r\n")}))
    with pytest.raises(ResultBlocked):
        watch("sv=2024-01-01&sig=abcdefghij0123456789xyz", "sas_token").check(b'["abcdefghij0123456789xyz"]')


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_chunks_are_searched_across_their_borders(size: int) -> None:
    secret = "k3pt-s3cret-c4n4ry"
    filling = random.Random(size).randbytes(500)
    for spelled in (secret.encode(), secret.encode("utf-16-le"), base64.b64encode(secret.encode())):
        content = filling + spelled + filling
        check, passed = watch(secret).over_chunks(), b""
        with pytest.raises(ResultBlocked):
            for start in range(0, len(content), size):
                check(content[start : start + size])
                passed += content[start : start + size]
        assert spelled not in passed


# -- at the provider: rows, values, errors --------------------------------------------------------


class Telling(toy.Toy):
    """Answers with its own password, in one way or another."""

    kind = "telling"


SECRET = "p4ssw0rd-of-the-driver"


async def test_rows_values_and_messages_of_a_provider_are_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    config = toy.config(password=SECRET)

    async def rows(*_: Any, **__: Any) -> AsyncGenerator[Any, None]:
        from studio.contract import Batch

        yield Batch([{"name": "a", "type": "text"}], [("fine",), (f"the password is {SECRET}",)])

    telling = replace(toy.Toy.operations["query"], method=rows)
    async with open_provider(toy.Toy, config) as provider:
        with pytest.raises(ResultBlocked):
            await provider.run(telling, {"query": "rows 1"})

    async with open_provider(toy.Toy, config) as provider:
        with pytest.raises(ResultBlocked):
            provider._seen({"deep": [{"value": SECRET}]})
        monkeypatch.setattr(type(provider), "translate", lambda *_: UpstreamError(f"no: {SECRET}"))
        assert SECRET not in str(provider.error(ValueError(SECRET)))
