"""The encryption keys as they are stored: plain, or wrapped by a key that never leaves a key service.

    STUDIO_KEY_SERVICE=vault:transit/studio    transit engine of OpenBao or HashiCorp Vault: mount, then key
    STUDIO_KEY_SERVICE=aws-kms:alias/studio    AWS KMS: id, alias or ARN of a symmetric key

A wrapped key is `wrapped:` and the ciphertext as the service gave it, so that its own tools open it too.
Each is opened by one call at the start, and kept in memory only.

Sources: https://openbao.org/api-docs/secret/transit/ (encrypt, decrypt, `associated_data`);
https://docs.aws.amazon.com/kms/latest/APIReference/API_Encrypt.html, API_Decrypt.html.
"""

from __future__ import annotations

import asyncio
import base64
import re
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import orjson

from studio.contract.web import AwsSigV4Auth, WebConfig, split_url
from studio.errors import EncryptionError, StudioError
from studio.providers._http.auth import Request
from studio.providers._http.client import Answer, HttpClient
from studio.security.egress import Egress
from studio.services.references import vault_token
from studio.settings import Settings

_Given = TypeVar("_Given")
_Found = TypeVar("_Found")
WRAPPED = "wrapped:"
PAUSE_S = 15.0
"""After a failure a running process does not ask again for so long: asking holds its other work up."""
_PURPOSE = "studio-encryption-key"
"""Goes into each envelope: what the same key wrapped for another purpose does not open here."""
_CIPHERTEXT = {
    "vault": re.compile(r"vault:v\d{1,9}:(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}[A-Za-z0-9+/=]=)?"),
    "aws-kms": re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}[A-Za-z0-9+/=]=)?"),
}
_TIMEOUT_S = 5.0
_DENIED = "does not let this service use the key: check its token or access key, and the right to encrypt and decrypt"
_BROKEN = "does not open a wrapped key: it was changed, or wrapped by another key; put the right one back"
_GONE = "knows no such key: check STUDIO_KEY_SERVICE"
_DOWN = "does not answer: see that it runs and can be reached, then start again"
_KMS_REASONS = {
    "InvalidCiphertextException": _BROKEN,
    "IncorrectKeyException": _BROKEN,
    "NotFoundException": _GONE,
    "AccessDeniedException": _DENIED,
    "UnrecognizedClientException": _DENIED,
    "InvalidSignatureException": _DENIED,
    "ThrottlingException": _DOWN,
}


