"""asyncpg with our codecs. Imported when the first connection is made: the driver costs 100 ms."""

from __future__ import annotations

from typing import Any

import asyncpg as asyncpg

from studio.providers.postgresql.values import as_text, install

_ROW_TYPES = {b"c", b"r", b"m"}
"""`pg_type.typtype` of composites, ranges and multiranges."""


class Connection(asyncpg.Connection):  # type: ignore[misc]
    """asyncpg's connection, which takes the server's text for types of the user's own."""

    async def _introspect_types(self, typeoids: Any, timeout: Any) -> Any:
        """What is known of types seen for the first time.

        asyncpg cannot build a composite or a range of elements that travel as text, as ours do.
        """
        types, statement = await super()._introspect_types(typeoids, timeout)
        settings = self._protocol.get_settings()
        for kind in types:
            if kind["kind"] in _ROW_TYPES:
                as_text(settings, kind["oid"], kind["name"], kind["ns"])
        return [kind for kind in types if kind["kind"] not in _ROW_TYPES], statement


def prepare_codecs(conn: Any) -> None:
    """Set the codecs of a new connection."""
    install(conn._protocol.get_settings())
