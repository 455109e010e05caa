"""Connection strings and shared access signatures, taken apart by a strict grammar.

Neither goes to the driver as it was given: in both, a separator in the wrong place could name
another host or add a parameter. Messages never repeat any of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode

from pydantic import SecretStr

_IGNORED = {"queueendpoint", "tableendpoint", "fileendpoint", "blobsecondaryendpoint", "queuesecondaryendpoint",
            "tablesecondaryendpoint", "filesecondaryendpoint"}  # fmt: skip
_SAS = {"sv", "ss", "srt", "sp", "se", "st", "spr", "sip", "sig", "sr", "si", "sdd", "skoid", "sktid", "skt", "ske",
        "sks", "skv", "saoid", "suoid", "scid", "ses", "rscc", "rscd", "rsce", "rscl", "rsct"}  # fmt: skip
"""Parameters of a signature (Azure Storage REST API, "Create a service SAS", "Create an account SAS")."""
_WRITES: Mapping[str, str] = {
    "w": "write", "c": "create", "a": "add", "d": "delete", "x": "delete versions", "y": "delete permanently",
    "t": "tags", "i": "set immutability", "m": "move", "o": "ownership", "p": "permissions", "u": "update",
}  # fmt: skip


def connection_fields(text: Any) -> dict[str, Any]:
    """The config fields that a connection string stands for.

    Raises:
        ValueError: it is not `Name=value;...`, or has a part that is not known.
    """
    if isinstance(text, SecretStr):
        text = text.get_secret_value()
    parts = _parts(text)
    protocol = parts.pop("defaultendpointsprotocol", "https").lower()
    suffix = parts.pop("endpointsuffix", "core.windows.net")
    found: dict[str, Any] = {}
    names = {"accountname": "account", "accountkey": "account_key", "sharedaccesssignature": "sas_token",
             "blobendpoint": "endpoint"}  # fmt: skip
    for part, value in parts.items():
        if part in names:
            found[names[part]] = value.rstrip("/") if part == "blobendpoint" else value
        elif part not in _IGNORED:
            raise ValueError("connection_string: has a part that is not known here")
    standard = protocol == "https" and suffix == "core.windows.net"
    if "endpoint" not in found and "account" in found and not standard:
        found["endpoint"] = f"{protocol}://{found['account']}.blob.{suffix}"
    if "account" not in found and "endpoint" not in found:
        raise ValueError("connection_string: needs AccountName")
    return found


def _parts(text: Any) -> dict[str, str]:
    if not isinstance(text, str) or len(text) > 8192:
        raise ValueError("connection_string: must be text of the form Name=value;Name=value")
    found: dict[str, str] = {}
    for part in filter(None, text.strip().strip(";").split(";")):
        name, equals, value = part.partition("=")
        name = name.strip().lower()
        if not equals or not value or name in found:
            raise ValueError("connection_string: must be of the form Name=value;Name=value, each name once")
        found[name] = value
    return found


def sas_fields(text: str) -> str:
    """The signature, rebuilt from its known parameters. Raises ValueError."""
    try:
        pairs = parse_qsl(text.removeprefix("?"), keep_blank_values=True, strict_parsing=True)
    except ValueError:
        pairs = []
    names = [name for name, _ in pairs]
    if "sig" not in names or len(set(names)) != len(names) or not _SAS.issuperset(names):
        raise ValueError("must be a shared access signature: sv=...&sig=..., with no other parameters")
    return urlencode(pairs)


def permissions(sas: str) -> list[str] | None:
    """The rights beyond reading that a signature gives; None where a stored policy holds them."""
    given = dict(parse_qsl(sas)).get("sp")
    if given is None:
        return None
    return [name for letter, name in _WRITES.items() if letter in given]
