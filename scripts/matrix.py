"""Writes docs/providers/matrix.md from the catalogue; `--check` fails where the page is not up to date."""

from __future__ import annotations

import sys
from pathlib import Path

from studio import providers
from studio.models import Effect

PAGE = Path(__file__).parent.parent / "docs" / "providers" / "matrix.md"
HEAD = """# Providers

Generated from the code by `make docs`; do not edit. Effects: operations in *italics* write.

| type | provider | operations | an attachment may override | secrets are sealed to |
| --- | --- | --- | --- | --- |
"""
COMMON = frozenset({"read_only", "timeout_s", "connect_timeout_s", "max_rows", "max_bytes", "pool_size"})


def page() -> str:
    """The page's text."""
    rows = [row(family, kind) for family, kinds in providers.kinds().items() for kind in kinds]
    common = ", ".join(f"`{name}`" for name in sorted(COMMON))
    return HEAD + "\n".join(rows) + f"\n\nEvery provider also lets an attachment narrow {common}.\n"


def row(family: str, kind: str) -> str:
    """One provider's line."""
    if kind not in providers.built():
        return f"| {family} | `{kind}` | not built yet | | |"
    cls = providers.load(kind)
    verbs = [name if op.effect is Effect.READ else f"*{name}*" for name, op in cls.operations.items()]
    override = [f"`{name}`" for name in cls.Config.overridable() if name not in COMMON]
    sealed = [f"`{name}`" for name in cls.Config.destination_fields()]
    return f"| {family} | `{kind}` | {', '.join(verbs)} | {', '.join(override) or '-'} | {', '.join(sealed)} |"


if __name__ == "__main__":
    text = page()
    if "--check" in sys.argv:
        if not PAGE.exists() or PAGE.read_text() != text:
            sys.exit("docs/providers/matrix.md is not up to date: run make docs")
    else:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(text)
