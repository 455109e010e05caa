"""Which file an `sqlite` connector may open: a plain file below the operator's folder, reached by no link."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from studio.errors import FieldError, InvalidConfig, Unreachable

SIDE_FILES = ("-journal", "-wal", "-shm")
"""SQLite trusts these beside a database: nobody may make one as a database of their own."""


def checked_text(path: str) -> str:
    """The configured path if it could be one. Raises ValueError, which Pydantic reports."""
    if any(ord(character) < 32 or ord(character) == 127 for character in path):
        raise ValueError("must not contain control characters")
    if path.startswith(("file:", ":")):
        raise ValueError("must be the path of a file, not a URI or :memory:")
    if ".." in path.split("/") or path.endswith("/"):
        raise ValueError("must name a file, without ..")
    if path.endswith(SIDE_FILES):
        raise ValueError("must not name SQLite's own side files (-journal, -wal, -shm)")
    return path


def locate(path: str, *, root: Path | None, forbidden: Iterable[Path], create: bool) -> Path:
    """The file's real path.

    Raises:
        InvalidConfig: outside of the root, through a symbolic link, not a plain file, or the service's own.
        Unreachable: there is no such file, and it may not be created.
    """
    if root is None:
        raise _refused("has no folder to be in: an operator sets STUDIO_SQLITE_ROOT")
    base = Path(os.path.realpath(root))
    parts = _below(path, Path(root), base)
    place = base
    for part in parts[:-1]:
        place /= part
        _look(place, stat.S_ISDIR, "a folder")
    place /= parts[-1]
    if not _look(place, stat.S_ISREG, "a plain file", missing=create):
        _look(place.parent, stat.S_ISDIR, "a folder")
    _not_ours(place, forbidden)
    return place


def identity(path: Path) -> tuple[int, int] | None:
    """What tells this file from another one put in its place; None where there is none."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def privileges(path: Path) -> dict[str, Any]:
    """Whether the file's mode keeps this process from writing (`Probe.privileges`)."""
    if not os.access(path, os.W_OK):
        return {"enforced_by": "account", "excess": [], "grant": []}
    excess = ["write: the service's account may change the file"]
    grant = ["chmod a-w <the file>"]
    if os.geteuid() == 0:
        excess.append("root: the service runs as root, which file modes do not bind")
        grant.insert(0, "run the service as a user of its own that does not own the file")
    return {"enforced_by": "service", "excess": excess, "grant": grant}


def _refused(message: str) -> InvalidConfig:
    return InvalidConfig(f"config.path {message}", fields=[FieldError("config.path", message)])


def _below(path: str, root: Path, base: Path) -> tuple[str, ...]:
    given = Path(path)
    if given.is_absolute():
        for parent in (root, base):
            if given.is_relative_to(parent):
                given = given.relative_to(parent)
                break
        else:
            raise _refused("is outside of the folder for SQLite files (STUDIO_SQLITE_ROOT); give it relative to that")
    if not given.parts or ".." in given.parts:
        raise _refused("must name a file in the folder for SQLite files (STUDIO_SQLITE_ROOT)")
    return given.parts


def _look(place: Path, right: Any, kind: str, *, missing: bool = False) -> bool:
    try:
        mode = os.lstat(place).st_mode
    except (FileNotFoundError, NotADirectoryError):
        if missing:
            return False
        raise Unreachable(
            "there is no file at config.path in the folder for SQLite files (STUDIO_SQLITE_ROOT): put the database "
            "there, or set create to true and read_only to false"
        ) from None
    except OSError as exc:
        raise Unreachable("the file at config.path cannot be looked at: check the modes of its folders") from exc
    if stat.S_ISLNK(mode):
        raise _refused("leads through a symbolic link, which is never followed")
    if not right(mode):
        raise _refused(f"is not {kind} all the way")
    return True


def _not_ours(place: Path, forbidden: Iterable[Path]) -> None:
    """By name, by side file, by folder, and by inode: a hard link is the same file."""
    found = identity(place)
    for entry in forbidden:
        ours = os.path.realpath(entry)
        named = str(place) == ours or str(place).startswith((ours + "-", ours + "/"))
        if named or (found is not None and found == identity(Path(ours))):
            raise _refused("is the service's own file, which no connector opens")
