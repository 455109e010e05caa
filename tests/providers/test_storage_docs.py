"""The examples of the storage providers' pages run as they stand, but for where the server is."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests import poison
from tests.upstreams.azurite import Azurite
from tests.upstreams.gcs import Gcs
from tests.upstreams.minio import Minio
from tests.upstreams.seaweedfs import Seaweedfs

from studio.contract.keys import PLACES
from studio.models import Effect
from studio.providers import load

pytestmark = pytest.mark.server
PAGES = Path(__file__).parents[2] / "docs" / "providers"
PRINTED = [
    "Connection successful",
    "['2026/sales.csv']",
    "[{'city': 'Oslo', 'sold': '3'}, {'city': 'Rome', 'sold': '5'}]",
]


def variables(kind: str, request: pytest.FixtureRequest) -> dict[str, str]:
    config: dict[str, Any]
    if kind == "s3":
        s3: Seaweedfs = request.getfixturevalue("seaweedfs")
        config = s3.config()
    elif kind == "minio":
        minio: Minio = request.getfixturevalue("minio")
        config = minio.config()
    elif kind == "gcs":
        gcs: Gcs = request.getfixturevalue("gcs")
        config = gcs.config()
    else:
        azurite: Azurite = request.getfixturevalue("azurite")
        config = azurite.config()
    prefix = kind.partition("_")[0].upper()
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in config.items()}
    return {f"{prefix}_{name.upper()}": text for name, text in texts.items()}


@pytest.mark.parametrize("kind", ["s3", "minio", "gcs", "azure_blob"])
def test_the_example_runs_and_prints_what_it_should(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```$", (PAGES / f"{kind}.md").read_text(), re.M | re.S)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example], env=poison.program(tmp_path, **variables(kind, request)),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines() == PRINTED
    assert done.stderr == ""


@pytest.mark.parametrize("kind", ["s3", "minio", "gcs", "azure_blob"])
def test_the_page_names_every_field_and_operation(kind: str) -> None:
    page, shared = (PAGES / f"{kind}.md").read_text(), (PAGES / "s3.md").read_text()
    cls = load(kind)
    common = {"read_only", "timeout_s", "connect_timeout_s", "max_rows", "max_bytes", "pool_size"}
    for name in set(cls.Config.model_fields) - common:
        assert f"`{name}`" in page, name
    for name in cls.Config.destination_fields():
        assert f"`{name}` **D**" in page, name
    for name, operation in cls.operations.items():
        effect = operation.effect.value if isinstance(operation.effect, Effect) else "read, or write for `PUT`"
        assert f"| `{name}` | {effect} |" in shared, name
    assert set(PLACES) == set(cls.operations)