class KeyService:
    """Wraps and unwraps encryption keys as the settings say; without a key service they stay as they are.

    Its methods block while the service answers, and may be called in any thread.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._kind, _, self._key = (settings.key_service or "").partition(":")
        self._opened: dict[str, str] = {}
        self._failed: tuple[float, EncryptionError] | None = None

    def wrap(self, key: str) -> str:
        """The key as it may be stored; one that this service could not open again is never given out.

        Raises:
            EncryptionError: the key service does not answer, or refuses.
        """
        if not self._kind:
            return key
        return _in_thread(self._wrapped, key)

    def unwrap(self, stored: Sequence[str]) -> list[str]:
        """The keys themselves; what was opened before is not asked for again.

        Raises:
            EncryptionError: the key service does not answer or refuses; a key was changed; a key
                lies wrapped without a key service, or plain with one.
        """
        stored = [text.strip() for text in stored]
        if any(text.startswith(WRAPPED) != bool(self._kind) for text in stored):
            raise EncryptionError(
                "STUDIO_KEY_SERVICE is set, but an encryption key lies plain; run: studio encryption wrap"
                if self._kind
                else "an encryption key is wrapped by a key service; set STUDIO_KEY_SERVICE to the one that wrapped it"
            )
        if not self._kind:
            return stored
        unknown = [text for text in stored if text not in self._opened]
        if unknown:
            self._opened |= self._asked(unknown)
        return [self._opened[text] for text in stored]

    def _asked(self, unknown: Sequence[str]) -> dict[str, str]:
        if self._failed is not None and self._failed[0] > time.monotonic():
            raise EncryptionError(self._failed[1].message)
        try:
            return _in_thread(self._unwrapped, unknown)
        except EncryptionError as exc:
            self._failed = (time.monotonic() + PAUSE_S, exc)
            raise

    async def _wrapped(self, key: str) -> str:
        async with AsyncExitStack() as stack:
            client = await self._client(stack)
            found = await self._call(client, "encrypt", _base64(key))
            back = await self._call(client, "decrypt", found)
            if back != _base64(key) or not _CIPHERTEXT[self._kind].fullmatch(found):
                raise EncryptionError("the key service does not give back what it wrapped; nothing was stored")
            return WRAPPED + found

    async def _unwrapped(self, stored: Sequence[str]) -> dict[str, str]:
        async with AsyncExitStack() as stack:
            client = await self._client(stack)
            found = {}
            for text in stored:
                ciphertext = text.removeprefix(WRAPPED)
                if not _CIPHERTEXT[self._kind].fullmatch(ciphertext):
                    raise EncryptionError(f"the key service {_BROKEN}")
                plain = await self._call(client, "decrypt", ciphertext)
                found[text] = base64.b64decode(plain).decode("ascii", "replace")
            return found

    # -- the two services -------------------------------------------------------------------------

    async def _client(self, stack: AsyncExitStack) -> HttpClient:
        """A client of the service, through a gate like that for every address that the settings name."""
        gate = Egress(private_open=False, deny=self._settings.egress_deny)
        stack.callback(gate.close)
        limits = WebConfig(timeout_s=_TIMEOUT_S, connect_timeout_s=3, max_bytes=1 << 16, pool_size=1, auth=self._auth())
        client = HttpClient(limits, split_url(self._base), gate.for_operator())
        await client.open(stack)
        return client

    @property
    def _base(self) -> str:
        if self._kind == "vault":
            return str(self._settings.vault_url).rstrip("/")
        return (self._settings.kms_endpoint or f"https://kms.{self._settings.kms_region}.amazonaws.com").rstrip("/")

    def _auth(self) -> Any:
        if self._kind == "vault":
            return {"type": "none"}
        kept = self._settings
        assert kept.kms_secret_access_key is not None  # the settings see to it
        return AwsSigV4Auth.model_validate(
            {"type": "aws_sigv4", "service": "kms", "region": kept.kms_region, "access_key_id": kept.kms_access_key_id,
             "secret_access_key": kept.kms_secret_access_key}
        )  # fmt: skip

    async def _call(self, client: HttpClient, verb: str, text: str) -> str:
        """One call: `encrypt` takes base64 and gives a ciphertext, `decrypt` the other way round."""
        request = self._transit(verb, text) if self._kind == "vault" else self._kms(verb, text)
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                answer = await client.send(request)
        except Exception as exc:
            more = f" ({exc.message})" if isinstance(exc, StudioError) else ""
            raise EncryptionError(f"the key service {_DOWN}{more}") from exc
        found = _parsed(answer)
        if answer.status != 200:
            raise EncryptionError(f"the key service {self._reason(answer.status, verb, found)}")
        inner = found.get("data") if self._kind == "vault" else found
        given, asked = ("CiphertextBlob", "Plaintext") if self._kind != "vault" else ("ciphertext", "plaintext")
        value = inner.get(given if verb == "encrypt" else asked) if isinstance(inner, dict) else None
        if not isinstance(value, str):
            raise EncryptionError("the key service answers with something else; check its address")
        return value

    def _transit(self, verb: str, text: str) -> Request:
        mount, _, key = self._key.rpartition("/")
        path = f"{split_url(self._base).path.rstrip('/')}/v1/{mount}/{verb}/{key}"
        name = "plaintext" if verb == "encrypt" else "ciphertext"
        headers = {"X-Vault-Token": vault_token(self._settings), "X-Vault-Request": "true"}
        body = orjson.dumps({name: text, "associated_data": _base64(_PURPOSE)})
        return Request("POST", path, headers=headers, body=body, idempotent=True)

    def _kms(self, verb: str, text: str) -> Request:
        name = "Plaintext" if verb == "encrypt" else "CiphertextBlob"
        headers = {
            "Content-Type": "application/x-amz-json-1.1",
            "X-Amz-Target": f"TrentService.{verb.capitalize()}",
        }
        body = orjson.dumps({"KeyId": self._key, name: text, "EncryptionContext": {"purpose": _PURPOSE}})
        return Request("POST", split_url(self._base).path or "/", headers=headers, body=body, idempotent=True)

    def _reason(self, status: int, verb: str, found: dict[str, Any]) -> str:
        """Why it refuses, in our words."""
        name = str(found.get("__type", "")).rpartition("#")[2]
        if self._kind != "vault" and name in _KMS_REASONS:
            return _KMS_REASONS[name]
        if status in {401, 403}:
            return _DENIED
        if status == 404:
            return _GONE
        if self._kind == "vault" and status == 400 and verb == "decrypt":
            return _BROKEN
        return f"answers with status {status}; its own log says why"


def endpoint_of_kms(settings: Settings) -> tuple[str, int] | None:
    """Where an AWS KMS of the operator's own is: no connector may be sent there."""
    if settings.kms_endpoint is None:
        return None
    url = split_url(settings.kms_endpoint)
    return url.host, url.port


def _in_thread(work: Callable[[_Given], Coroutine[Any, Any, _Found]], given: _Given) -> _Found:
    """Run a coroutine to its end from blocking code, whether or not this thread has a loop that runs."""
    with ThreadPoolExecutor(1, thread_name_prefix="studio-key-service") as pool:
        return pool.submit(lambda: asyncio.run(work(given))).result()


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode("ascii")


def _parsed(answer: Answer) -> dict[str, Any]:
    try:
        found = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}
