"""The house's own rules, held by the test run: who imports whom, what is in every table, and a bare install."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from tests import poison
from tests.attack import switch

from studio import errors, providers
from studio.api import problems
from studio.errors import StudioError
from studio.models import FAMILIES
from studio.services.connector_service import ConnectorService

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "studio"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MODULES = sorted(SOURCE.rglob("*.py"))


def _names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=!~; ]", text)[0].lower().replace("_", "-") for text in requirements}


def _drivers() -> frozenset[str]:
    """Top-level modules of what the extras bring and the bare install does not."""
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = _names([text for name, texts in extras.items() if name != "all" for text in texts])
    wanted -= _names(PROJECT["project"]["dependencies"])
    found = {
        module
        for module, distributions in packages_distributions().items()
        for distribution in distributions
        if distribution.lower().replace("_", "-") in wanted
    }
    assert {"asyncpg", "apsw", "pgparse"} <= found
    # OpenTelemetry is no driver; its API comes with FastAPI, its exporter with the extra `otel`.
    return frozenset(found - {"README", "tests", "docs", "opentelemetry"})


DRIVERS = _drivers()


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for path in MODULES:
        yield path.relative_to(SOURCE), ast.parse(path.read_text())


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


# -- layout -------------------------------------------------------------------------------------


def test_imports_run_one_way() -> None:
    program = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_module_can_be_read_in_one_sitting(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= 300, f"{path.name} has {lines} lines: find the seam"


def test_only_providers_import_drivers() -> None:
    for path, tree in trees():
        found = {name for name in imported(tree) if name.split(".")[0] in DRIVERS}
        assert not found or path.parts[0] in {"providers", "testing"}, f"{path} imports {sorted(found)}"


def test_only_the_services_know_the_vault() -> None:
    users = {str(path) for path, tree in trees() if "studio.security.vault" in set(imported(tree))}
    assert users <= {f"services/{name}.py" for name in ("configs", "core", "upkeep", "master_keys", "rotation")}


def test_secrets_are_opened_in_one_function() -> None:
    """`Vault.release` has one caller, `Configs.release`, and only these few may call that."""
    calls: dict[str, set[str]] = {}
    for path, tree in trees():
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "release":
                    owner = ast.unparse(node.func.value).lower()
                    for noun in ("vault", "configs"):
                        if noun in owner:
                            calls.setdefault(noun, set()).add(f"{path}:{function.name}")
    assert calls["vault"] == {"services/configs.py:release"}
    assert {call.split(":")[0] for call in calls["configs"]} <= {
        "services/execution.py",
        "services/connectors.py",
        "services/rotating.py",
    }


def test_no_route_reads_the_organization_off_a_request() -> None:
    """HTTP names no organization when it calls the service: the principal's own is the only one."""
    for path, tree in trees():
        if path.parts[0] != "api" or path.name == "answers.py":  # which calls no service
            continue
        for node in ast.walk(tree):
            given = [keyword.arg for keyword in node.keywords] if isinstance(node, ast.Call) else []
            assert "organization_id" not in given, f"{path} passes organization_id"


def test_no_http_status_stands_below_the_surfaces() -> None:
    for path, tree in trees():
        if path.parts[0] in {"contract", "store", "security", "services"} or str(path) in {"errors.py", "models.py"}:
            found = {name for name in imported(tree) if name.split(".")[0] in {"fastapi", "starlette", "http", "click"}}
            assert not found, f"{path} imports {sorted(found)}"


# -- tables -------------------------------------------------------------------------------------


def _errors(of: type[StudioError] = StudioError) -> Iterator[type[StudioError]]:
    for cls in of.__subclasses__():
        yield cls
        yield from _errors(cls)


CODES = {
    "not_found", "unauthenticated", "forbidden", "invalid_request", "invalid_config", "conflict", "secrets_required",
    "override_not_allowed", "inactive", "read_only", "operation_not_supported", "egress_denied", "unreachable",
    "auth_failed", "timeout", "upstream_error", "pool_busy", "rate_limited", "result_blocked", "encryption_error",
    "internal",
}  # fmt: skip


def test_the_codes_are_the_contracts() -> None:
    assert set(errors.codes()) == CODES
    assert {cls.code for cls in _errors()} == CODES


@pytest.mark.parametrize("code", sorted(CODES))
def test_every_code_has_a_row_in_every_surfaces_table(code: str) -> None:
    from studio.cli.exits import EXIT
    from studio.mcp.refusals import NEXT

    assert errors.codes()[code] in problems.STATUS, "api/problems.py"
    assert code in EXIT, "cli/exits.py"
    assert code in NEXT, "mcp/refusals.py"


