"""What people type: JSON, `key=value` pairs, and secrets that never stand on the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import click

from studio.errors import InvalidRequest


def read_text(given: str, option: str) -> str:
    """The text itself, that of a file for `@FILE`, that of stdin for `-`. Raises InvalidRequest."""
    if given == "-":
        try:
            return sys.stdin.read()
        except UnicodeDecodeError as exc:
            raise InvalidRequest.at(option, "stdin is not UTF-8 text") from exc
    return read_file(Path(given[1:]), option) if given.startswith("@") else given


def read_file(path: Path, option: str) -> str:
    """A file's text. Raises InvalidRequest, naming the option that asked for it."""
    try:
        return path.read_text("utf-8")
    except OSError as exc:
        raise InvalidRequest.at(option, f"cannot read {path}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise InvalidRequest.at(option, f"{path} is not UTF-8 text") from exc


def json_object(given: str | None, option: str) -> dict[str, Any]:
    """A JSON object from text, `@FILE` or `-`; empty where nothing was given. Raises InvalidRequest."""
    if given is None:
        return {}
    try:
        value = json.loads(read_text(given, option), parse_constant=_refuse)
    except ValueError as exc:
        # Neither the text nor the parser's excerpt of it: a config holds secrets.
        raise InvalidRequest.at(option, "is not JSON; give a JSON object, @FILE, or - for stdin") from exc
    if not isinstance(value, dict):
        raise InvalidRequest.at(option, 'must be a JSON object, such as {"host": "db"}')
    return value


def pairs(given: Iterable[str], option: str) -> dict[str, Any]:
    """`key=value` as a flat mapping; a value is JSON where it parses, else text. Raises InvalidRequest."""
    found: dict[str, Any] = {}
    for one in given:
        name, equals, text = one.partition("=")
        if not equals or not name:
            raise InvalidRequest.at(option, "must be KEY=VALUE")
        if name in found:
            raise InvalidRequest.at(option, f"{name} is given twice")
        found[name] = _value(text)
    return found


def merged_config(
    config: str | None, sets: Iterable[str], secrets: Iterable[str] = (), unset: Iterable[str] = ()
) -> dict[str, Any]:
    """`--config`, then `--set`, `--secret` and `--unset` on top; a dot in a key leads inside. Raises InvalidRequest."""
    tree = json_object(config, "--config")
    for name, value in pairs(sets, "--set").items():
        _put(tree, name, value)
    for one in secrets:
        _put(tree, *_secret(one))
    for name in unset:
        _put(tree, name, None)
    return tree


def _put(tree: dict[str, Any], path: str, value: Any) -> None:
    *outer, last = path.split(".")
    for name in outer:
        inner = tree.setdefault(name, {})
        if not isinstance(inner, dict):
            raise InvalidRequest.at(path, f"{name} is no object here")
        tree = inner
    tree[last] = value


def _value(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse)
    except ValueError:
        return text


def _refuse(name: str) -> NoReturn:
    raise ValueError(name)  # NaN and Infinity are not JSON


def _secret(given: str) -> tuple[str, str]:
    """`NAME` asks for the value, `NAME=@FILE` reads it. Anything else would be on the command line for all to see."""
    name, equals, source = given.partition("=")
    if not equals:
        return name, _ask(name)
    if not source.startswith("@"):
        raise InvalidRequest.at(
            "--secret", f"other users see the command line: give --secret {name} to be asked, or {name}=@FILE"
        )
    return name, without_newline(read_file(Path(source[1:]), "--secret"))


def _ask(name: str) -> str:
    if sys.stdin.isatty():
        answer: str = click.prompt(name, hide_input=True, err=True)
        return answer
    line = sys.stdin.readline()
    if not line:
        raise InvalidRequest.at("--secret", f"nothing was given for {name}: stdin is empty")
    return without_newline(line)


def without_newline(text: str) -> str:
    """The text of a file that holds one value: editors and `echo` end it with a line break."""
    return text.removesuffix("\n").removesuffix("\r")
