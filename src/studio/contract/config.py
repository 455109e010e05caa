"""How a provider describes its configuration, once, for validation, forms, sealing and overrides.

A provider's `Config` is a Pydantic model below `ProviderConfig`. What the house must know of a
field stands in its annotation: `Secret` is never shown, `Destination` is sealed to,
`Overridable` may be narrowed by an attachment.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Annotated, Any, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from studio.contract.withheld import Watch
from studio.errors import FieldError, InvalidConfig

_REFERENCE = re.compile(r"(?:vault|env|file)://")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_STEP = re.compile(r"(?:\\.|[^.\\])*", re.DOTALL)
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")


def _plain(value: str) -> str:
    if _CONTROL.search(value):
        raise ValueError("must not contain control characters")
    return value


def _pem(value: str) -> str:
    if "-----BEGIN " not in value or "\x00" in value:
        raise ValueError("must be PEM text (it starts with -----BEGIN ...)")
    return value


def is_reference(text: str) -> bool:
    """Whether a secret is a reference to one that is kept elsewhere: `vault://…`, `env://…`, `file://…`.

    The service resolves it before a driver sees the config.
    """
    return _REFERENCE.match(text) is not None


def secret_check(check: Callable[[SecretStr], SecretStr]) -> AfterValidator:
    """A validator of a secret's own form; a reference has none yet, and is checked once it is resolved."""
    return AfterValidator(lambda value: value if is_reference(value.get_secret_value()) else check(value))


def _no_nul(value: SecretStr) -> SecretStr:
    if "\x00" in value.get_secret_value():
        raise ValueError("must not contain NUL characters")
    return value


def _secret_pem(value: SecretStr) -> SecretStr:
    _pem(value.get_secret_value())
    return value


def _host(value: str) -> str:
    """A DNS name or an IP literal, and nothing that a driver could read as a path or a socket."""
    if "%" not in value:  # no zones: anything may stand behind the %, and link-local addresses are closed anyway
        with suppress(ValueError):
            return str(ipaddress.ip_address(value.removeprefix("[").removesuffix("]")))
    name = value.removesuffix(".")
    if not name or len(name) > 253 or not all(_LABEL.fullmatch(part) for part in name.split(".")):
        raise ValueError("must be a host name or an IP address, without scheme, port or path")
    return name.lower()


Text = Annotated[str, Field(max_length=255), AfterValidator(_plain)]
"""One line of text."""
Pem = Annotated[str, Field(max_length=262_144), AfterValidator(_pem)]
"""A certificate or a chain in PEM."""
Secret = Annotated[SecretStr, Field(max_length=65_536), AfterValidator(_no_nul)]
"""A credential. Its `repr` is opaque; no response, log or export holds it."""
SecretPem = Annotated[SecretStr, Field(max_length=262_144), secret_check(_secret_pem)]
"""A private key in PEM."""
Host = Annotated[str, Field(max_length=255), AfterValidator(_host)]
"""A DNS name or IP literal (RFC 1123), lower case."""
Port = Annotated[int, Field(ge=1, le=65_535)]


@dataclass(frozen=True)
class Destination:
    """Marks a field that says where secrets are sent: change one and they must be given again.

    `optional`: the digest leaves it out where it is not set. For a field that came to a provider later, so that
    configs which were sealed without it still open.
    """

    optional: bool = False


@dataclass(frozen=True)
class Overridable:
    """Marks a field that an attachment may set where `allows(stored, wanted)`."""

    allows: Callable[[Any, Any], bool]
    rule: str


ANY = Overridable(lambda stored, wanted: True, "any valid value")
LOWER = Overridable(lambda stored, wanted: wanted <= stored, "may only be lowered")
TO_TRUE = Overridable(lambda stored, wanted: bool(wanted) or not stored, "may only be set to true")
BELOW = Overridable(
    lambda stored, wanted: isinstance(wanted, str) and wanted.startswith(stored or ""),
    "must begin with the connector's own value",
)


MOST_FIELDS = 200
"""Of a config as it is given."""


