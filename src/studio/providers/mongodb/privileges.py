"""What an account may do, from the server's own answer about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_DOCUMENTS = frozenset({"insert", "update", "remove"})
_STRUCTURE = frozenset(
    {
        "createCollection", "dropCollection", "createIndex", "dropIndex", "collMod", "convertToCapped", "dropDatabase",
        "renameCollectionSameDB", "bypassDocumentValidation", "enableSharding",
    }
)  # fmt: skip
_WRITES = _DOCUMENTS | _STRUCTURE | {"anyAction"}
_EXCESS = {
    "write documents": _DOCUMENTS,
    "drop or change collections": _STRUCTURE,
    "manage users and roles": frozenset({"createUser", "dropUser", "grantRole", "createRole", "changeAnyPassword"}),
    "see and end other sessions": frozenset({"inprog", "killop", "killAnySession", "killAnyCursor"}),
    "run the server": frozenset({"shutdown", "setParameter", "replSetConfigure", "fsync", "applyOps", "internal"}),
}
_SYSTEM = frozenset({"system.js", "system.profile"})


def shape(status: Mapping[str, Any], database: str) -> dict[str, Any]:
    """See `Probe.privileges`. `status` is the reply to `connectionStatus` with `showPrivileges`."""
    granted = status.get("authInfo", {}).get("authenticatedUserPrivileges")
    actions = {
        action
        for privilege in granted or ()
        if privilege.get("resource", {}).get("collection") not in _SYSTEM
        for action in privilege.get("actions", ())
    }
    excess = [name for name, those in _EXCESS.items() if actions & those or "anyAction" in actions]
    if not granted:
        excess = ["unknown: the server checks no privileges, or does not tell"]
    return {
        "enforced_by": "account" if granted and not actions & _WRITES else "service",
        "excess": excess,
        "grant": [
            f'db.getSiblingDB("{database}").createUser({{user: "studio_reader", pwd: passwordPrompt(), '
            f'roles: [{{role: "read", db: "{database}"}}]}})'
        ],
    }
