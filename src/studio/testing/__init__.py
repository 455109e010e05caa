"""Conformance suites and helpers that an outside provider can inherit."""
