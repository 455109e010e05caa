"""What the attack run counted, in the figures that `docs/security.md` promises.

A test counts what it tried through `report.count(line, part, **figures)`; `tests/attack/conftest.py` prints the
whole at the end of a run. A figure that a line names as `never` must be zero, or the run fails, whatever the test
itself asserted.

    report.count("statements", "postgresql", tried=2_000, accepted=800, changed=0)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce


@dataclass(frozen=True)
class Line:
    """One line of the report: a sentence over the sums of its figures. `{parts}` is how many parts counted."""

    says: str
    never: str
    most: frozenset[str] = frozenset()
    """Figures of which the largest is told, not the sum."""

    def figures(self) -> set[str]:
        """The names of the figures that stand in the sentence."""
        return {piece.split("}")[0].split(":")[0] for piece in self.says.split("{")[1:]} - {"parts"}

    def added(self, some: Counter[str], more: Counter[str]) -> Counter[str]:
        """Both together."""
        most = {name: max(some[name], more[name]) for name in self.most}
        return Counter({name: some[name] + more[name] for name in {*some, *more}} | most)


LINES = {
    "cases": Line("{run:,} cases over {parts} providers: {escapes} escapes", never="escapes"),
    "leaks": Line("{bytes:,} bytes scanned for {canaries:,} canaries in {parts} places: {found} found", never="found"),
    "ambient": Line("{planted:,} ambient credentials planted, {parts} providers opened: {seen} seen", never="seen"),
    "session": Line("{planted:,} ambient credentials around every test of this run: {seen} seen", never="seen"),
    "ssrf": Line("{tried:,} destinations and moments tried over {parts} providers: {hits} sink hits", never="hits"),
    "rogues": Line(
        "{played:,} rogue servers of {parts} protocols: {hits} followed, or given anything of ours", never="hits"
    ),
    "statements": Line(
        "{tried:,} statements tried on {parts} engines, {accepted:,} accepted: {changed} state changes", never="changed"
    ),
    "reads": Line(
        "{honest:,} honest reads on {parts} engines: {refused} refused, {above} engines above 1 %", never="above"
    ),
    "controls": Line(
        "{written:,} writes past the product on {parts} engines, {seen:,} seen by the oracle: {blind} engines blind",
        never="blind",
    ),
    "exhaustion": Line(
        "{bombs:,} bombs over {parts} parts, {again} tried again: {broken} bounds broken; at worst {mib} MiB on top "
        "of {left}, {late} ms past the deadline, {held} ms held",
        never="broken",
        most=frozenset({"mib", "left", "late", "held"}),
    ),
    "guards": Line(
        "{listed:,} guards: {off:,} switched off one by one, {through:,} attacks that then got through; "
        "{bare:,} shown with the bare driver: {silent} silent",
        never="silent",
    ),
}


class Report:
    """The sums of a run, a line and a part (a provider, an engine, a place) at a time."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], Counter[str]] = {}
        self._paused = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Count nothing meanwhile: what happens without a guard is no figure of ours."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    def count(self, line: str, part: str, **figures: int) -> None:
        """Add figures to one part of a line. Raises KeyError for a line or a figure that no sentence has."""
        if unknown := set(figures) - LINES[line].figures():
            raise KeyError(f"{line} counts {sorted(LINES[line].figures())}, not {sorted(unknown)}")
        if self._paused:
            return
        self._sums[line, part] = LINES[line].added(self._sums.get((line, part), Counter()), Counter(figures))

    def parts(self, line: str) -> dict[str, Counter[str]]:
        """What each part of a line counted."""
        return {part: sums for (name, part), sums in self._sums.items() if name == line}

    def total(self, line: str) -> Counter[str]:
        """The sums of a line over its parts."""
        return reduce(LINES[line].added, self.parts(line).values(), Counter())

    def lines(self) -> list[str]:
        """The report: a line for each that counted anything."""
        return [
            f"{name:<11}{made.says.format(parts=len(self.parts(name)), **_filled(made, self.total(name)))}"
            for name, made in LINES.items()
            if self.parts(name)
        ]

    def broken(self) -> list[str]:
        """The promises that did not hold: lines whose `never` figure is not zero, with the parts that it came from."""
        return [
            f"{name}: {part} has {sums[made.never]} {made.never}"
            for name, made in LINES.items()
            for part, sums in self.parts(name).items()
            if sums[made.never]
        ]


def _filled(line: Line, sums: Counter[str]) -> dict[str, int]:
    return {name: sums[name] for name in line.figures()}


report = Report()
"""The one of this run."""
