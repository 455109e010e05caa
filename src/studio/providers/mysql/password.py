"""A new password for the account itself."""

from __future__ import annotations

import hashlib


def set_password_text(password: str, *, mariadb: bool) -> str:
    """A statement of ours; the password is of letters, digits, `-` and `_`, so quotes are enough.

    MariaDB writes statements of this kind into its general log as they are, so it gets the hash of
    `mysql_native_password`, its usual plugin; an account with another one refuses it.
    """
    if not mariadb:
        return f"ALTER USER USER() IDENTIFIED BY '{password}'"
    digest = hashlib.sha1(hashlib.sha1(password.encode("ascii")).digest()).hexdigest()  # noqa: S324 - the server's own
    return f"SET PASSWORD = '*{digest.upper()}'"
