"""What MCP costs a model, in tokens of a real tokenizer, and that budgets are never overrun."""

from __future__ import annotations

import base64
import json
import random
import uuid
from typing import Any

import pytest
from tests.mcp.conftest import World
from tests.mcp.npm import compact, tokens

from studio.mcp.budget import Budget
from studio.mcp.budget import tokens as estimated
from studio.mcp.forms import FORMS, cut
from studio.models import Result

pytestmark = pytest.mark.server
MOST = 1500
ENCODINGS = ["o200k_base", "cl100k_base"]


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_an_agent_with_five_connectors_begins_with_at_most_1500_tokens(
    world: World, encoding: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for alias in ("orders_db", "customer_archive", "warehouse"):
        await world.attach("main", alias)
    listed = (await world.modern("tools/list")).result
    shown = await world.call("list_connectors")
    assert len(shown["structuredContent"]["connectors"]) == 5
    for_model = [{key: tool[key] for key in ("name", "description", "inputSchema")} for tool in listed["tools"]]
    texts = [compact(listed["tools"]), shown["content"][0]["text"], compact(for_model)]
    tools, connectors, given = await tokens(*texts, encoding=encoding)
    with capsys.disabled():
        print(
            f"\n{encoding}: tools/list {tools} (without what only clients read: {given}), list_connectors {connectors}"
        )
    assert tools + connectors <= MOST


def tables() -> dict[str, list[tuple[Any, ...]]]:
    chance = random.Random(7)
    words = [
        "the",
        "quick",
        "brown",
        "fox",
        "jumps",
        "over",
        "a",
        "lazy",
        "dog",
        "while",
        "seven",
        "wizards",
        "quietly",
        "box",
    ]
    return {
        "words": [(n, " ".join(chance.choices(words, k=12))) for n in range(300)],
        "numbers": [tuple(chance.randrange(10**9) for _ in range(6)) for _ in range(300)],
        "small numbers": [tuple(chance.randrange(10) for _ in range(10)) for _ in range(300)],
        "floats": [tuple(round(chance.uniform(-1e3, 1e3), 4) for _ in range(5)) for _ in range(300)],
        "uuids": [(str(uuid.UUID(int=chance.getrandbits(128))), chance.randrange(2) == 1) for _ in range(300)],
        "times": [(n, f"2026-07-{n % 28 + 1:02}T12:{n % 60:02}:00.123456Z", None) for n in range(300)],
        "chinese": [(n, "数据库连接器为智能代理提供受管理的访问权限" * 3) for n in range(300)],
        "code": [(n, f"def f(x):\n    return x['a_b'] + (y or [])  # {n}") for n in range(300)],
        "addresses": [(f"user{n}@example.com", f"https://x.example.com/p/{n}?q={n * 7}") for n in range(300)],
        "digests": [(n, f"{chance.getrandbits(256):064x}") for n in range(300)],
        "empty": [(None, True, False, None, "") for _ in range(900)],
        "emoji": [(n, "😀🎉🚀 great!") for n in range(400)],
        "russian": [(n, "Быстрая коричневая лиса перепрыгивает ленивую собаку") for n in range(300)],
    }


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("budget", [500, 3000])
async def test_an_answer_keeps_its_token_budget_whatever_it_holds(budget: int, encoding: str) -> None:
    names, texts = [], []
    for name, rows in tables().items():
        columns: Any = [{"name": f"column_{n}", "type": "x"} for n in range(len(rows[0]))]
        for form in FORMS:
            found = cut(Result(columns=columns, rows=rows), form, 0, None, Budget(budget))
            assert found.more, name
            names.append(f"{name} as {form}")
            texts.append(found.text)
    used = dict(zip(names, await tokens(*texts, encoding=encoding), strict=True))
    assert not {name: count for name, count in used.items() if count > budget}
    assert not {name: count for name, count in used.items() if count < budget * 0.25}, "a budget is there to be used"


async def test_columns_cost_fewer_tokens_than_objects() -> None:
    rows = tables()["words"]
    columns: Any = [{"name": "user_identifier", "type": "int"}, {"name": "description", "type": "text"}]
    result = Result(columns=columns, rows=rows)
    by_columns, by_objects = await tokens(
        *(cut(result, form, 0, None, Budget(1 << 20)).text for form in ("columns", "objects"))
    )
    assert by_columns < 0.85 * by_objects
    assert json.loads(cut(result, "columns", 0, None, Budget(1 << 20)).text)["rows"][1][0] == 1


async def test_noise_is_the_estimates_known_limit() -> None:
    """Base64 and random letters have more tokens than any text; a budget in bytes holds for them as well."""
    noise = base64.b64encode(random.Random(1).randbytes(30_000)).decode()
    (true,) = await tokens(noise)
    assert 0.6 < estimated(noise.encode()) / true < 1
    found = cut(Result(data=noise), "columns", 0, None, Budget(10**6, 1000))
    assert len(found.text) <= 1000
