"""The service: one method for each use case, the same for Python, HTTP, the command line and MCP.

    service = ConnectorService()
    connector = await service.create({...})
    result = await service.execute_query(connector_id=connector["id"], query="SELECT 1")

A service made this way is the trusted in-process caller. Every remote surface holds
`await service.authenticate(bearer)` instead: the same methods, in one organization, under its role.
"""

from __future__ import annotations

from studio.services.alerts import Alerts
from studio.services.attachments import Attachments
from studio.services.audit import Audit
from studio.services.connectors import Connectors
from studio.services.health import HealthOf
from studio.services.impact import Impact
from studio.services.keys import ApiKeys
from studio.services.operations import Operations
from studio.services.rotating import Rotating
from studio.services.saved_operations import SavedOperations
from studio.services.watch import Watching


class ConnectorService(
    Connectors, Attachments, Operations, SavedOperations, Rotating, Impact, HealthOf, Alerts, Watching, ApiKeys, Audit
):
    """Register, test, attach and run. Dicts in, dicts out, in the documents' fields.

    Made without arguments it reads `STUDIO_*`; store, schema and key come into being on first use.
    `async with` closes it; without that, the end of `asyncio.run()` does.
    """