def test_no_table_has_a_code_that_does_not_exist() -> None:
    from studio.cli.exits import EXIT, HINTS
    from studio.mcp.refusals import NEXT

    assert {cls.code for cls in problems.STATUS} == CODES
    assert set(EXIT) == CODES
    assert set(NEXT) == CODES
    assert set(HINTS) <= CODES


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("not_found", 404), ("unauthenticated", 401), ("forbidden", 403), ("invalid_request", 422), ("invalid_config", 422),
        ("conflict", 409), ("secrets_required", 409), ("override_not_allowed", 422), ("read_only", 403),
        ("unreachable", 502), ("auth_failed", 502), ("timeout", 504), ("upstream_error", 502), ("pool_busy", 429),
        ("rate_limited", 429), ("internal", 500),
    ],
)  # fmt: skip
def test_a_code_has_the_contracts_status(code: str, status: int) -> None:
    assert problems.STATUS[errors.codes()[code]] == status


# -- one service, its surfaces ------------------------------------------------------------------

INSIDE = {
    "acting_as": "how a surface binds its caller",
    "authenticate": "called by every surface, for every call",
    "principal": "a property, not a use case",
    "close": "the lifetime",
    "target": "a step of `execute`, for surfaces that encode results themselves",
    "repeatable": "the Idempotency-Key of HTTP, which the client sends by itself",
    "plan": "a step of `execute`",
    "plan_query": "a step of `execute_query`",
    "run": "a step of `execute`",
    "stream": "the streamed form of `execute`",
    "upload": "the form of `execute` that takes raw bytes",
    "download": "the form of `execute` that answers raw bytes",
}
ONLY_HTTP = {
    "ready": "asked by whoever runs the server",
    "metrics": "asked by Prometheus; a command would find the counters of its own process at zero",
}
NOT_HTTP = {
    "watch": "the background work of `studio serve`",
    "attach_to_agent": "the documents' call; surfaces pass the body whole: attach",
    "execute": "HTTP plans and runs in steps, so that it can stream",
    "execute_query": "HTTP plans and runs in steps, so that it can stream",
    "stream_query": "HTTP plans first: the Accept header of a query says the form",
    "create_first_key": "made by `studio serve` on a loopback address, never over the network",
}


def _public() -> set[str]:
    return {name for name in dir(ConnectorService) if not name.startswith("_")}


def _mentioned(surface: str) -> set[str]:
    return {
        node.attr
        for path, tree in trees()
        if path.parts[0] == surface
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
    }


def test_every_use_case_can_be_reached_over_http() -> None:
    missing = _public() - _mentioned("api") - set(INSIDE) - set(NOT_HTTP)
    assert not missing, "give it a route, or a reason"


def test_every_use_case_can_be_reached_from_the_command_line() -> None:
    missing = _public() - _mentioned("cli") - set(INSIDE) - set(ONLY_HTTP) - {"attach_to_agent"}
    assert not missing, "give it a command, or a reason"


def test_the_lists_of_reasons_name_what_exists() -> None:
    assert set(INSIDE) | set(ONLY_HTTP) | set(NOT_HTTP) <= _public()


def test_every_public_method_says_what_it_does() -> None:
    for name in _public():
        assert inspect.getdoc(getattr(ConnectorService, name)), name


def test_no_surface_reaches_below_the_services() -> None:
    below = ("studio.store", "studio.security", "studio.providers")
    for path, tree in trees():
        if path.parts[0] in {"api", "mcp", "cli", "client"}:
            found = {name for name in imported(tree) if name.startswith(below)}
            assert not found, f"{path} imports {sorted(found)}"


# -- providers ----------------------------------------------------------------------------------


NO_EXTRA = {"rest": "its client, aiohttp, is here anyway"}


@pytest.mark.parametrize("kind", providers.built())
def test_a_provider_is_spelled_and_placed_as_the_catalogue_says(kind: str) -> None:
    found = providers.load(kind)
    assert found.kind == kind
    assert kind in providers.kinds()[found.family]
    if any(kind in kinds for kinds in FAMILIES.values()):
        assert kind in FAMILIES[found.family]
        assert kind in PROJECT["project"]["optional-dependencies"] or kind in NO_EXTRA
    assert (found.__doc__ or "").strip()
    assert found.operations


@pytest.mark.parametrize("kind", providers.built())
def test_a_providers_config_hides_its_secrets_and_guards_its_destination(kind: str) -> None:
    config = providers.load(kind).Config
    assert config.destination_fields(), "without a destination its secrets are sealed to nothing"
    assert not set(config.overridable()) & set(config.destination_fields())
    telling = re.compile(r"password|secret|token|private|(?<!^access)_key$|credential", re.I)
    for name, schema in config.model_json_schema()["properties"].items():
        if telling.search(name) and "token_url" not in name:
            text = json.dumps(schema)
            assert "writeOnly" in text or "$ref" in text or schema.get("type") in {"boolean", "integer"}, name


