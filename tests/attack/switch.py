"""Switches each guard off, one at a time, and holds that its attack then gets through.

A guard of `corpus/guards.yaml` names what to `replace` and a test that must turn red for it (`test`). That test
runs twice: as it is, green, and once more with the guard replaced, where it must fail on an assertion of its own.
A broken replacement raises something else, and is no proof. The second run is an item of its own, so that it can be
chosen like any test. Where a guard is a driver's way that was never built (a client that follows nobody), there is
nothing to replace: `bare` names the test that sees the attack work with the driver left to itself.

    pytest "tests/security/test_egress.py" -k without
"""

from __future__ import annotations

import gc
import inspect
import sys
import traceback
import warnings
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from tests.attack import corpus
from tests.attack.report import report

ROOT = Path(__file__).parents[2]
OFF = pytest.StashKey[str]()
RED = (AssertionError, pytest.fail.Exception)
"""What a test raises that saw an attack get through."""


def guards() -> dict[str, dict[str, Any]]:
    """Every guard, by its name: `rule`, `replace` and `test` or `bare`; `forget`, caches to empty; `red`, one more exception of a red test."""
    return {
        name: {"rule": rule, **guard} for rule, found in corpus.read("guards").items() for name, guard in found.items()
    }


def nodes() -> list[str]:
    """The tests that guards name, for a run of the attacks alone."""
    return list(dict.fromkeys(guard.get("test") or guard["bare"] for guard in guards().values()))


def _owner(path: str) -> tuple[Any, str]:
    """What holds an attribute: a module, or a class in one."""
    parts = path.split(".")
    for length in range(len(parts) - 1, 0, -1):
        try:
            owner: Any = import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for name in parts[length:-1]:
            owner = getattr(owner, name)
        return owner, parts[-1]
    raise ModuleNotFoundError(path)


@contextmanager
def switched_off(guard: dict[str, Any]) -> Iterator[None]:
    """The guard replaced, everywhere that its entry says."""
    from tests.attack import stand_ins  # imports drivers

    with ExitStack() as stack:
        for path in guard.get("forget", ()):
            owner, name = _owner(path)
            getattr(owner, name).cache_clear()
            stack.callback(getattr(owner, name).cache_clear)
        for path, by in guard["replace"].items():
            owner, name = _owner(path)
            new = getattr(stand_ins, by, by) if isinstance(by, str) else by
            kind = type(inspect.getattr_static(owner, name))
            if kind in {staticmethod, classmethod, property}:
                new = kind(new)
            stack.enter_context(patch.object(owner, name, new))
        yield


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--guards", action="store_true", help="run the tests that the attack corpus names for its guards, too"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("guards"):
        config.args += nodes()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Add the second runs, each behind its first; before anybody marks or chooses among them."""
    wanted: dict[str, list[str]] = {}
    gc.freeze()  # so that looking for what a failed test left open costs little
    for name, guard in guards().items():
        wanted.setdefault(guard.get("test", ""), []).append(name)
    families = {item.nodeid.partition("[")[0] for item in items} - {item.nodeid for item in items}
    if vague := sorted(families & set(wanted)):
        raise pytest.UsageError(f"guards.yaml must name one case of a test that has many: {', '.join(vague)}")
    items[:] = [one for item in items for one in (item, *(_again(item, name) for name in wanted.get(item.nodeid, ())))]


def _again(item: pytest.Item, guard: str) -> pytest.Item:
    assert isinstance(item, pytest.Function)
    made = type(item).from_parent(
        item.parent, name=f"{item.name} without {guard}", originalname=item.originalname,
        callspec=getattr(item, "callspec", None), callobj=item.obj, fixtureinfo=item._fixtureinfo,
    )  # fmt: skip
    made.own_markers = list(item.own_markers)  # asyncio's was added after the item was made
    made.add_marker(pytest.mark.filterwarnings("ignore"))  # a test that fails half-way leaves things open
    made.stash[OFF] = guard
    return made


def pytest_collection_finish(session: pytest.Session) -> None:
    """A guard whose test's file is run, and whose test is not in it, was left on: its entry names no test."""
    option = session.config.option
    if option.keyword or option.markexpr or option.deselect or any("::" in given for given in session.config.args):
        return
    here = {item.nodeid for item in session.items}
    files = {node.partition("::")[0] for node in here}
    for name, guard in guards().items():
        node = guard.get("test") or guard["bare"]
        if node.partition("::")[0] in files and node not in here:
            report.count("guards", name, silent=1)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """What a test that failed half-way left open goes with it: its warnings are its own, and not the next test's."""
    yield
    if OFF in item.stash:
        with warnings.catch_warnings(action="ignore"):
            gc.collect()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Run a second run with its guard off, and turn its failure around."""
    name = item.stash.get(OFF, None)
    if name is None:
        yield
        for shown in (name for name, guard in guards().items() if guard.get("bare") == item.nodeid):
            report.count("guards", shown, bare=1)
        return
    guard = guards()[name]
    try:
        with report.paused(), switched_off(guard):
            yield
    except BaseException as exc:
        if not isinstance(exc, RED) and type(exc).__name__ != guard.get("red"):
            raise
        for kept in ("last_exc", "last_type", "last_value", "last_traceback"):
            sys.__dict__.pop(kept, None)
        traceback.clear_frames(exc.__traceback__)
        report.count("guards", name, off=1, through=1)
        return
    report.count("guards", name, off=1, silent=1)
    pytest.fail(f"{item.nodeid.split(' without ')[0]} stays green without {name}, so nothing is known of the guard")
