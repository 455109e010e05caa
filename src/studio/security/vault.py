"""Seals configs to their row and secrets to their destination. The only place that knows the keys.

A sealed value is one Fernet token. Its key is derived for its place:
`HKDF-SHA256(master, info = version | organization | row | field | generation)` (RFC 5869), and
the place is repeated inside, so a token that was moved or put back does not open. Inside,
secrets are a second token whose key also takes the digest of the destination fields: to open
them one must name the same host, port, account … that they were given for.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from studio.errors import EncryptionError
from studio.models import Sealed

_VERSION = "studio-1"
_CANARY = "studio-canary"


@dataclass(frozen=True)
class Place:
    """Where a sealed value belongs. A token opens in its own place only."""

    organization_id: str
    row_id: str
    field: str
    generation: int

    def info(self, *more: str) -> bytes:
        """An unambiguous encoding for key derivation."""
        return json.dumps([_VERSION, self.organization_id, self.row_id, self.field, self.generation, *more]).encode()


class Vault:
    """Seals with the newest master key, opens with the one that a row names."""

    def __init__(self, keys: Sequence[str], *, again: Callable[[], Sequence[str]] | None = None) -> None:
        """Takes Fernet keys (32 random bytes in URL-safe base64), newest first.

        `again` reads them once more: it is asked when a row names a key that is not known yet, since
        another process may have made a new one.

        Raises:
            EncryptionError: no key, a malformed one, or one that is plainly not random.
        """
        self._again = again
        self._take(keys)

    def _take(self, keys: Sequence[str]) -> None:
        masters = [_master(key) for key in keys]
        if not masters:
            raise EncryptionError("no encryption key: set STUDIO_ENCRYPTION_KEYS or let the service make a key file")
        self._masters = {_key_id(master): master for master in masters}
        self.key_id = _key_id(masters[0])
        self.key_ids = tuple(self._masters)

    def __repr__(self) -> str:
        return f"Vault(key_ids={self.key_ids})"

    def seal(self, place: Place, public: Mapping[str, Any], secrets: Mapping[str, str], destination: str) -> Sealed:
        """Seal a config: `public` to the place, `secrets` to the place and the destination's digest."""
        inner = self._encrypt(self.key_id, place.info("secrets", destination), dict(secrets)) if secrets else None
        payload = {"public": dict(public), "names": sorted(secrets), "secrets": inner, "destination": destination}
        return Sealed(self._encrypt(self.key_id, place.info(), payload), self.key_id)

    def open(self, place: Place, sealed: Sealed) -> tuple[dict[str, Any], list[str]]:
        """The non-secret part, and the names of the secrets beside it. Raises EncryptionError."""
        payload = self._decrypt(sealed.key_id, place.info(), sealed.token)
        return payload["public"], payload["names"]

    def release(self, place: Place, sealed: Sealed, destination: str) -> dict[str, str]:
        """The secrets, for the destination that they were sealed to and no other. Raises EncryptionError."""
        inner = self._decrypt(sealed.key_id, place.info(), sealed.token)["secrets"]
        return self._decrypt(sealed.key_id, place.info("secrets", destination), inner) if inner else {}

    def reseal(self, place: Place, sealed: Sealed) -> Sealed:
        """The same content under the newest key, in the same place; no secret leaves. Raises EncryptionError."""
        payload = self._decrypt(sealed.key_id, place.info(), sealed.token)
        destination, inner = payload["destination"], payload["secrets"]
        secrets = self._decrypt(sealed.key_id, place.info("secrets", destination), inner) if inner else {}
        return self.seal(place, payload["public"], secrets, destination)

    def canary(self) -> Sealed:
        """A token to store once; it proves at every start that the key is still the right one."""
        return Sealed(self._encrypt(self.key_id, _CANARY.encode(), {}), self.key_id)

    def check_canary(self, sealed: Sealed) -> None:
        """Raises EncryptionError where the key of this canary is missing or another one."""
        self._decrypt(sealed.key_id, _CANARY.encode(), sealed.token)

    def _fernet(self, key_id: str, info: bytes) -> Fernet:
        if key_id not in self._masters and self._again is not None:
            self._take(self._again())
        master = self._masters.get(key_id)
        if master is None:
            raise EncryptionError(
                f"the encryption key {key_id} is not configured; put it back into STUDIO_ENCRYPTION_KEYS "
                "(or the key file) behind the newest one"
            )
        derived = HKDF(SHA256(), 32, salt=None, info=info).derive(master)
        return Fernet(base64.urlsafe_b64encode(derived))

    def _encrypt(self, key_id: str, info: bytes, value: Mapping[str, Any]) -> str:
        text = json.dumps({"place": info.decode(), "value": value}, ensure_ascii=False)
        return self._fernet(key_id, info).encrypt(text.encode()).decode("ascii")

    def _decrypt(self, key_id: str, info: bytes, token: str) -> dict[str, Any]:
        try:
            payload = json.loads(self._fernet(key_id, info).decrypt(token.encode()))
        except (InvalidToken, UnicodeError, ValueError) as exc:
            raise EncryptionError(
                "a sealed value does not open in its place: it was moved, changed or put back"
            ) from exc
        if payload.get("place") != info.decode():
            raise EncryptionError("a sealed value names another place than the one it was found in")
        return payload["value"]  # type: ignore[no-any-return]


def new_key() -> str:
    """A fresh master key, as text."""
    return Fernet.generate_key().decode("ascii")


def _master(key: str) -> bytes:
    try:
        master = base64.b64decode(key.strip(), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        master = b""
    # 32 random bytes hold about 30 different values; fewer than 16 has a chance below 1e-20.
    if len(master) != 32 or len(set(master)) < 16:
        raise EncryptionError(
            "an encryption key is not 32 random bytes in URL-safe base64; make one with: studio encryption new-key"
        )
    return master


def _key_id(master: bytes) -> str:
    """A public name for a key, from which nothing about the key can be learnt."""
    derived = HKDF(SHA256(), 16, salt=None, info=b"studio-key-id").derive(master)
    return hashlib.sha256(derived).hexdigest()[:16]
