"""Writes docs/settings.md from `studio.settings.Settings`; `--check` fails where the page is not up to date."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from studio.settings import Settings

PAGE = Path(__file__).parent.parent / "docs" / "settings.md"
HEAD = """# Settings

Generated from the code by `make docs`; do not edit. Each is read once, at the start, from the environment or
from a file of its name in the folder `STUDIO_SECRETS_DIR`; the environment wins. Lists are comma separated. Nothing has
to be set.

| variable | value | default | what it does |
| --- | --- | --- | --- |
"""
NAMES = {"SecretStr": "secret text", "str": "text", "int": "whole number", "float": "number", "Path": "path"}
HOME = {"data_dir": "`~/.studio`"}
"""Defaults that differ from machine to machine."""


def page() -> str:
    """The page's text."""
    return HEAD + "\n".join(row(name, field) for name, field in Settings.model_fields.items()) + "\n"


def row(name: str, field: FieldInfo) -> str:
    """One setting's line."""
    text = (field.description or "").replace("|", "\\|")
    return f"| `STUDIO_{name.upper()}` | {kind(field.annotation)} | {HOME.get(name) or default(field)} | {text} |"


def kind(annotation: Any) -> str:
    """A type in a reader's words."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return kind(next(arg for arg in args if arg is not types.NoneType))
    if origin is Literal:
        return ", ".join(f"`{arg}`" for arg in args)
    if origin is tuple:
        return "list"
    return "JSON object" if origin is dict else NAMES[annotation.__name__]


def default(field: FieldInfo) -> str:
    """A default as it would be written in the environment."""
    if field.default is PydanticUndefined:
        raise SystemExit("a setting has a default that this page cannot tell; name it in HOME")
    return f"`{field.default}`" if field.default or field.default == 0 else "empty"


if __name__ == "__main__":
    text = page()
    if "--check" in sys.argv:
        if not PAGE.exists() or PAGE.read_text() != text:
            sys.exit("docs/settings.md is not up to date: run make docs")
    else:
        PAGE.write_text(text)
