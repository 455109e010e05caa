"""A new password for the ACL user itself, as the hash that Redis keeps of it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from studio.providers.redis.sessions import Session

NOT_KEPT = (
    "the new password holds until the server restarts: it has no ACL file and no configuration file that it may "
    "write; set it there too (ACL GETUSER shows its hash)"
)


async def set_password(user: str, new: str, session: Session) -> str | None:
    """Replace every password of the user; the hash alone is sent. The account needs `+acl|setuser`.

    Returns `NOT_KEPT` where the server could not write it down: into its ACL file, else its configuration.
    """
    digest = hashlib.sha256(new.encode("ascii")).hexdigest()
    await session.call("ACL", "SETUSER", user, "resetpass", f"#{digest}")
    for command in (["ACL", "SAVE"], ["CONFIG", "REWRITE"]):
        [answer] = await session.calls([command])
        if not isinstance(answer, Exception):
            return None
    return NOT_KEPT
