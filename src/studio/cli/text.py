"""Values as text: tables, JSON and CSV, none of which can steer the reader's terminal."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click

# C0 and C1 controls, line separators, bidirectional overrides, lone surrogates: what a terminal or a
# reader's eye would obey. JSON escapes the first group itself.
_STEERING = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_IN_JSON = re.compile(r"[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(text: str) -> str:
    """One line that is safe to print."""
    return _STEERING.sub(lambda found: ascii(found[0])[1:-1], text)


def cell(value: Any) -> str:
    """A value as a table shows it."""
    if value is None:
        return ""
    return plain(value if isinstance(value, str) else compact(value))


def compact(value: Any) -> str:
    """JSON on one line."""
    return _safe(json.dumps(value, ensure_ascii=False))


def print_json(value: Any) -> None:
    """JSON for machines and for people, on stdout."""
    click.echo(_safe(json.dumps(value, ensure_ascii=False, indent=2)))


def print_table(records: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """A table on stdout: as wide as the terminal, or as its content where nobody looks."""
    print_part(records, columns, None)


def print_part(
    records: Sequence[Mapping[str, Any]], columns: Sequence[str], widths: Sequence[int] | None
) -> list[int] | None:
    """A table, or the next part of one that is as wide as its first part was; its widths, where nobody looks."""
    rows = [[cell(record.get(name)) for name in columns] for record in records]
    names = [plain(name) for name in columns]
    if sys.stdout.isatty():
        click.echo("\n".join(_fitted(rows, names)))
        return None
    chosen = list(widths) if widths else _widths(rows, names)
    click.echo("\n".join(_lines(rows, chosen) if widths else _laid_out(rows, names, chosen)))
    return chosen


def _fitted(rows: Sequence[Sequence[str]], names: Sequence[str]) -> list[str]:
    """Lines that fit the terminal: what is too wide is folded."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in names:
        table.add_column(Text(name), overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # `Text`, because a plain string would be read as markup
    console = Console(highlight=False)
    with console.capture() as drawn:
        console.print(table)
    return [line.rstrip() for line in drawn.get().splitlines()]


def _widths(rows: Sequence[Sequence[str]], names: Sequence[str]) -> list[int]:
    return [max(map(_width, (name, *(row[at] for row in rows)))) for at, name in enumerate(names)]


def _laid_out(rows: Sequence[Sequence[str]], names: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    """The same lines without folding. Rich takes minutes and gigabytes for a million of them."""
    if not widths:
        return
    yield _line(names, widths)
    yield "─" * (sum(widths) + 3 * (len(widths) - 1))
    yield from _lines(rows, widths)


def _lines(rows: Sequence[Sequence[str]], widths: Sequence[int]) -> Iterator[str]:
    for row in rows:
        yield _line(row, widths)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    return "   ".join(value + " " * (width - _width(value)) for value, width in zip(row, widths, strict=True)).rstrip()


def _width(value: str) -> int:
    """Columns of a terminal that a text takes: none, one or two a character."""
    if value.isascii():
        return len(value)
    from rich.cells import cell_len

    return cell_len(value)


def print_record(record: Mapping[str, Any]) -> None:
    """One record, a field a line; what is nested is one more level of names."""
    lines = _flat(record)
    width = max((len(name) for name, _ in lines), default=0)
    for name, value in lines:
        click.echo(f"{plain(name):<{width}}  {cell(value)}".rstrip())


def print_csv(records: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """RFC 4180 but for the line ends, which are the shell's. Null is empty, what is nested is JSON.

    A program gets the very values; a terminal gets them without what would steer it.
    """
    import csv
    import io

    shown = plain if sys.stdout.isatty() else str
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(map(shown, columns))
    for record in records:
        values = (record.get(name) for name in columns)
        writer.writerow(
            "" if value is None else shown(value if isinstance(value, str) else compact(value)) for value in values
        )
    # `color`, or else click would take escape sequences out of the values.
    click.echo(buffer.getvalue(), nl=False, color=True)


def columns_of(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every field name that occurs, in the order of its first occurrence."""
    return list(dict.fromkeys(name for record in records for name in record))


def note(message: str) -> None:
    """A remark for people, on stderr, so that stdout stays data."""
    click.echo(message, err=True)


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on a terminal's stderr; nothing where nobody looks. Call it with (done, total)."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task(plain(what), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _safe(text: str) -> str:
    return _IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _flat(record: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    lines: list[tuple[str, Any]] = []
    for name, value in record.items():
        if isinstance(value, Mapping) and value:
            lines += _flat(value, f"{prefix}{name}.")
        else:
            plainly = isinstance(value, list) and all(isinstance(item, str) for item in value)
            lines.append((prefix + name, ", ".join(value) if plainly else value))
    return lines
