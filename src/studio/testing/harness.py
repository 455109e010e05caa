"""Open a provider by itself, without a service around it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from studio.contract import Network, Provider, Result
from studio.security.egress import Egress


@asynccontextmanager
async def open_provider(
    cls: type[Provider[Any]],
    config: Mapping[str, Any],
    *,
    network: Network | None = None,
    files_root: Path | None = None,
    organization_id: str | None = "acme",
) -> AsyncIterator[Provider[Any]]:
    """A live provider on a checked network that lets loopback through; closed at the end."""
    gate = network or Egress(private_open=True, files_root=files_root)
    async with AsyncExitStack() as stack:
        provider = cls(cls.Config.parse(config), network=gate, organization_id=organization_id)
        await provider.open(stack)
        yield provider


def says_who_enforces(tested: Mapping[str, Any]) -> None:
    """Hold the answer of a connection test to what `Probe.privileges` promises."""
    found = tested["privileges"]
    assert found["enforced_by"] in {"account", "service"}
    for name in ("excess", "grant"):
        assert isinstance(found[name], list)
        assert all(isinstance(line, str) and line for line in found[name])
    if found["enforced_by"] == "service":
        assert found["grant"], "no least-privilege grant is shown"
        assert found["excess"] or found["detail"], "it says neither what is too much nor that nobody can tell"


async def call(provider: Provider[Any], name: str, /, **arguments: Any) -> Result:
    """Run one operation the way the house does: look up, validate, run."""
    operation = provider.operation(name)
    return await provider.run(operation, operation.parse(arguments))
