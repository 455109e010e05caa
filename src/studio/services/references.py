"""Secrets that are kept elsewhere: a secret field may hold a reference, resolved when a session opens.

    vault://MOUNT/PATH#KEY     a key of a secret in OpenBao or HashiCorp Vault (KV version 2)
    env://NAME                 an environment variable of the service
    file://PATH                a file in the folder STUDIO_REFERENCE_FILES, such as a mounted secret

All are read with the service's own rights, so an operator says which may be named at all; below
`vault_path` every organization sees its own folder only. What was read is kept for
`reference_ttl_s` in memory, and never stored.

Source: https://openbao.org/api-docs/secret/kv/kv-v2/.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import orjson

from studio.contract import ProviderConfig
from studio.contract.config import is_reference, join_secrets
from studio.contract.network import Network
from studio.contract.web import WebConfig, split_url
from studio.errors import InvalidConfig, Unreachable
from studio.providers._http.auth import Request
from studio.providers._http.client import HttpClient
from studio.settings import Settings

_VAULT = re.compile(r"vault://(?P<path>[A-Za-z0-9_.:~/-]{1,512})#(?P<key>[A-Za-z0-9_.-]{1,128})")
_LIMITS = WebConfig(timeout_s=5, connect_timeout_s=3, max_bytes=1 << 20, pool_size=1)
_LONGEST = 262_144
_KEPT = 10_000


class References:
    """Reads what references name, as far as the settings allow.

    Args:
        network: the gate that the secret store's address passes, which is the operator's own choice.
    """

    def __init__(self, settings: Settings, network: Network) -> None:
        self._settings = settings
        self._network = network
        self._known: dict[tuple[str, str], tuple[float, str]] = {}
        self._flights: dict[tuple[str, str], asyncio.Task[str]] = {}

    def endpoint(self) -> tuple[str, int] | None:
        """Where the secret store is: no connector may be sent there."""
        if self._settings.vault_url is None:
            return None
        url = split_url(self._settings.vault_url)
        return url.host, url.port

    def check(self, organization_id: str, config: ProviderConfig) -> None:
        """Raises InvalidConfig, naming the field, for a reference that this organization may not make."""
        for field, text in _references(config).items():
            if why := self._refusal(organization_id, text):
                raise InvalidConfig.at(f"config.{field}", why)

    async def resolved(self, organization_id: str, config: ProviderConfig) -> ProviderConfig:
        """The config with the secrets themselves; the same one where it holds no reference.

        Raises:
            InvalidConfig: there is no such secret, it may not be read, or it does not fit its field.
            Unreachable: the secret store does not answer.
        """
        found = _references(config)
        if not found:
            return config
        self.check(organization_id, config)
        public, secrets = config.split()
        for field, text in found.items():
            secrets[field] = await self._value(organization_id, field, text)
        return type(config).parse(join_secrets(public, secrets))

    def forget(self, organization_id: str, config: ProviderConfig) -> None:
        """Read these anew next time: the upstream refused what was known."""
        for text in _references(config).values():
            self._known.pop((organization_id, text), None)

    # -- what may be named ------------------------------------------------------------------------

    def _refusal(self, organization_id: str, text: str) -> str | None:
        scheme, _, rest = text.partition("://")
        if scheme == "env":
            return None if rest in self._settings.reference_env else (
                "env:// may name what an operator lists in STUDIO_REFERENCE_ENV, and this name is not there"
            )  # fmt: skip
        if scheme == "file":
            return None if self._file(rest) is not None else (
                "file:// may name a file in the folder that an operator sets in STUDIO_REFERENCE_FILES"
            )  # fmt: skip
        if self._settings.vault_url is None:
            return "no secret store is set up here; an operator sets STUDIO_VAULT_URL"
        parts = _VAULT.fullmatch(text)
        if parts is None:
            return "must be vault://MOUNT/PATH#KEY"
        steps = parts["path"].split("/")
        own = self._own_steps(organization_id)
        if own is None or steps[: len(own)] != own or len(steps) <= len(own) or {"", ".", ".."} & set(steps):
            return f"vault:// must lie below {self._settings.vault_path}, for this organization"
        return None

    def _own_steps(self, organization_id: str) -> list[str] | None:
        """The folder of an organization; None for an id that is no single step of a path."""
        if not organization_id or organization_id in {".", ".."}:
            return None
        return self._settings.vault_path.format(organization=organization_id).strip("/").split("/")

    def _file(self, text: str) -> Path | None:
        root = self._settings.reference_files
        if root is None or "\x00" in text:
            return None
        path = (root / text).resolve()  # an absolute one stands for itself
        return path if path.is_relative_to(root.resolve()) else None

    # -- reading ----------------------------------------------------------------------------------

    async def _value(self, organization_id: str, field: str, text: str) -> str:
        key = (organization_id, text)
        kept = self._known.get(key)
        if kept is not None and kept[0] > time.monotonic():
            return kept[1]
        flight = self._flights.get(key)
        if flight is None:  # one read for all who wait for it
            flight = self._flights[key] = asyncio.create_task(self._read(field, text))
            flight.add_done_callback(lambda done: self._landed(key, done))
        return await asyncio.shield(flight)

    def _landed(self, key: tuple[str, str], done: asyncio.Task[str]) -> None:
        del self._flights[key]
        if done.cancelled() or done.exception() is not None:
            return
        if len(self._known) >= _KEPT:
            self._known.clear()
        self._known[key] = (time.monotonic() + self._settings.reference_ttl_s, done.result())

    async def _read(self, field: str, text: str) -> str:
        scheme, _, rest = text.partition("://")
        if scheme == "env":
            found = self._settings.variable(rest)
        elif scheme == "file":
            found = await asyncio.to_thread(_file_text, self._file(rest))
        else:
            found = await self._from_vault(field, text)
        if found is None:
            raise InvalidConfig.at(f"config.{field}", f"the {scheme}:// reference names nothing that is there")
        return found

    async def _from_vault(self, field: str, text: str) -> str | None:
        parts = _VAULT.fullmatch(text)
        assert parts is not None  # checked before
        mount, _, path = parts["path"].partition("/")
        url = split_url(str(self._settings.vault_url).rstrip("/"))
        token = await asyncio.to_thread(vault_token, self._settings)
        headers = {"X-Vault-Token": token, "X-Vault-Request": "true"}
        try:
            async with AsyncExitStack() as stack:
                client = HttpClient(_LIMITS, url, self._network)
                await client.open(stack)
                answer = await client.send(
                    Request("GET", f"{url.path.rstrip('/')}/v1/{mount}/data/{path}", headers=headers)
                )
        except Exception as exc:
            raise Unreachable("the secret store does not answer; try again, or tell an operator") from exc
        if answer.status == 403:
            raise InvalidConfig.at(f"config.{field}", "the secret store does not let this service read the secret")
        if answer.status not in {200, 404} or answer.cut:
            raise Unreachable(f"the secret store answers with status {answer.status}; try again, or tell an operator")
        return _key_of(answer.body, parts["key"]) if answer.status == 200 else None


def vault_token(settings: Settings) -> str:
    """The token for the secret store, read from its file each time; empty where there is none."""
    if settings.vault_token_file is not None:
        return _file_text(settings.vault_token_file) or ""
    return settings.vault_token.get_secret_value() if settings.vault_token else ""


def _references(config: ProviderConfig) -> dict[str, str]:
    """The references of a config by the dotted path of their field."""
    return {name: text for name, text in config.split()[1].items() if is_reference(text)}


def _key_of(body: bytes, key: str) -> str | None:
    """One key of a KV version 2 answer: `data.data`, which is null once the version was deleted."""
    try:
        answer: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    data = answer.get("data") if isinstance(answer, Mapping) else None
    inner = data.get("data") if isinstance(data, Mapping) else None
    value = inner.get(key) if isinstance(inner, Mapping) else None
    return value if isinstance(value, str) else None


def _file_text(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_LONGEST + 1)
    except (OSError, ValueError):
        return None
    return text.removesuffix("\n").removesuffix("\r") if len(text) <= _LONGEST else None
