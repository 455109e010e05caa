"""The example of docs/providers/rest.md runs as it stands, but for the host."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from tests.upstreams.httpbin import Httpbin

PAGE = Path(__file__).resolve().parents[2] / "docs" / "providers" / "rest.md"


def test_the_example_works(
    httpbin: Httpbin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STUDIO_DATA_DIR", str(tmp_path))
    found = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found
    exec(compile(found[1].replace("https://api.example.com", httpbin.url), str(PAGE), "exec"), {"asyncio": asyncio})
    assert capsys.readouterr().out.splitlines() == [
        "Connection successful ['resolve', 'connect', 'auth', 'sample']",
        "GET {'expand': 'lines'} Bearer [secret]",
    ]
