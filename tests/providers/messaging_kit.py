"""What the tests of the messaging providers share."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Any

import pytest

from studio.errors import StudioError

PAGES = Path(__file__).parents[2] / "docs" / "providers"


async def code_of(work: Awaitable[Any]) -> tuple[str, str]:
    """Code and message of the error that it must raise."""
    with pytest.raises(StudioError) as caught:
        await work
    return caught.value.code, caught.value.message


async def pinged(provider: Any) -> None:
    """Ping, with errors of ours."""
    try:
        await provider.ping()
    except Exception as exc:
        raise provider.error(exc) from exc


def run_page(kind: str, folder: Path, env: Mapping[str, str]) -> str:
    """Run the example of a provider's page as it stands; what it prints. Warnings are errors."""
    [example] = re.findall(r"```python\n(.*?)```", (PAGES / f"{kind}.md").read_text(), re.S)
    full = {"PATH": os.environ["PATH"], "STUDIO_DATA_DIR": str(folder / "studio"), **env}
    done = subprocess.run([sys.executable, "-W", "error", "-c", example], capture_output=True, text=True, env=full)
    assert not done.stderr, done.stderr
    return done.stdout
