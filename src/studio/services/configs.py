"""Configs between their three states: sealed in a row, shown without secrets, and released to a driver.

`release` is the one place where secrets come out; test, execution and update all go through it,
and it hands them to a provider's `Config`, whose secret fields are opaque.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

from studio.contract import Operation, Provider, ProviderConfig
from studio.contract.config import is_reference, join_secrets, path_step
from studio.errors import EncryptionError, FieldError, InvalidConfig, OverrideNotAllowed, SecretsRequired
from studio.models import Connector, ConnectorInstance, Sealed
from studio.providers import load
from studio.security.vault import Place, Vault
from studio.services.references import References

Kind = type[Provider[Any]]


@dataclass(frozen=True)
class Effective:
    """A connector as one attachment sees it, without secrets."""

    kind: Kind
    public: Mapping[str, Any]
    override: Mapping[str, Any]
    secrets_set: tuple[str, ...]
    digest: str
    """Of the override: attachments that narrow alike share a session."""
    unfit: tuple[str, ...] = ()
    """Overridden fields that no longer lie within the connector's own values; nothing runs with them."""

    def __getitem__(self, name: str) -> Any:
        """The value in force of a field that is not secret."""
        return self.public[name] if name in self.public else self.kind.Config.defaults()[name]

    @cached_property
    def operations(self) -> Mapping[str, Operation]:
        """What can be run there, by name."""
        return self.kind.operations_for(self.public)

    def shown(self) -> dict[str, Any]:
        """All non-secret fields with the values in force; unset optional ones are left out."""
        values = {**self.kind.Config.defaults(), **self.public}
        own_first = sorted(values, key=lambda name: name in ProviderConfig.model_fields)
        return {name: values[name] for name in own_first if values[name] is not None}

    def sources(self) -> dict[str, str]:
        """Where each shown field came from: `override`, `connector` or `default`."""
        return {
            name: "override" if name in self.override else "connector" if name in self.public else "default"
            for name in self.shown()
        }


class Configs:
    """Seals, shows, merges and releases configs with one vault."""

    def __init__(self, vault: Vault, references: References) -> None:
        self._vault = vault
        self._references = references
        # Keyed by the tokens themselves, which are re-read from the rows for every call.
        self._effective = lru_cache(maxsize=4096)(self._open)

    def seal(self, organization_id: str, connector_id: str, version: int, config: ProviderConfig) -> Sealed:
        """Seal a connector's config for one version of its row. Raises InvalidConfig for a reference not allowed."""
        self._references.check(organization_id, config)
        public, secrets = config.split()
        place = Place(organization_id, connector_id, "config", version)
        return self._vault.seal(place, public, secrets, config.destination(public))

    def seal_override(self, organization_id: str, instance_id: str, override: Mapping[str, Any]) -> Sealed:
        """Seal an attachment's override; it holds no secret, and is sealed all the same."""
        return self._vault.seal(Place(organization_id, instance_id, "override", 1), override, {}, "")

    def seal_secrets(self, connector: Connector, row_id: str, config: ProviderConfig) -> Sealed:
        """The secrets of a config alone, to be kept in a row of their own beside the connector."""
        public, secrets = config.split()
        return self._vault.seal(_beside(connector, row_id), {}, secrets, config.destination(public))

    def exchanged(self, connector: Connector, row_id: str, other: Sealed) -> Connector:
        """The connector as it would be with secrets that are kept beside it; nothing is stored.

        Raises:
            EncryptionError: they were sealed to another destination than the connector's present one.
        """
        return self.drafted(connector, self.release(connector, beside=(_beside(connector, row_id), other)))

    def drafted(self, connector: Connector, config: ProviderConfig) -> Connector:
        """The connector as it would be with another config; nothing is stored."""
        sealed = self.seal(connector.organization_id, connector.id, connector.version, config)
        return replace(connector, config_encrypted=sealed.token, key_id=sealed.key_id)

    def seal_repeat(self, organization_id: str, row_id: str, key: str, value: Mapping[str, Any]) -> Sealed:
        """Seal what was answered to a request; it opens with that request's own Idempotency-Key only."""
        return self._vault.seal(Place(organization_id, row_id, f"repeat {key}", 1), value, {}, "")

    def open_repeat(self, organization_id: str, row_id: str, key: str, sealed: Sealed) -> dict[str, Any]:
        """Open it again. Raises EncryptionError."""
        return self._vault.open(Place(organization_id, row_id, f"repeat {key}", 1), sealed)[0]

    def effective(self, connector: Connector, instance: ConnectorInstance | None = None) -> Effective:
        """What is in force for a connector, or for one attachment of it. Raises EncryptionError."""
        override = None
        if instance is not None and instance.config_override is not None:
            place = Place(instance.organization_id, instance.id, "override", 1)
            override = (place, Sealed(instance.config_override, instance.key_id or ""))
        return self._effective(connector.provider, _place(connector), _sealed(connector), override)

    def effective_or_none(self, connector: Connector, instance: ConnectorInstance | None = None) -> Effective | None:
        """As `effective`, for lists: one that does not open must not hide the others."""
        try:
            return self.effective(connector, instance)
        except EncryptionError:
            return None

    def _open(self, provider: str, place: Place, sealed: Sealed, override: tuple[Place, Sealed] | None) -> Effective:
        public, names = self._vault.open(place, sealed)
        kind = load(provider)
        narrowed, unfit = _within(kind, public, self._vault.open(*override)[0] if override else {})
        digest = hashlib.sha256(json.dumps(narrowed, sort_keys=True).encode()).hexdigest() if narrowed else ""
        return Effective(kind, {**public, **narrowed}, narrowed, tuple(names), digest, unfit)

    def release(
        self,
        connector: Connector,
        override: Mapping[str, Any] | None = None,
        *,
        beside: tuple[Place, Sealed] | None = None,
    ) -> ProviderConfig:
        """The full config with its secrets, or those kept `beside` it, for a driver. The only way to a secret.

        The secrets open for the destination that the effective config names, so an override that
        reached a destination field would get none.
        """
        place, sealed, config = _place(connector), _sealed(connector), load(connector.provider).Config
        merged = {**self.effective(connector).public, **(override or {})}
        secrets = self._vault.release(*(beside or (place, sealed)), config.destination(merged))
        return config.parse(join_secrets(merged, secrets))

    def merged(self, connector: Connector, patch: Mapping[str, Any]) -> ProviderConfig:
        """The config after a merge patch (RFC 7396); an object that becomes one of another variant starts empty.

        Raises:
            InvalidConfig: the outcome does not fit the schema.
            SecretsRequired: a destination field changed and a secret was not given again.
        """
        old = self.release(connector)
        public, secrets = old.split()
        held_now = join_secrets(public, secrets)
        for name, member in type(old).variants().items():
            if _switches(held_now.get(name), patch.get(name), member):
                del held_now[name]  # what the former variant held means nothing to the new one
        new = type(old).parse(merge_patch(held_now, patch))
        changed, held = new.split()
        if new.destination(changed) != old.destination(public):
            kept = sorted(set(held) - _paths(patch))
            if kept:
                raise SecretsRequired(
                    "the destination changed, and secrets are sealed to the one they were given for: "
                    f"give {', '.join(kept)} again in the same update",
                    fields=[FieldError(f"config.{name}", "must be given again") for name in kept],
                )
        return new

    def referenced(self, connector: Connector) -> set[str]:
        """The secrets that are references to where they are kept."""
        return {name for name, text in self.release(connector).split()[1].items() if is_reference(text)}

    def differing(self, connector: Connector, new: ProviderConfig) -> list[str]:
        """The fields (`config.port`) in which another config differs, secrets by their names alone, last."""
        pairs = zip(self.release(connector).split(), new.split(), strict=True)
        return [
            f"config.{name}"
            for old, changed in pairs
            for name in sorted({*old, *changed})
            if old.get(name) != changed.get(name)
        ]

    def narrowed(self, connector: Connector, override: Mapping[str, Any]) -> ProviderConfig:
        """The config under an override. Destination fields are never on the list of what may be set.

        Raises:
            OverrideNotAllowed: a field that may not be overridden, or a value that widens.
            InvalidConfig: a value that the schema refuses.
        """
        stored = self.release(connector)
        allowed = stored.overridable()
        wrong = [
            FieldError(f"config_override.{name}"[:200], "may not be overridden")
            for name in override
            if name not in allowed
        ]
        if wrong:
            may = ", ".join(allowed)
            raise OverrideNotAllowed(f"{wrong[0].field} may not be overridden; these may: {may}", fields=wrong)
        public, secrets = stored.split()
        wanted = type(stored).parse(join_secrets({**public, **override}, secrets), prefix="config_override")
        for name, rule in allowed.items():
            if name in override and not rule.allows(stored.value(name), wanted.value(name)):
                raise OverrideNotAllowed.at(f"config_override.{name}", rule.rule)
        return wanted


