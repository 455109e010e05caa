"""The catalogue: this folder, plus the entry points `studio.providers` of other packages.

What is named after a kind holds one `Provider` subclass of that kind: a module, or a package whose
`provider.py` does. Names that begin with an underscore are shared code. Nothing here imports a driver.
"""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

from studio.contract.provider import Provider
from studio.errors import FieldError, InvalidRequest, OperationNotSupported
from studio.models import FAMILIES


def _inside() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def _outside() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group="studio.providers")}


@cache
def built() -> tuple[str, ...]:
    """Kinds that can be used: modules of this folder, then outside providers, each by name."""
    return (*_inside(), *sorted(set(_outside()) - set(_inside())))


@cache
def load(kind: str) -> type[Provider[Any]]:
    """The provider class of a kind.

    Raises:
        InvalidRequest: no such kind.
        OperationNotSupported: one of the sixteen that is not built yet.
    """
    if kind in built():
        if kind in _inside():
            return _class_in(_module(kind), kind)
        return _outside()[kind].load()  # type: ignore[no-any-return]
    if any(kind in kinds for kinds in FAMILIES.values()):
        raise OperationNotSupported(f"provider {kind} is not built yet in this version; built: {', '.join(built())}")
    raise InvalidRequest("provider: no such provider", fields=[FieldError("provider", "no such provider")])


def _module(kind: str) -> ModuleType:
    module = import_module(f"{__name__}.{kind}")
    return import_module(f"{module.__name__}.provider") if hasattr(module, "__path__") else module


def _class_in(module: ModuleType, kind: str) -> type[Provider[Any]]:
    for member in vars(module).values():
        if isinstance(member, type) and issubclass(member, Provider) and vars(member).get("kind") == kind:
            return member
    raise ImportError(f"{module.__name__} holds no Provider with kind = {kind!r}")


@cache
def kinds() -> dict[str, tuple[str, ...]]:
    """`connector_type` to kinds: the documents' sixteen in their order, then outside ones."""
    types = {family: list(names) for family, names in FAMILIES.items()}
    for kind in built():
        family = next((name for name, names in FAMILIES.items() if kind in names), None)
        if family is None:
            types.setdefault(load(kind).family, []).append(kind)
    return {family: tuple(names) for family, names in types.items()}
