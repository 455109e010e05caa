"""A process that opens one connector of each kind; `test_ambient` starts it in a poisoned environment.

python -m tests.attack.probe MODE PORTS        MODE: library, program, driver or clean-driver
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from tests.attack import corpus

opened: list[str] = []
dialled: list[Any] = []
POISON = os.environ["HOME"]


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and isinstance(arguments[0], str) and arguments[0].startswith(POISON):
        opened.append(arguments[0])
    elif event == "socket.connect":
        dialled.append(arguments[1])


async def every_kind(ports: dict[str, int]) -> dict[str, str]:
    """Open, test and query one connector of each kind, with every credential left blank."""
    from tests.attack.conftest import Target

    from studio.errors import StudioError
    from studio.services.connector_service import ConnectorService

    codes = {}
    async with ConnectorService() as service:
        target = Target(service)
        for kind, port in ports.items():
            config = {**corpus.config(kind, "127.0.0.1", port), "connect_timeout_s": 1.0, "timeout_s": 3.0}
            for name in ("access_key_id", "access_key"):
                config.pop(name, None)
            if kind in {"redis", "redis_pubsub", "mongodb"}:
                config.pop("username")
            if kind == "kafka":
                config = {key: config[key] for key in ("bootstrap_servers", "connect_timeout_s", "timeout_s")}
            if kind == "rabbitmq":
                config["password"] = ""
            made = await target.create(kind, config)
            codes[kind] = (await service.test_connection(made)).get("code", "ok")
            with contextlib.suppress(StudioError):
                await target.query(kind, made)
    return codes


async def bare_drivers(ports: dict[str, int]) -> dict[str, str]:
    """What drivers do by themselves: the control."""
    import asyncpg
    import botocore.session

    with contextlib.suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        await asyncpg.connect(host="127.0.0.1", port=ports["postgresql"], ssl=False, timeout=1)
    found = botocore.session.get_session().get_credentials()
    return {"aws": found.access_key if found else ""}


def main() -> None:
    """Run one mode and print what happened."""
    mode, ports = sys.argv[1], json.loads(sys.argv[2])
    if mode in {"program", "clean-driver"}:
        from studio.services.start import start_clean
        from studio.settings import Settings

        os.environ["STUDIO_DATA_DIR"] = str(Path(os.environ["STUDIO_DATA_DIR"]).resolve())
        start_clean(Settings())
    sys.addaudithook(_note)
    codes = asyncio.run((bare_drivers if "driver" in mode else every_kind)(ports))
    environ = Path("/proc/self/environ").read_bytes().decode("utf-8", "replace")
    print(
        json.dumps({"codes": codes, "opened": opened, "dialled": dialled, "environ": environ, "now": dict(os.environ)})
    )


if __name__ == "__main__":
    main()
