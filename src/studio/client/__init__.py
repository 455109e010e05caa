"""A server's `ConnectorService` in another process: `RemoteService(url, key)`."""

from studio.client.service import RemoteService

__all__ = ["RemoteService"]
