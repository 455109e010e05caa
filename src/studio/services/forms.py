"""What every form of a stream of rows has; `streams.py` has the forms of text, `arrow.py` the binary one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from studio.models import Column

Rows = Sequence[Any]
End = Mapping[str, Any]


class Form(ABC):
    """One way to write rows. An object of it writes one stream."""

    name: ClassVar[str]
    media_type: ClassVar[str]
    cut_on_failure: ClassVar[bool] = False
    """Whether readers of this form may overlook its last words, so that a failure must cut the connection."""
    columnar: ClassVar[bool] = False
    """Whether it needs columns, which documents have none of."""
    micros: ClassVar[bool] = False
    """Whether it takes points in time as microseconds too; see `studio.contract.caps.Moments`."""

    def head(self, columns: list[Column]) -> bytes:
        """What stands before the first row."""
        return b""

    @abstractmethod
    def rows(self, columns: list[Column], rows: Rows) -> bytes:
        """Some rows: tuples in the order of the columns, or documents where there are no columns."""

    @abstractmethod
    def end(self, end: End) -> bytes:
        """The last words: `success`, `row_count`, `truncated`, or the problem document of a failure."""
