"""Metadata, scoped to an organization."""
