"""Documents: what is taken, what is refused, and how long that takes. Needs no server."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from studio.errors import InvalidRequest
from studio.providers.graphql.config import GraphqlConfig, kind_of
from studio.providers.graphql.document import MAX_ALIASES, MAX_DEPTH, MAX_FIELDS, MAX_TOKENS, judge
from studio.providers.graphql.provider import Graphql
from studio.testing.harness import call, open_provider


def nested(levels: int) -> str:
    return "{ a " * levels + "}" * levels


def chain(links: int, width: int) -> str:
    """Fragments of which each uses the next several times: few tokens, a great many fields."""
    parts = [f"fragment f{n} on T {{ " + f"...f{n + 1} " * width + "}" for n in range(links)]
    return "{ ...f0 } " + " ".join(parts) + f" fragment f{links} on T {{ a }}"


ACCEPTED = {
    "the short form": "{ a }",
    "as deep as may be": nested(MAX_DEPTH),
    "as many aliases as may be": "{ " + " ".join(f"x{n}: a" for n in range(MAX_ALIASES)) + " }",
    "as many fields as may be": "{ " + "a " * MAX_FIELDS + "}",
    "fragments in fragments": "{ ...A } fragment A on T { ...B } fragment B on T { a { ... on U { b } ... @skip(if: true) { c } } }",
    "a fragment used twice": "{ x { ...A } y { ...A } } fragment A on T { a }",
    "directives and defaults": "query Q($a: [Int!]! = [1, 2] @x) @y(z: {a: $a}) { a @include(if: true) }",
    "schema lists of an ordinary API": "{ types { fields { fields { interfaces { fields { a } } } } } }",
    "some introspection": "{ __schema { types { name fields { name args { name } } } } }",
    "the type's name": "{ __typename }",
}
REFUSED = {
    "nothing": ("", "not GraphQL"),
    "no document": ("SELECT 1", "not GraphQL"),
    "a batch": ('[{"query": "{ a }"}]', "not GraphQL"),
    "an open brace": ("{ a", "line 1"),
    "a subscription": ("subscription { a }", "subscription"),
    "a schema": ("type Query { a: Int }", "definitions of a schema"),
    "a schema beside a query": ("{ a } extend type Query { b: Int }", "definitions of a schema"),
    "fragments only": ("fragment F on T { a }", "exactly one operation"),
    "two operations": ("query A { a } query B { b }", "A, B"),
    "two without names": ("{ a } { b }", "exactly one operation"),
    "too deep": (nested(MAX_DEPTH + 1), "levels"),
    "too deep through a fragment": (
        "{ a { a { a { a { a { a { ...F } } } } } } } fragment F on T " + nested(MAX_DEPTH - 5), "levels",
    ),
    "too deep through inline fragments and fields": ("{ a { ... on T " * 13 + "{ a }" + "} }" * 13, "levels"),
    "too many aliases": ("{ " + " ".join(f"x{n}: a" for n in range(MAX_ALIASES + 1)) + " }", "aliases"),
    "too many aliases through fragments": (
        "{ a { ...F } b { ...F } c { ...F } d { ...F } } fragment F on T { " + " ".join(f"x{n}: a" for n in range(8)) + "}",
        "aliases",
    ),
    "too many fields": ("{ " + "a " * (MAX_FIELDS + 1) + "}", "fields"),
    "an explosion of fragments": (chain(60, 10), "fields"),
    "a fragment of itself": ("{ ...F } fragment F on T { a ...F }", "back to itself"),
    "a circle of fragments": ("{ ...A } fragment A on T { b { ...B } } fragment B on T { ...A }", "back to itself"),
    "an unknown fragment": ("{ ...Nope }", "Nope"),
    "an introspection bomb": ("{ __schema { types { fields { type { fields { type { fields { name } } } } } } } }", "schema"),
    "one through fragments": (
        '{ __type(name: "A") { ...F } } fragment F on __Type { fields { type { ...G } } } '
        "fragment G on __Type { fields { type { fields { type { possibleTypes { name } } } } } }",
        "schema",
    ),
    "too long": ("{ a }" + " " * 100_000, "longer than 100,000 characters"),
    "half of a pair": ('{ a(x: "\ud800") }', "surrogate"),
}  # fmt: skip


@pytest.mark.parametrize("text", ACCEPTED.values(), ids=ACCEPTED)
def test_a_modest_document_is_taken(text: str) -> None:
    assert judge(text).kind == "query"


@pytest.mark.parametrize(("text", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_judged_or_asks_for_too_much_is_refused(text: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        judge(text)


def test_one_operation_of_several_is_chosen_by_its_name() -> None:
    text = "query A { a } mutation B { b } query A2 { c }"
    assert (judge(text, "B").kind, judge(text, "A2").name) == ("mutation", "A2")
    for name in ("C", "", "a"):
        with pytest.raises(InvalidRequest, match="operation_name"):
            judge(text, name)
    with pytest.raises(InvalidRequest, match="subscription"):
        judge("query A { a } subscription S { b }", "S")


def test_comments_and_what_is_not_used_are_not_sent() -> None:
    text = '# mutation { x }\u2028 mutation { y }\nquery A { a(x: "# no comment") } # } mutation { z }'
    assert judge(text).text == 'query A {\n  a(x: "# no comment")\n}'


def test_a_document_printed_anew_means_the_same() -> None:
    text = 'query($a:[Int!]=[1]){x:a(s:"é\\n\\"\\u2028",b:"""\n  block "quoted"\n    in\n""",n:-1.5e3,o:{k:[ENUM,null,true,$a]})@d{b}}'
    once = judge(text)
    assert judge(once.text).text == once.text
    for part in ("é", "\\n", '\\"', "1.5e3", "ENUM", "@d", "x: a"):
        assert part in once.text
    assert 'block "quoted"\n' in once.text


BOMBS = {
    "braces": "{a" * 50_000,
    "brackets": "{ a(x: " + "[" * 90_000,
    "fields": "{ " + "a " * 49_000 + "}",
    "comments": "#\n" * 49_000 + "{ a }",
    "one comment": "#" * 99_000 + "\n{ a }",
    "commas": "," * 99_000 + "{ a }",
    "one string": '{ a(x: "' + "a" * 90_000 + '") }',
    "escapes": '{ a(x: "' + "\\u0041" * 16_000 + '") }',
    "a block string": '{ a(x: """' + "\n" * 90_000 + '""") }',
    "quotes": '"' * 99_999,
    "backslashes": '"' + "\\" * 99_998,
    "block quotes": '"""' + '\\"""' * 24_000,
    "fragments": chain(100, 10),
    "spreads": "{ ...F " * 600 + "}" * 600 + " fragment F on T { a }",
    "variables": "query (" + " ".join(f"$v{n}: Int" for n in range(400)) + ") { a }",
    "empty braces": "a" + "{}" * 49_999,
    "too long": "{ a }" + " " * 100_001,
}


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS)
async def test_a_bomb_neither_takes_long_nor_holds_the_loop_up(text: str) -> None:
    gaps = [0.0]

    async def beat() -> None:
        while True:
            start = time.perf_counter()
            await asyncio.sleep(0.002)
            gaps.append(time.perf_counter() - start)

    config = {"endpoint": "http://127.0.0.1:9/", "introspect": False}
    async with open_provider(Graphql, config) as provider:
        assert isinstance(provider, Graphql)
        heart = asyncio.create_task(beat())
        await asyncio.sleep(0.01)
        start = time.process_time()
        with contextlib.suppress(InvalidRequest):
            await provider._judged(text, None)
        spent = time.process_time() - start
        await asyncio.sleep(0.01)
        heart.cancel()
    # Generous, for a machine that is shared: without the bounds it is seconds.
    assert spent < 0.5
    assert max(gaps) < 0.25


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS)
def test_choosing_the_verb_takes_little_time_whatever_the_text(text: str) -> None:
    start = time.process_time()
    kind_of(text)
    assert time.process_time() - start < 0.1


def test_more_tokens_than_the_bound_are_not_read() -> None:
    with pytest.raises(InvalidRequest, match=f"{MAX_TOKENS} tokens"):
        judge("query (" + " ".join(f"$v{n}: Int" for n in range(MAX_TOKENS)) + ") { a }")


PIECES = [*"{}()[]$:!.#\n\\ a,=|@&1", '"', "{ a }", "query ", "mutation ", "fragment ", "on ", "...", "F ", "$a: Int"]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=25).map("".join))
def test_no_text_makes_anything_but_a_document_or_an_error_of_ours(text: str) -> None:
    try:
        judged = judge(text)
    except InvalidRequest:
        return
    assert judged.kind in {"query", "mutation"}
    assert judge(judged.text).text == judged.text
    if judged.kind == "mutation":
        assert kind_of(text) == "mutation"


@pytest.mark.parametrize(
    "config",
    [
        {"endpoint": "ftp://x/"}, {"endpoint": "http://u:p@x/"}, {"endpoint": "http://x/?a=b"}, {"endpoint": "http://x/#a"},
        {"endpoint": "http://0x7f000001/"}, {"endpoint": "http://x/../y"}, {}, {"endpoint": "http://x/", "path": "/y"},
    ],
)  # fmt: skip
def test_a_config_that_is_no_endpoint_is_refused(config: dict[str, Any]) -> None:
    from studio.errors import InvalidConfig

    with pytest.raises(InvalidConfig):
        GraphqlConfig.parse(config)


async def test_a_long_document_is_judged_in_a_thread_and_kept() -> None:
    text = "{ " + "a " * 900 + "}"
    async with open_provider(Graphql, {"endpoint": "http://127.0.0.1:9/", "introspect": False}) as provider:
        assert isinstance(provider, Graphql)
        threads: list[str] = []
        judge_it = provider._judge
        provider._judge = lambda *args: (threads.append(threading.current_thread().name), judge_it(*args))[1]  # type: ignore[assignment,func-returns-value]
        first = await provider._judged(text, None)
        assert await provider._judged(text, None) is first
        assert threading.main_thread().name not in threads
        with pytest.raises(InvalidRequest):
            await call(provider, "query", query="")