class ProviderConfig(BaseModel):
    """The fields that every provider has (`contract.md`). Unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    read_only: Annotated[bool, TO_TRUE] = Field(True, description="Agents may only read.")
    timeout_s: Annotated[float, ANY] = Field(30, gt=0, le=3600, description="Deadline of one operation, seconds.")
    connect_timeout_s: Annotated[float, LOWER] = Field(5, gt=0, le=60, description="Bound on one connect, seconds.")
    max_rows: Annotated[int, LOWER] = Field(1000, ge=1, le=100_000_000, description="Rows one operation may return.")
    max_bytes: Annotated[int, LOWER] = Field(
        4 * 1024 * 1024, ge=1024, le=1 << 40, description="Bytes of values one operation may return."
    )
    pool_size: Annotated[int, LOWER] = Field(4, ge=1, le=100, description="Sessions to the upstream at one time.")

    @classmethod
    def parse(cls, raw: Mapping[str, Any], *, prefix: str = "config") -> Self:
        """Validate `raw`.

        Raises:
            InvalidConfig: with one entry a wrong field; values are never repeated.
        """
        if len(raw) > MOST_FIELDS:  # there would be an error for each
            raise InvalidConfig(f"the {prefix} has more than {MOST_FIELDS} fields, which no provider has")
        try:
            return cls.model_validate(dict(raw))
        except ValidationError as exc:
            raise InvalidConfig(
                f"the {prefix} does not fit this provider's schema", fields=field_errors(exc, prefix)
            ) from None

    @classmethod
    def overridable(cls) -> dict[str, Overridable]:
        """The fields that an attachment may set, with their rules."""
        return dict(cls._marked(Overridable))

    @classmethod
    def destination_fields(cls) -> list[str]:
        """Names of the fields that secrets are sealed to."""
        return [name for name, _ in cls._marked(Destination)]

    @classmethod
    @cache
    def defaults(cls) -> dict[str, Any]:
        """Field names, as callers write them, with the values that hold where they are left out."""
        found = {
            info.alias or name: None if info.is_required() else info.get_default(call_default_factory=True)
            for name, info in cls.model_fields.items()
        }
        return {
            name: split_secrets(value.model_dump(by_alias=True))[0] if isinstance(value, BaseModel) else value
            for name, value in found.items()
        }

    @classmethod
    @cache
    def variants(cls) -> dict[str, str]:
        """Fields that hold one of several shapes, with the member that says which one (`auth`: `type`)."""
        found = {info.alias or name: _discriminator(info.annotation) for name, info in cls.model_fields.items()}
        return {name: member for name, member in found.items() if member is not None}

    @classmethod
    def _marked(cls, kind: type) -> Iterator[tuple[str, Any]]:
        for name, info in cls.model_fields.items():
            for mark in info.metadata:
                if isinstance(mark, kind):
                    yield info.alias or name, mark

    @classmethod
    def destination(cls, public: Mapping[str, Any]) -> str:
        """A digest of all destination fields of a non-secret tree, defaults included."""
        defaults = cls.defaults()
        fields = {name: public.get(name, defaults[name]) for name in cls.destination_fields()}
        for name, mark in cls._marked(Destination):
            if mark.optional and fields[name] is None:
                del fields[name]
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

    def split(self) -> tuple[dict[str, Any], dict[str, str]]:
        """What the caller set, as (non-secret tree, secrets by dotted path)."""
        return split_secrets(self.model_dump(by_alias=True, exclude_unset=True))

    @cached_property
    def watch(self) -> Watch:
        """Finds the secrets of this config in what an upstream answers."""
        return Watch(self.split()[1])

    def value(self, name: str) -> Any:
        """The value of a field by the name that callers use."""
        return self.model_dump(by_alias=True)[name]


def _discriminator(annotation: Any) -> str | None:
    """The discriminator of a union of models, wherever in the annotation it stands."""
    inner = [_discriminator(part) for part in get_args(annotation)]
    own = [mark.discriminator for mark in getattr(annotation, "__metadata__", ()) if isinstance(mark, FieldInfo)]
    return next((found for found in [*own, *inner] if isinstance(found, str)), None)


def split_secrets(tree: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Take every `SecretStr` out of a dumped config; its dotted path becomes its name."""
    public: dict[str, Any] = {}
    secrets: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, SecretStr):
            secrets[path_step(key)] = value.get_secret_value()
        elif isinstance(value, Mapping):
            inner, found = split_secrets(value)
            public[key] = inner
            secrets.update({f"{path_step(key)}.{name}": secret for name, secret in found.items()})
        else:
            public[key] = value
    return public, secrets


def join_secrets(public: Mapping[str, Any], secrets: Mapping[str, str]) -> dict[str, Any]:
    """The reverse of `split_secrets`: a tree with the secrets back in place, as plain text."""
    tree: dict[str, Any] = {key: dict(value) if isinstance(value, Mapping) else value for key, value in public.items()}
    for path, secret in secrets.items():
        step, _, rest = _first_step(path)
        if rest:
            tree[step] = join_secrets(tree.get(step) or {}, {rest: secret})
        else:
            tree[step] = secret
    return tree


def path_step(key: str) -> str:
    """A key as one step of a dotted path: a dot of its own (a header's name may have one) is escaped."""
    return key.replace("\\", "\\\\").replace(".", "\\.")


def _first_step(path: str) -> tuple[str, str, str]:
    """The first key of a dotted path, the dot after it, and the rest."""
    found = _STEP.match(path)
    assert found is not None  # it matches the empty text too
    return re.sub(r"\\(.)", r"\1", found[0]), path[found.end() : found.end() + 1], path[found.end() + 1 :]


def said(kind: str, message: str) -> str:
    """Pydantic's message for an error of this kind, where ours is not plainer."""
    return "no such field" if kind == "extra_forbidden" else message.removeprefix("Value error, ")


def field_errors(exc: ValidationError, prefix: str) -> list[FieldError]:
    """Pydantic's findings as dotted paths, with neither input nor context."""
    return [
        FieldError(
            ".".join([prefix, *map(str, error["loc"])]) if prefix else ".".join(map(str, error["loc"])),
            said(error["type"], error["msg"]),
        )
        for error in exc.errors(include_url=False, include_input=False, include_context=False)
    ]
