"""The command line `studio`: each command parses, calls one service method, and prints.

It works on the embedded store in this process, or on a server with `--url`: `where.connect` gives
the service of either. Nothing heavy is imported before a command runs.
"""

from studio.cli.program import main, run

__all__ = ["main", "run"]
