"""What the program does to its own process before it works; a library in somebody's process leaves that alone."""

from __future__ import annotations

from studio.security import belt, hygiene
from studio.services import tracing
from studio.services.core import database_url, gate_of
from studio.settings import Settings
from studio.store.engine import endpoint_of


def start_clean(settings: Settings) -> dict[str, str]:
    """Drop ambient credentials, empty `HOME`, refuse core dumps, fasten the second belt. See `docs/security.md`.

    Returns:
        The ambient variables that were dropped.

    Raises:
        OSError: the data folder cannot be used.
    """
    secrets = {*settings.secret_variables(), "STUDIO_API_KEY", *settings.reference_env}
    dropped = hygiene.clean(settings.data_dir / "empty", secrets)
    url = database_url(settings)
    store = endpoint_of(url)
    own = [*([store] if store else []), *tracing.exports_to()]
    belt.fasten(gate_of(settings), own, own_sockets=url is not None and store is None)
    return dropped
