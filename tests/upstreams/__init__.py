"""Servers beside PostgreSQL: one module a kind, each a small subclass of `tests.servers.Server`."""
