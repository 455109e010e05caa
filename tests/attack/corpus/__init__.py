"""The attack corpus: data, and how it is read."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent


@cache
def read(name: str) -> Any:
    """A file of the corpus."""
    return yaml.safe_load((HERE / f"{name}.yaml").read_text())


def filled(tree: Any, **values: object) -> Any:
    """A piece of the corpus with its `$NAMES` filled in; text that is one number becomes one."""
    if isinstance(tree, dict):
        return {key: filled(value, **values) for key, value in tree.items()}
    if isinstance(tree, list):
        return [filled(value, **values) for value in tree]
    if not isinstance(tree, str):
        return tree
    if tree in {f"${name}" for name in values}:
        return values[tree[1:]]
    for name, value in values.items():
        tree = tree.replace(f"${name}", str(value))
    return tree


def config(kind: str, host: str, port: int, secret: str | None = None) -> dict[str, Any]:
    """A config of one provider that leads to a place; with `secret` in each of its secret fields, where given."""
    described = read("kinds")[kind]
    found = filled(described["config"], HOST=host, PORT=port)
    if secret is not None:
        found |= filled(described["secrets"], SECRET=secret, PEM=pem())
    return found


@cache
def pem() -> str:
    """A private key of a service account."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


def leads(kind: str, host: str, port: int) -> dict[str, Any]:
    """The fields of a provider that say where it dials, pointing at a place."""
    return filled(read("kinds")[kind]["leads"], HOST=host, PORT=port)


def text(value: Any) -> str:
    """JSON, for searching."""
    return json.dumps(value, ensure_ascii=False, default=str)
