"""May this command line run here, and with which keys? Decided before anything of it is sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from studio.errors import InvalidRequest, OperationNotSupported
from studio.models import Effect
from studio.providers.redis.commands import (
    CONTAINERS,
    KEYLESS_UNDER_PREFIX,
    REFUSED,
    TABLE,
    effect_of,
    layout_of,
    positions,
)
from studio.providers.redis.line import Line

_NAMES_A_KEY = frozenset({"lmpop", "zmpop"})
_AS_SAFE = {
    Effect.READ: {Effect.READ},
    Effect.WRITE: {Effect.READ, Effect.WRITE},
    Effect.DELETE: {Effect.WRITE},
    Effect.ADMIN: set(Effect),
}


@dataclass(frozen=True)
class Verdict:
    """What our table says of a command. `name` is that of `COMMAND INFO`."""

    name: str
    effect: Effect
    layout: str

    @property
    def shown(self) -> str:
        """As a person writes it."""
        return self.name.replace("|", " ").upper()


def judge(line: Line) -> Verdict:
    """The verdict on a command line.

    Raises:
        InvalidRequest: the command is a parameter, unknown, or one that is never run.
    """
    name = line.word(0)
    if name is None:
        raise InvalidRequest.at("command", "the command itself cannot be a parameter")
    if reason := REFUSED.get(name):
        raise InvalidRequest.at("command", f"{name.upper()} is never run here: {reason}")
    if name in CONTAINERS:
        inner = line.word(1)
        if inner is None:
            raise InvalidRequest.at("command", f"{name.upper()} needs a subcommand, which cannot be a parameter")
        name = f"{name}|{inner}"
    found = TABLE.get(name)
    if found is None:
        shown = name[:64].replace("|", " ").upper()
        raise InvalidRequest.at("command", f"{shown} is not a command that this service knows, so it is refused")
    return Verdict(name, *found)


def placed(verdict: Verdict, arguments: list[bytes], prefix: bytes) -> list[bytes]:
    """The arguments with `prefix` before every key.

    Raises:
        InvalidRequest: the keys cannot be told, or the command reaches beyond its keys.
    """
    if verdict.name == "copy" and any(argument.lower() == b"db" for argument in arguments[3:]):
        raise InvalidRequest.at("command", "COPY to another database is never run here")
    if not prefix:
        return arguments
    if verdict.layout == "?" or (verdict.layout == "-" and verdict.name not in KEYLESS_UNDER_PREFIX):
        raise InvalidRequest.at(
            "command", f"{verdict.shown} reaches beyond this connector's key_prefix; use the operation scan for names"
        )
    try:
        keys = positions(verdict.layout, arguments)
    except ValueError:
        raise InvalidRequest.at("command", f"{verdict.shown} needs a number of keys that fits its arguments") from None
    for at in keys:
        arguments[at] = prefix + arguments[at]
    return arguments


def confirm(verdict: Verdict, reply: Any, *, prefixed: bool) -> None:
    """Compare the verdict with the server's own `COMMAND INFO` of that command.

    Raises:
        OperationNotSupported: the server does not have it, or means something else by it.
    """
    info = reply[0] if reply else None
    if not info:
        raise OperationNotSupported(f"this server does not have {verdict.shown} (or calls it by another name)")
    specs = _texts(info[8]) if len(info) > 8 else []
    live = effect_of(verdict.name, _texts(info[2]), _texts(info[6]), specs)
    if live not in _AS_SAFE[verdict.effect]:
        raise OperationNotSupported(f"this server gives {verdict.shown} another meaning than Redis 7, so it is refused")
    if prefixed and verdict.layout != "-" and (len(info) <= 8 or layout_of(specs) != verdict.layout):
        raise OperationNotSupported(
            f"this server does not say where the keys of {verdict.shown} stand (Redis 7 does), "
            "so it is refused under a key_prefix"
        )


def stripped(verdict: Verdict, reply: Any, prefix: bytes) -> Any:
    """The reply without the prefix, where it names a key."""
    if prefix and verdict.name in _NAMES_A_KEY and isinstance(reply, list) and reply:
        return [reply[0].removeprefix(prefix), *reply[1:]]
    return reply


def _texts(value: Any) -> Any:
    """A reply with all its bytes as text."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, dict):
        return {_texts(key): _texts(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_texts(item) for item in value]
    return value
