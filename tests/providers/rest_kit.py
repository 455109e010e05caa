"""What the tests of the rest provider share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from studio.models import ResultDict
from studio.providers.rest.provider import Rest
from studio.testing.harness import open_provider


class Api:
    """A live provider and the ways to call it."""

    def __init__(self, provider: Rest) -> None:
        self.provider = provider

    async def ask(self, query: str, /, **params: Any) -> ResultDict:
        """Run a query in the provider's language."""
        name, arguments = Rest.native(query, params)
        operation = Rest.operation(name)
        return (await self.provider.run(operation, operation.parse(arguments))).to_dict()

    async def run(self, name: str, /, **arguments: Any) -> ResultDict:
        """Run an operation that the config adds."""
        public = self.provider.config.split()[0]
        operation = Rest.operation(name, Rest.operations_for(public))
        return (await self.provider.run(operation, operation.parse(arguments))).to_dict()


@asynccontextmanager
async def api(url: str, **config: Any) -> AsyncIterator[Api]:
    """A provider for the API at `url`; it may write."""
    async with open_provider(Rest, {"base_url": url, "read_only": False, **config}) as provider:
        assert isinstance(provider, Rest)
        yield Api(provider)
