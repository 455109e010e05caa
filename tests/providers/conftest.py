"""Fixtures of upstream servers: one import a kind; each starts on first use and ends with the run."""
