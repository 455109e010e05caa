"""Configuration of the `graphql` provider, and what its query language means. Needs no driver."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field

from studio.contract import Destination
from studio.contract.web import HttpUrl, WebConfig

MAX_LENGTH = 100_000
"""Characters of a document."""
_TOKEN = re.compile(
    r'"""(?:\\"""|(?!""")[\s\S])*+(?:""")?|"(?:\\.|[^"\\\n\r])*+"?|\#[^\n\r]*+|[{}]|[_A-Za-z][_0-9A-Za-z]*+'
)
_OPERATIONS = frozenset({"query", "mutation", "subscription"})


class GraphqlConfig(WebConfig):
    """One GraphQL endpoint."""

    endpoint: Annotated[HttpUrl, Destination()] = Field(description="http(s)://host[:port]/path of the API.")
    introspect: bool = Field(
        True,
        description="Read the API's schema once in a while: for the operation `schema`, and to check queries "
        "before they are sent. If false, callers may not introspect either.",
    )


def kind_of(document: str) -> str:
    """`query`, `mutation` or `subscription`: that of the first operation in the document.

    A guess that costs next to nothing, to choose the verb; whether it is right is judged by the parser.
    """
    depth, naming, begun = 0, False, False
    for found in _TOKEN.finditer(document[:MAX_LENGTH]):
        word = found[0]
        if word == "{":
            if not begun:
                return "query"  # the short form, without a keyword
            depth, naming = depth + 1, False
        elif word == "}":
            depth -= 1
        elif depth == 0 and word == "fragment":
            naming = True  # what follows up to the brace may be any word
        elif depth == 0 and not naming and word in _OPERATIONS:
            return word
        begun = begun or not word.startswith("#")
    return "query"
