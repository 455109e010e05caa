"""An object on its way to becoming rows."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from studio.contract import ProviderConfig
from studio.providers._objects.parts import Content


@dataclass(frozen=True)
class Source:
    """An object to read. `open(offset, length, etag)` opens a range of it."""

    key: str
    open: Callable[..., AbstractAsyncContextManager[Content]]
    config: ProviderConfig
