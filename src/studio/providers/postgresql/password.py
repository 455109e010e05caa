"""A new password for the account itself, as the verifier that PostgreSQL keeps of it (RFC 5802, RFC 5803)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os

ITERATIONS = 4096
"""PostgreSQL's own number (`scram_iterations`)."""


def set_password_text(password: str) -> str:
    """A statement of ours; the verifier is of letters, digits and `$ : + / = -`, so quotes are enough.

    ASCII alone is what it takes: that needs no SASLprep.
    """
    verifier = scram_verifier(password.encode("ascii"), os.urandom(16))
    # The database or the role may make reading the default.
    return f"BEGIN READ WRITE; ALTER ROLE CURRENT_USER PASSWORD '{verifier}'; COMMIT"


def scram_verifier(password: bytes, salt: bytes) -> str:
    """What `pg_authid.rolpassword` holds for a SCRAM-SHA-256 password."""
    salted = hashlib.pbkdf2_hmac("sha256", password, salt, ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    parts = [base64.b64encode(part).decode("ascii") for part in (salt, stored, server)]
    return f"SCRAM-SHA-256${ITERATIONS}:{parts[0]}${parts[1]}:{parts[2]}"