def parse_config(kind: Kind, raw: Mapping[str, Any]) -> ProviderConfig:
    """Validate a new config. Raises InvalidConfig."""
    if any(value is None for value in raw.values()):
        empty = [FieldError(f"config.{name}", "must not be null; leave it out") for name, v in raw.items() if v is None]
        raise InvalidConfig("the config holds null", fields=empty)
    return kind.Config.parse(raw)


def _within(kind: Kind, public: Mapping[str, Any], wanted: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """An override as it holds now: the connector itself may have been narrowed since the attaching.

    Where the connector's own value is the narrower one it holds; what lies elsewhere is unfit.
    """
    allowed, defaults = kind.Config.overridable(), kind.Config.defaults()
    narrowed, unfit = {}, []
    for name, value in wanted.items():
        rule, stored = allowed.get(name), public.get(name, defaults.get(name))
        if rule is not None and rule.allows(stored, value):
            narrowed[name] = value
        elif rule is None or not rule.allows(value, stored):
            unfit.append(name)
    return narrowed, tuple(unfit)


def _switches(held: Any, patch: Any, member: str) -> bool:
    both = isinstance(held, Mapping) and isinstance(patch, Mapping)
    return both and member in patch and patch[member] != held.get(member)


def merge_patch(target: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """RFC 7396: objects merge, `null` removes, anything else replaces."""
    result = dict(target)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping):
            inner = result.get(key)
            result[key] = merge_patch(inner if isinstance(inner, Mapping) else {}, value)
        else:
            result[key] = value
    return result


def _paths(tree: Mapping[str, Any], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for key, value in tree.items():
        step = prefix + path_step(key)
        found |= _paths(value, f"{step}.") if isinstance(value, Mapping) else {step}
    return found


def _place(connector: Connector) -> Place:
    return Place(connector.organization_id, connector.id, "config", connector.version)


def _beside(connector: Connector, row_id: str) -> Place:
    return Place(connector.organization_id, row_id, "secrets", 1)


def _sealed(connector: Connector) -> Sealed:
    return Sealed(connector.config_encrypted, connector.key_id)
