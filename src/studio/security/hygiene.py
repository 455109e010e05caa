"""What a process of the service takes from whoever started it: its settings, and nothing else.

A driver that finds `PGPASSWORD` or `~/.aws/credentials` would hand them to whatever host a tenant named.
Every driver here is given each field, so none looks; this is the second layer. It changes the whole
process, so only the program `studio` does it: as a library we live in a process that is somebody else's.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

AMBIENT = re.compile(
    r"(?:PG|MYSQL|MARIADB|MONGO|REDIS|RABBITMQ|KAFKA|AWS|BOTO|MINIO|GOOGLE|GCLOUD|GCE|CLOUDSDK|AZURE|MSI|KRB5)\w*"
    r"|IDENTITY_(?:ENDPOINT|HEADER)|IMDS_ENDPOINT|\w+_PROXY|NETRC|SSL_CERT_\w+|SSLKEYLOGFILE|OPENSSL_CONF"
    r"|\w+_CA_BUNDLE|STORAGE_EMULATOR_HOST|XDG_\w+",
    re.IGNORECASE,
)
"""Names that some driver, cloud kit or TLS library reads without being asked."""
NO_METADATA = {"AWS_EC2_METADATA_DISABLED": "true", "NO_GCE_CHECK": "true"}
_PR_SET_DUMPABLE = 4


def clean(home: Path, secrets: Iterable[str] = ()) -> dict[str, str]:
    """Leave this process nothing that a driver could find. Once, after the settings are read.

    Args:
        home: becomes `HOME`; made where it is missing, and must be empty.
        secrets: further variables that were read by now, and that nobody else shall find.

    Returns:
        The ambient variables that were taken out, for a caller who was told to use one by its name.

    Raises:
        FileExistsError: `home` is not an empty folder.
    """
    home.mkdir(mode=0o500, parents=True, exist_ok=True)
    if next(home.iterdir(), None) is not None:
        raise FileExistsError(
            17, "must be an empty folder: it is the HOME of the service, where drivers look", str(home)
        )
    taken = {name: value for name, value in os.environ.items() if AMBIENT.fullmatch(name)}
    gone = taken.keys() | set(secrets)
    _wipe(gone)
    for name in gone:
        os.environ.pop(name, None)
    os.environ.update(NO_METADATA, HOME=str(home))
    _refuse_core_dumps()
    return taken


def _wipe(names: Iterable[str]) -> None:
    """Overwrite variables where the system keeps them: `unsetenv` leaves them in `/proc/<pid>/environ`."""
    prefixes = tuple(name.encode() + b"=" for name in names)
    library = ctypes.CDLL(None)
    try:
        block = ctypes.POINTER(ctypes.c_void_p).in_dll(library, "environ")
    except ValueError:
        return  # no such symbol outside of POSIX
    for entry in _entries(block):
        text = ctypes.string_at(entry)
        if text.startswith(prefixes):
            start = text.index(b"=") + 1
            ctypes.memset(entry + start, 0, len(text) - start)


def _entries(block: ctypes._Pointer[ctypes.c_void_p]) -> Iterator[int]:
    """The addresses in an array that ends with NULL."""
    index = 0
    while (entry := block[index]) is not None:
        yield int(entry)
        index += 1


def _refuse_core_dumps() -> None:
    """A dump would hold opened configs; and nobody but root may look into this process."""
    if sys.platform == "win32":
        return
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