# -- a bare install -----------------------------------------------------------------------------

BARE = """
import asyncio, json, sys
blocked = set(json.loads(sys.argv[1]))

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in blocked else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""


def bare(script: str, folder: Path) -> str:
    """Run a script in a process in which no extra is installed."""
    environment = poison.program(folder)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", BARE + script, json.dumps(sorted(DRIVERS))],
        capture_output=True, text=True, env=environment, cwd=folder, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_bare_install_has_the_whole_catalogue_with_its_forms(tmp_path: Path) -> None:
    output = bare(
        """
from studio.services.connector_service import ConnectorService

async def main():
    async with ConnectorService() as service:
        types = await service.types()
        for kind in types["available"]:
            found = await service.describe_type(kind)
            assert found["config_schema"]["properties"] and found["operations"], kind
        print(json.dumps(types))

asyncio.run(main())
""",
        tmp_path,
    )
    types = json.loads(output)
    assert {family: kinds[: len(FAMILIES[family])] for family, kinds in types["types"].items()} == {
        family: list(kinds) for family, kinds in FAMILIES.items()
    }
    assert set(types["available"]) == set(providers.built())


def test_a_bare_install_serves_and_says_which_extra_is_missing(tmp_path: Path) -> None:
    """A connector of a kind whose driver is absent can be kept; using it says what to install."""
    output = bare(
        """
from studio.app import Application
from studio.services.connector_service import ConnectorService

async def main():
    Application()
    async with ConnectorService() as service:
        made = await service.create({"organization_id": "acme", "name": "local", "connector_type": "database",
                                     "provider": "sqlite", "config": {"path": "a.db"}})
        tested = await service.test_connection(made["id"])
        print(json.dumps(tested))

asyncio.run(main())
""",
        tmp_path,
    )
    tested = json.loads(output)
    assert tested["success"] is False
    assert "studio-connectors[sqlite]" in tested["message"]


@pytest.mark.parametrize("kind", ["postgresql", "mysql", "redis"])
def test_a_missing_driver_is_an_answer_that_names_its_extra(kind: str, tmp_path: Path) -> None:
    """The server is there: what is missing is only seen when the driver is wanted."""
    output = bare(
        """
from studio.services.connector_service import ConnectorService

async def main():
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    async with server, ConnectorService() as service:
        config = {"host": "127.0.0.1", "port": server.sockets[0].getsockname()[1]}
        if KIND != "redis":
            config |= {"database": "d", "username": "u", "password": "p", "ssl": False}
        made = await service.create({"organization_id": "acme", "name": "remote", "connector_type": "database",
                                     "provider": KIND, "config": config})
        print(json.dumps(await service.test_connection(made["id"])))

asyncio.run(main())
""".replace("KIND", repr(kind)),
        tmp_path,
    )
    assert f"studio-connectors[{kind}]" in json.loads(output)["message"]


def test_a_bare_install_has_the_command_line(tmp_path: Path) -> None:
    output = bare(
        """
from studio.cli import run
assert run(["--help"]) == 0
assert run(["connectors", "types"]) == 0
""",
        tmp_path,
    )
    assert "Usage: studio" in output
    assert "postgresql" in output


def test_what_is_blocked_is_really_absent(tmp_path: Path) -> None:
    """The control: without it the tests of a bare install would prove nothing."""
    output = bare(
        """
import importlib.util
absent = [name for name in blocked if importlib.util.find_spec(name) is None]
try:
    import apsw
except ModuleNotFoundError:
    print(len(absent) == len(blocked))
""",
        tmp_path,
    )
    assert output == "True\n"


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    output = bare(
        """
from studio.cli import run
run(["--help"])
print()
print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
""",
        tmp_path,
    )
    loaded = set(json.loads(output.splitlines()[-1]))
    assert not loaded & (
        DRIVERS | {"fastapi", "uvicorn", "sqlalchemy", "alembic", "cryptography", "aiohttp", "pydantic"}
    )


def test_every_module_can_be_imported_by_itself() -> None:
    for path in MODULES:
        if "migrations" in path.parts:
            continue
        name = ".".join(("studio", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")
        if name != "studio.__main__":
            importlib.import_module(name)


@pytest.mark.parametrize("guard", [name for name, found in switch.guards().items() if "replace" in found])
def test_what_stands_in_for_a_guard_has_a_guard_to_stand_in_for(guard: str) -> None:
    """A guard that is renamed or moved takes its entry in `tests/attack/corpus/guards.yaml` along."""
    with switch.switched_off(switch.guards()[guard]):
        pass
