"""The command line: the same on the embedded store and on a server, quiet about secrets, clear about errors."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import pty
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from tests.surfaces.conftest import Server, Studio
from tests.upstreams.openbao import OpenBao, openbao  # noqa: F401

from studio import errors
from studio.cli import exits, text
from studio.client import RemoteService
from studio.server import listen

STUDIO = [sys.executable, "-c", "from studio.cli import main; main()"]
HEAVY = {
    "aiohttp",
    "alembic",
    "apsw",
    "asyncio",
    "asyncpg",
    "fastapi",
    "pydantic",
    "rich",
    "sqlalchemy",
    "uvicorn",
    "yaml",
}


def made(studio: Studio, *more: str, name: str = "Main") -> dict[str, Any]:
    """A sqlite connector on the sample database."""
    config = ("--set", "path=app.db")
    record: dict[str, Any] = studio(
        "connectors", "create", "--name", name, "--provider", "sqlite", *config, *more, "--json"
    ).json
    return record


def made_toy(studio: Studio, folder: Path, *more: str) -> dict[str, Any]:
    (folder / "password").write_text("p4ssw0rd-c4n4ry\n")
    toy_config = ("--config", '{"host": "db.example", "login": {"user": "me"}}')
    secret = ("--secret", f"password=@{folder}/password")
    record: dict[str, Any] = studio(
        "connectors", "create", "--name", "Toy", "--provider", "toy", *toy_config, *secret, *more, "--json"
    ).json
    return record


# -- start ------------------------------------------------------------------------------------


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom studio.cli import run\nrun(['--help'])\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "Usage: studio" in done.stdout
    assert done.stderr == "[]\n"
    # Processor time, not the clock: other work on this machine is not what is measured.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.3


def test_a_command_that_does_not_serve_imports_no_web_framework(data_dir: Path) -> None:
    code = (
        "import sys\nfrom studio.cli import run\nrun(['connectors', 'types', '--json'])\n"
        "print(sorted({'aiohttp', 'fastapi', 'uvicorn', 'rich', 'asyncpg', 'apsw'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"


def test_every_command_has_a_help_text(embedded: Studio) -> None:
    from studio.cli.program import studio as program

    def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
        for name, command in group.commands.items():
            yield (*path, name), command
            if hasattr(command, "commands"):
                yield from commands(command, (*path, name))

    found = dict(commands(program))
    assert len(found) > 25
    for path, command in found.items():
        assert command.get_short_help_str(), path
        assert embedded(*path, "--help").code == 0


# -- connectors, on both sides of a server ------------------------------------------------------


def test_a_connector_is_created_listed_shown_changed_and_deleted(studio: Studio) -> None:
    record = made(studio)
    assert (record["connector_type"], record["config"]["path"]) == ("database", "app.db")
    assert [one["name"] for one in studio("connectors", "list", "--json").json["records"]] == ["Main"]
    assert studio("connectors", "list", "--type", "api", "--json").json["records"] == []
    assert "Main" in studio("connectors", "list").out
    assert studio("connectors", "get", "Main", "--json").json == record
    assert studio("connectors", "get", record["id"], "--json").json == record
    shown = studio("connectors", "get", "Main").out
    assert "config.path" in shown

    changed = studio("connectors", "update", "Main", "--name", "Other", "--set", "max_rows=2", "--json").json
    assert (changed["name"], changed["config"]["max_rows"], changed["version"]) == ("Other", 2, 2)
    back = studio("connectors", "update", "Other", "--unset", "max_rows", "--version", 2, "--json").json
    assert back["config"]["max_rows"] == 1000
    assert studio("connectors", "update", "Other", "--set", "max_rows=3", "--version", 2).code == 5

    preview = studio("connectors", "delete", "Other", "--dry-run", "--json").json
    assert preview["dry_run"]
    assert studio("connectors", "delete", "Other", "--yes").code == 0
    assert studio("connectors", "get", "Other").code == 3


def test_deleting_asks_for_yes_and_names_who_would_lose_it(studio: Studio) -> None:
    made(studio)
    studio("connectors", "attach", "Main", "--agent", "agent-123", "--alias", "main_db")
    refused = studio("connectors", "delete", "Main")
    assert refused.code == 2
    assert "agent-123/main_db" in refused.err
    assert studio("connectors", "get", "Main").code == 0


def test_a_name_is_found_whole_and_in_its_own_case(embedded: Studio) -> None:
    for name in ("main", "Main 2"):
        made(embedded, name=name)
    assert embedded("connectors", "get", "Main").code == 3
    assert embedded("connectors", "get", "main", "--json").json["name"] == "main"


def test_an_agent_gets_a_connector_uses_it_and_loses_it(studio: Studio) -> None:
    made(studio)
    attach = ("connectors", "attach", "Main", "--agent", "agent-123", "--alias", "main_db")
    assert studio(*attach, "--set", "max_rows=2", "--json").json["config"]["max_rows"] == 2
    assert "main_db" in studio("connectors", "agent", "agent-123").out
    assert studio("connectors", "instances", "Main", "--json").json["total"] == 1
    operations = studio("connectors", "operations", "main_db", "--agent", "agent-123", "--json").json["operations"]
    assert {"query", "list_tables"} <= {one["name"] for one in operations}
    result = studio("query", "main_db", "SELECT * FROM users", "--agent", "agent-123")
    assert "Ada" in result.out
    assert "truncated" in result.err
    assert studio("query", "main_db", "DELETE FROM users", "--agent", "agent-123").code in {2, 4}
    assert studio("connectors", "detach", "--agent", "agent-123", "--alias", "main_db").code == 0
    assert studio("query", "main_db", "SELECT 1", "--agent", "agent-123").code == 3


def test_a_query_takes_parameters_and_prints_table_json_or_csv(studio: Studio) -> None:
    record = made(studio)
    ask = ("query", record["id"], "SELECT id, name FROM users WHERE id <= :id ORDER BY id", "--param", "id=2")
    assert studio(*ask, "--format", "csv").out == "id,name\n1,Ada\n2,Grace\n"
    result = studio(*ask, "--json").json
    assert result["data"] == [{"id": 1, "name": "Ada"}, {"id": 2, "name": "Grace"}]
    assert result == {**studio(*ask, "--format", "json").json, "execution_time_ms": result["execution_time_ms"]}
    table = studio(*ask)
    assert [line.split() for line in table.out.splitlines()[2:]] == [["1", "Ada"], ["2", "Grace"]]
    assert table.err.startswith("2 rows, ")


def test_an_operation_runs_with_arguments_from_pairs_and_from_json(studio: Studio) -> None:
    made(studio)
    one = studio("run", "Main", "describe_table", "--arg", "table=users", "--json").json
    other = studio("run", "Main", "describe_table", "--args", "-", "--json", stdin='{"table": "users"}').json
    assert one["data"] == other["data"]
    assert "users" in studio("run", "Main", "list_tables").out
    assert studio("run", "Main", "fly").code == 2


def test_a_test_prints_its_stages_and_its_outcome_is_the_exit_code(studio: Studio) -> None:
    made(studio)
    good = studio("connectors", "test", "Main")
    assert good.code == 0
    assert good.out.startswith("Connection successful")
    bad = studio("connectors", "test-config", "--provider", "sqlite", "--set", "path=none.db", "--json")
    answer = json.loads(bad.out)
    assert not answer["success"]
    assert bad.code == exits.EXIT[answer["code"]] != 0


def test_a_failing_test_keeps_a_connector_from_being_saved(studio: Studio) -> None:
    refused = studio("connectors", "create", "--name", "X", "--provider", "sqlite", "--set", "path=none.db", "--test")
    assert refused.code != 0
    assert studio("connectors", "get", "X").code == 3


def test_types_lists_all_providers_and_describes_one(studio: Studio) -> None:
    assert "sqlite" in studio("connectors", "types", "--json").json["types"]["database"]
    assert "rabbitmq" in studio("connectors", "types").out
    described = studio("connectors", "types", "toy").out
    assert "password" in described
    assert "secret" in described
    assert studio("connectors", "types", "nothing").code == 3


def test_listing_reads_every_page(embedded: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("studio.cli.common._PAGE", 2)
    for number in range(5):
        made(embedded, name=f"c{number}")
    assert len(embedded("connectors", "list", "--json").json["records"]) == 5
    assert embedded("connectors", "get", "c4").code == 0


# -- secrets ------------------------------------------------------------------------------------


def test_a_secret_comes_from_a_file_or_from_stdin_and_is_not_shown(studio: Studio, tmp_path: Path) -> None:
    record = made_toy(studio, tmp_path, "--secret", f"login.token=@{tmp_path}/password")
    assert record["secrets_set"] == ["login.token", "password"]
    assert "c4n4ry" not in json.dumps(record)
    assert studio("run", "Toy", "secrets", "--json").json["data"] == {"password": 15, "token": 15}
    changed = studio("connectors", "update", "Toy", "--secret", "password", "--json", stdin="short\n")
    assert changed.code == 0
    assert studio("run", "Toy", "secrets", "--json").json["data"] == {"password": 5, "token": 15}


def test_a_secret_on_the_command_line_is_refused_without_repeating_it(embedded: Studio, toys: None) -> None:
    create = ("connectors", "create", "--name", "T", "--provider", "toy", "--set", "host=h")
    refused = embedded(*create, "--secret", "password=h1dden")
    assert refused.code == 2
    assert "h1dden" not in refused.out + refused.err
    assert embedded(*create, "--secret", "password").err.startswith(
        "error invalid_request: --secret: nothing was given"
    )


def test_a_secret_is_asked_for_on_a_terminal_without_echo(data_dir: Path) -> None:
    master, slave = pty.openpty()
    code = "from studio.cli.given import merged_config; print(len(merged_config(None, (), ('password',))['password']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=slave, stdout=subprocess.PIPE, stderr=slave, start_new_session=True
    )
    os.close(slave)
    seen = b""
    while b"password: " not in seen:
        seen += os.read(master, 100)
    os.write(master, b"h1dden\n")
    assert process.communicate(timeout=20)[0] == b"6\n"
    seen += os.read(master, 1000)
    os.close(master)
    assert b"h1dden" not in seen


def test_config_comes_from_a_file_or_stdin_and_a_broken_one_is_not_repeated(embedded: Studio, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"path": "app.db"}')
    create = ("connectors", "create", "--provider", "sqlite", "--name")
    assert embedded(*create, "a", "--config", f"@{tmp_path}/config.json").code == 0
    assert embedded(*create, "b", "--config", "-", stdin='{"path": "app.db"}').code == 0
    broken = embedded(*create, "c", "--config", '{"password": "h1dden"')
    assert broken.code == 2
    assert "h1dden" not in broken.err
    assert embedded(*create, "c", "--config", "@/nowhere/at/all").code == 2
    assert embedded(*create, "c", "--config", "[1]").code == 2


# -- errors -------------------------------------------------------------------------------------


def test_every_error_code_has_an_exit_code() -> None:
    assert set(exits.EXIT) == set(errors.codes())
    assert set(exits.HINTS) <= set(errors.codes())
    assert 0 not in exits.EXIT.values()


@pytest.mark.parametrize("broken", ["no database", "newer"])
def test_a_store_that_fails_is_no_defect_and_says_what_to_do(embedded: Studio, data_dir: Path, broken: str) -> None:
    assert embedded("connectors", "list").code == 0
    if broken == "newer":
        with closing(sqlite3.connect(data_dir / "studio.db")) as store:
            store.execute("UPDATE alembic_version SET version_num = '9999'")
            store.commit()
    else:
        for file in data_dir.glob("studio.db-*"):
            file.unlink()
        (data_dir / "studio.db").write_bytes(b"no database at all" * 1000)
    failed = embedded("connectors", "list")
    assert failed.code == 70
    assert "report it" not in failed.err
    assert ("a newer version made it" if broken == "newer" else "file is not a database") in failed.err


def test_an_error_names_code_fields_and_what_to_do_on_stderr(studio: Studio) -> None:
    refused = studio("connectors", "create", "--name", "x", "--provider", "sqlite", "--set", "paths=app.db", "--json")
    lines = refused.err.splitlines()
    assert (refused.code, refused.out) == (2, "")
    assert lines[0].startswith("error invalid_config: ")
    assert any(line.startswith("  config.path: ") for line in lines)
    assert any(line.startswith("  config.paths: ") for line in lines)
    assert lines[-1] == "  next: studio connectors types PROVIDER lists the fields"


@pytest.mark.parametrize(
    "wrong",
    [
        ("connectors", "create"),
        ("connectors", "fly"),
        ("query", "x"),
        ("--nothing",),
        ("query", "x", "y", "--param", "id"),
        ("query", "x", "y", "--param", "a=1", "--param", "a=2"),
        ("connectors", "detach"),
        ("apply", "/nowhere/at/all.yaml"),
        ("connectors", "list", "--organization", "not an id"),
    ],
)
def test_what_cannot_be_understood_ends_with_2_and_one_error(embedded: Studio, wrong: tuple[str, ...]) -> None:
    refused = embedded(*wrong)
    assert refused.code == 2
    assert refused.err.startswith("error invalid_request: ")


def test_a_group_without_a_command_shows_its_help(embedded: Studio) -> None:
    assert embedded("connectors").code == 2
    assert "attach" in embedded("connectors").err


def test_a_wrong_setting_is_named_and_its_value_is_not(embedded: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDIO_PORT", "h1dden")
    refused = embedded("connectors", "list")
    assert refused.code == 2
    assert "STUDIO_PORT" in refused.err
    assert "h1dden" not in refused.err


def test_a_database_that_is_none_is_named_by_its_setting(embedded: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDIO_DATABASE_URL", "mysql://user:h1dden@host/name")
    refused = embedded("db", "status")
    assert refused.code == 70
    assert "STUDIO_DATABASE_URL" in refused.err
    assert "h1dden" not in refused.err


def test_a_data_folder_that_cannot_be_made_is_named(embedded: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDIO_DATA_DIR", "/dev/null/data")
    refused = embedded("connectors", "list")
    assert refused.code == 70
    assert "/dev/null" in refused.err
    assert "STUDIO_DATA_DIR" in refused.err


def test_a_defect_shows_its_class_and_nothing_of_its_text(embedded: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Any) -> None:
        raise ZeroDivisionError("h1dden")

    monkeypatch.setattr(text, "print_json", broken)
    refused = embedded("connectors", "types", "--json")
    assert refused.code == 70
    assert refused.err.startswith("error internal: unexpected ZeroDivisionError at ")
    assert "test_cli.py:" in refused.err
    assert "h1dden" not in refused.err


def test_an_interrupt_ends_quietly(embedded: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(text, "print_json", interrupted)
    ended = embedded("connectors", "types", "--json")
    assert ended.code == 130
    assert ended.err.strip() == ""


def test_a_reader_that_went_away_is_no_error(data_dir: Path) -> None:
    for arguments in (("--help",), ("connectors", "types", "--json")):
        read, write = os.pipe()
        os.close(read)
        ended = subprocess.run([*STUDIO, *arguments], stdout=write, stderr=subprocess.PIPE, check=False)
        os.close(write)
        assert ended.stderr == b""


def test_an_outcome_cannot_steer_the_terminal(studio: Studio) -> None:
    made(studio)
    ask = ("query", "Main", "SELECT name, '\u009b2J' AS other FROM users WHERE id = 3")
    for form in ("table", "json"):
        shown = studio(*ask, "--format", form).out
        assert "\x1b" not in shown
        assert "\u009b" not in shown
        assert "[b]" in shown
    assert "\x1b" not in studio("connectors", "get", "\x1b[31m").err
    data = list(csv.reader(io.StringIO(studio(*ask, "--format", "csv").out)))
    assert data[1][0] == "[b]\x1b[31m"  # csv is for programs: the very value


# -- servers, organizations and keys --------------------------------------------------------------


def test_a_key_is_made_in_json_used_and_revoked(studio: Studio, server: Server) -> None:
    organization = () if os.environ.get("STUDIO_URL") else ("--organization", "default")
    made_key = studio("keys", "create", *organization, "--role", "member", "--name", "ci", "--json").json
    at_server = ("--url", server.url, "--key", made_key["key"])
    assert studio("connectors", "list", *at_server).code == 0
    refused = studio("connectors", "create", "--name", "x", "--provider", "sqlite", "--set", "path=app.db", *at_server)
    assert refused.code == 4
    listed = studio("keys", "list", "--json").json["records"]
    assert "ci" in [key["name"] for key in listed]
    assert made_key["key"] not in json.dumps(listed)
    assert studio("keys", "narrow", made_key["id"], "--role", "admin").code == 2
    assert studio("keys", "narrow", made_key["id"], "--expires", "2990-01-01T00:00:00Z", "--json").json["expires_at"]
    assert studio("keys", "revoke", made_key["id"]).code == 0
    assert studio("connectors", "list", *at_server).code == 4


def test_a_key_is_printed_alone_on_stdout(embedded: Studio) -> None:
    answer = embedded("keys", "create", "--role", "admin")
    assert answer.out.startswith("studio_")
    assert len(answer.out.split()) == 1


def test_an_agents_key_uses_its_alias_and_nothing_else(remote: Studio, server: Server) -> None:
    made(remote)
    remote("connectors", "attach", "Main", "--agent", "agent-123", "--alias", "main_db")
    # `--role` beside `--agent` is taken and dropped: an agent's key has the agent's rights only.
    limits = ("--alias", "main_db", "--effect", "read")
    key = remote("keys", "create", "--role", "admin", "--agent", "agent-123", *limits, "--json").json
    assert (key["role"], key["agent_id"], key["aliases"]) == (None, "agent-123", ["main_db"])
    as_agent = ("--url", server.url, "--key", key["key"])
    assert remote("query", "main_db", "SELECT 1", "--agent", "agent-123", *as_agent).code == 0
    assert remote("connectors", "list", *as_agent).code == 4


def test_organizations_do_not_see_each_other(embedded: Studio, server: Server) -> None:
    made(embedded)
    acme = embedded("keys", "create", "--organization", "acme", "--role", "admin", "--json").json
    assert embedded("connectors", "list", "--organization", "acme", "--json").json["records"] == []
    at_server = ("--url", server.url, "--key", acme["key"])
    assert embedded("connectors", "get", "Main", *at_server).code == 3
    assert embedded("keys", "create", "--organization", "other", "--role", "admin", *at_server).code == 2


def test_with_a_server_the_key_says_which_organization(remote: Studio) -> None:
    refused = remote("connectors", "list", "--organization", "acme")
    assert refused.code == 2
    assert "--organization" in refused.err


def test_a_key_without_a_server_is_refused_rather_than_ignored(embedded: Studio) -> None:
    assert embedded("connectors", "list", "--key", "studio_x").code == 2


def test_a_commands_own_option_wins_over_the_one_before_it_and_over_the_environment(
    remote: Studio, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text(f"{server.key}\n")
    monkeypatch.setenv("STUDIO_API_KEY", "wrong")
    assert remote("connectors", "list").code == 4
    assert remote("--key", f"@{tmp_path}/key", "connectors", "list").code == 0
    assert remote("--key", "wrong", "connectors", "list", "--key", f"@{tmp_path}/key").code == 0
    assert remote("--url", "http://127.0.0.1:1", "connectors", "list").code == 6


def test_a_server_that_is_not_there_ends_with_6_and_says_what_to_do(embedded: Studio) -> None:
    refused = embedded("connectors", "list", "--url", "http://127.0.0.1:1", "--key", "k")
    assert refused.code == 6
    assert refused.err.startswith("error unreachable: ")
    assert "studio serve" in refused.err


# -- upkeep ---------------------------------------------------------------------------------------


def test_the_store_tells_its_schema_and_upgrades(embedded: Studio) -> None:
    before = embedded("db", "status", "--json").json
    assert (before["revision"], before["current"]) == (None, False)
    after = embedded("db", "upgrade", "--json").json
    assert after["current"]
    assert after["upgraded_from"] is None
    assert embedded("db", "upgrade", "--json").json["upgraded_from"] == after["newest"]


def test_encryption_status_tells_a_lost_and_a_wrong_key(
    embedded: Studio, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(embedded)
    status = embedded("encryption", "status", "--json").json
    (key,) = status["keys"]
    assert (status["ok"], status["source"], key["rows"], key["opens"]) == (True, "key file", 2, True)

    fresh = embedded("encryption", "new-key").out.strip()
    monkeypatch.setenv("STUDIO_ENCRYPTION_KEYS", fresh)
    lost = embedded("encryption", "status", "--json")
    assert lost.code == 78
    assert [one["configured"] for one in json.loads(lost.out)["keys"]] == [True, False]
    assert embedded("connectors", "list").code == 78

    monkeypatch.setenv("STUDIO_ENCRYPTION_KEYS", f"{fresh},{(data_dir / 'encryption.key').read_text().strip()}")
    both = embedded("encryption", "status", "--json").json
    assert [(one["newest"], one["rows"]) for one in both["keys"]] == [(True, 0), (False, 2)]
    assert fresh not in json.dumps(both)
    assert embedded("connectors", "list").code == 0


def test_the_keys_of_a_key_file_are_wrapped_by_the_key_service(
    embedded: Studio,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    openbao: OpenBao,  # noqa: F811
) -> None:
    made(embedded)
    assert embedded("encryption", "wrap").code == 78
    monkeypatch.setenv("STUDIO_VAULT_URL", openbao.url)
    monkeypatch.setenv("STUDIO_VAULT_TOKEN", openbao.token)
    monkeypatch.setenv("STUDIO_KEY_SERVICE", "vault:transit/studio")
    assert embedded("connectors", "list").code == 78
    assert "all of them wrapped: 1" in embedded("encryption", "wrap").out
    assert (data_dir / "encryption.key").read_text().startswith("wrapped:vault:v1:")
    assert embedded("connectors", "list").code == 0
    assert "wrapped by vault:transit/studio" in embedded("encryption", "status").out
    fresh = embedded("encryption", "new-key").out.strip()
    assert fresh.startswith("wrapped:vault:v1:")
    monkeypatch.setenv("STUDIO_ENCRYPTION_KEYS", fresh)
    assert embedded("encryption", "wrap").out.strip() == fresh


def test_a_missing_key_file_is_told_and_not_replaced(embedded: Studio, data_dir: Path) -> None:
    made(embedded)
    (data_dir / "encryption.key").unlink()
    assert "none" in embedded("encryption", "status").out
    assert not (data_dir / "encryption.key").exists()


def test_upkeep_is_not_done_through_a_server(embedded: Studio) -> None:
    for command in (("db", "upgrade"), ("encryption", "status"), ("serve",)):
        assert embedded("--url", "http://127.0.0.1:1", *command).code == 2


# -- serve ----------------------------------------------------------------------------------------


@contextmanager
def served(*options: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """`studio serve` as a process of its own, and what it announced."""
    command = [*STUDIO, "serve", "--port", "0", "--json", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process, json.loads(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


def test_a_connector_cannot_reach_the_service_itself_on_the_free_port_that_it_took(embedded: Studio) -> None:
    with served() as (_, said):
        at_server = ("--url", said["url"], "--key", said["first_key"])
        config = ("--set", f"base_url={said['url']}")
        assert embedded("connectors", "create", "--name", "itself", "--provider", "rest", *config, *at_server).code == 0
        assert "egress_denied" in embedded("connectors", "test", "itself", "--json", *at_server).out


def test_serve_makes_a_first_key_once_and_ends_cleanly_on_a_signal(embedded: Studio) -> None:
    with served() as (process, said):
        assert said["url"].startswith("http://127.0.0.1:")
        at_server = ("--url", said["url"], "--key", said["first_key"])
        assert made(embedded, *at_server)["organization_id"] == "default"
        taken = embedded("serve", "--port", said["url"].rsplit(":", 1)[1])
        assert taken.code == 2
        assert "cannot listen" in taken.err
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=20)
        assert process.returncode == 0
        assert said["first_key"] not in out + err
        assert "Traceback" not in err
        assert "POST" not in err
    with served() as (process, said):
        assert said["first_key"] is None
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
        assert process.returncode == 0


def test_serve_makes_no_key_on_an_address_that_others_can_reach(
    embedded: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def at_once(_server: uvicorn.Server, sockets: Any) -> None:
        """Do not serve."""

    monkeypatch.setattr(uvicorn.Server, "serve", at_once)
    assert embedded("serve", "--host", "0.0.0.0", "--port", "0", "--json").json["first_key"] is None
    assert "shown this once" in embedded("serve", "--port", "0").out
    assert "shown this once" not in embedded("serve", "--port", "0").out


def test_answers_are_not_held_back_by_nagles_algorithm(server: Server) -> None:
    with closing(listen("127.0.0.1", 0)) as listener:
        assert listener.proto == socket.IPPROTO_TCP

    async def quickest() -> float:
        took = []
        async with RemoteService(server.url, server.key) as remote:
            for _ in range(5):
                start = time.perf_counter()
                await remote.types()
                took.append(time.perf_counter() - start)
        return min(took[1:])  # the first answer of a connection is never held back

    assert asyncio.run(quickest()) < 0.04


# -- apply ----------------------------------------------------------------------------------------

MANIFEST = """
connectors:
  - name: Main
    type: database
    provider: sqlite
    config: {path: app.db, max_rows: 10}
    attachments:
      - {agent: agent-123, alias: main_db, override: {max_rows: 5}}
  - name: Toy
    provider: toy
    config:
      host: db.example
      login: {user: me, token: {from_file: token.txt}}
      password: {from_env: TOY_PASSWORD}
"""


@pytest.fixture
def manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "token.txt").write_text("t0k3n\n")
    monkeypatch.setenv("TOY_PASSWORD", "p4ssw0rd")
    file = tmp_path / "connectors.yaml"
    file.write_text(MANIFEST)
    return file


def actions(studio: Studio, file: Path, *options: str) -> dict[str, str]:
    results = studio("apply", file, *options, "--json").json["results"]
    return {f"{one['kind']} {one['name']}": one["action"] for one in results}


def test_a_file_is_applied_once_and_then_nothing_is_left_to_do(studio: Studio, manifest: Path) -> None:
    names = ["connector Main", "attachment agent-123/main_db", "connector Toy"]
    assert actions(studio, manifest, "--dry-run") == dict.fromkeys(names, "created")
    assert studio("connectors", "list", "--json").json["records"] == []
    assert actions(studio, manifest) == dict.fromkeys(names, "created")
    assert actions(studio, manifest) == dict.fromkeys(names, "unchanged")
    records = studio("connectors", "list", "--json").json["records"]
    assert [(one["name"], one["version"]) for one in records] == [("Main", 1), ("Toy", 1)]
    assert studio("run", "Toy", "secrets", "--json").json["data"] == {"password": 8, "token": 5}
    assert studio("query", "main_db", "SELECT 1 AS one", "--agent", "agent-123").code == 0
    assert "unchanged  connector Main\n" in studio("apply", manifest).out


def test_a_changed_file_updates_what_differs_and_says_which_fields(studio: Studio, manifest: Path) -> None:
    actions(studio, manifest)
    manifest.write_text(MANIFEST.replace("max_rows: 10", "timeout_s: 10").replace("max_rows: 5", "max_rows: 7"))
    would = studio("apply", manifest, "--dry-run").out.splitlines()
    assert would[0] == "would be updated  connector Main (config.timeout_s, config.max_rows)"
    assert would[1] == "would be updated  attachment agent-123/main_db (config_override.max_rows)"
    assert studio("connectors", "get", "Main", "--json").json["config"]["max_rows"] == 10
    assert set(actions(studio, manifest).values()) == {"updated", "unchanged"}
    config = studio("connectors", "get", "Main", "--json").json["config"]
    assert (config["timeout_s"], config["max_rows"]) == (10, 1000)  # what the file leaves out is the default again
    (instance,) = studio("connectors", "agent", "agent-123", "--json").json["records"]
    assert instance["config"]["max_rows"] == 7
    assert set(actions(studio, manifest).values()) == {"unchanged"}


def test_secrets_are_sent_again_on_demand_or_with_another_change(
    studio: Studio, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lengths() -> Any:
        return studio("run", "Toy", "secrets", "--json").json["data"]

    actions(studio, manifest)
    monkeypatch.setenv("TOY_PASSWORD", "longer-p4ssw0rd")
    assert actions(studio, manifest)["connector Toy"] == "unchanged"
    assert lengths() == {"password": 8, "token": 5}
    shown = studio("apply", manifest, "--update-secrets").out
    assert "updated  connector Toy (config.login.token, config.password)" in shown
    assert "p4ssw0rd" not in shown
    assert lengths() == {"password": 15, "token": 5}
    # A new destination needs its secrets again, and the file has them.
    manifest.write_text(MANIFEST.replace("db.example", "other.example"))
    monkeypatch.setenv("TOY_PASSWORD", "x")
    assert actions(studio, manifest)["connector Toy"] == "updated"
    assert lengths() == {"password": 1, "token": 5}


SAVED = """
connectors:
  - name: Main
    provider: sqlite
    config: {path: app.db}
    saved_operations:
      - name: one_of
        description: The number that was given
        query: SELECT :n AS n
        parameters: {n: {type: integer, maximum: 9}}
    attachments:
      - {agent_id: agent-123, alias: main_db, saved_only: true}
"""


def test_saved_operations_are_applied_and_an_attachment_may_be_limited_to_them(studio: Studio, manifest: Path) -> None:
    manifest.write_text(SAVED)
    names = ["connector Main", "saved operation one_of", "attachment agent-123/main_db"]
    assert actions(studio, manifest, "--dry-run") == dict.fromkeys(names, "created")
    assert actions(studio, manifest) == dict.fromkeys(names, "created")
    assert actions(studio, manifest) == dict.fromkeys(names, "unchanged")
    assert studio("query", "main_db", "SELECT 1", "--agent", "agent-123").code != 0
    assert studio("run", "main_db", "one_of", "--arg", "n=7", "--agent", "agent-123", "--json").json["data"] == [
        {"n": 7}
    ]
    manifest.write_text(SAVED.replace("maximum: 9", "maximum: 5").replace("saved_only: true", "saved_only: false"))
    done = studio("apply", manifest).out
    assert "updated  saved operation one_of (parameters)" in done
    assert "updated  attachment agent-123/main_db (saved_only)" in done
    assert studio("run", "main_db", "one_of", "--arg", "n=7", "--agent", "agent-123").code != 0
    assert studio("query", "main_db", "SELECT 1", "--agent", "agent-123").code == 0


def test_a_saved_operation_that_is_refused_leaves_the_old_one(embedded: Studio, manifest: Path) -> None:
    manifest.write_text(SAVED)
    actions(embedded, manifest)
    manifest.write_text(SAVED.replace("{n: {type: integer, maximum: 9}}", "{other: {type: integer}}"))
    assert embedded("apply", manifest).code != 0
    manifest.write_text(SAVED)
    assert set(actions(embedded, manifest).values()) == {"unchanged"}


def test_a_secret_that_is_new_to_a_connector_is_a_difference(embedded: Studio, toys: None, manifest: Path) -> None:
    manifest.write_text("connectors: [{name: Toy, provider: toy, config: {host: h, login: {user: me}}}]")
    actions(embedded, manifest)
    manifest.write_text(
        "connectors: [{name: Toy, provider: toy, config: {host: h, login: {user: me, token: {from_env: TOY_PASSWORD}}}}]"
    )
    assert "config.login.token" in embedded("apply", manifest).out
    assert actions(embedded, manifest) == {"connector Toy": "unchanged"}
    # What the file does not name anymore stays: somebody may keep secrets elsewhere.
    manifest.write_text("connectors: [{name: Toy, provider: toy, config: {host: h, login: {user: me}}}]")
    assert actions(embedded, manifest) == {"connector Toy": "unchanged"}
    assert embedded("connectors", "get", "Toy", "--json").json["secrets_set"] == ["login.token"]


def test_an_override_that_is_refused_leaves_the_old_attachment(embedded: Studio, manifest: Path, toys: None) -> None:
    actions(embedded, manifest)
    manifest.write_text(MANIFEST.replace("max_rows: 5", "max_rows: 500"))
    refused = embedded("apply", manifest)
    assert refused.code == exits.EXIT["override_not_allowed"]
    assert "unchanged  connector Toy" in refused.out  # one failure does not keep the others waiting
    (instance,) = embedded("connectors", "agent", "agent-123", "--json").json["records"]
    assert instance["config"]["max_rows"] == 5


def test_one_failing_connector_does_not_keep_the_others_from_being_applied(embedded: Studio, manifest: Path) -> None:
    manifest.write_text(
        "connectors:\n- {name: Bad, provider: sqlite, config: {paths: x}}\n"
        "- {name: Good, provider: sqlite, config: {path: app.db}}\n"
    )
    refused = embedded("apply", manifest, "--json")
    assert refused.code == 2
    answer = json.loads(refused.out)
    assert [one["name"] for one in answer["results"]] == ["Good"]
    assert [(one["name"], one["code"]) for one in answer["failed"]] == [("Bad", "invalid_config")]


def test_apply_switches_off_and_a_failed_test_is_not_a_difference(embedded: Studio, manifest: Path) -> None:
    one = "connectors: [{name: A, provider: sqlite, status: STATUS, config: {path: gone.db}}]"
    manifest.write_text(one.replace("STATUS", "active"))
    actions(embedded, manifest)
    assert embedded("connectors", "test", "A").code != 0
    assert actions(embedded, manifest) == {"connector A": "unchanged"}
    manifest.write_text(one.replace("STATUS", "inactive"))
    assert embedded("apply", manifest).out == "updated  connector A (status)\n"
    assert actions(embedded, manifest) == {"connector A": "unchanged"}


def test_another_provider_under_the_same_name_is_a_conflict(embedded: Studio, manifest: Path, toys: None) -> None:
    made(embedded, name="Toy")
    refused = embedded("apply", manifest)
    assert refused.code == 5
    assert "cannot change" in refused.err


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("connectors: [{name: A}]", "connectors.0.provider: is missing"),
        ("connectors: [{name: A, provider: sqlite, password: x}]", "connectors.0.password: is unknown"),
        ("connectors: [{name: A, provider: sqlite}, {name: A, provider: sqlite}]", "connectors.1.name: stands twice"),
        ("connectors: [{name: 1, provider: sqlite}]", "connectors.0.name: must be text"),
        ("connectors: [{name: A, provider: s, config: {a: {from_env: NOT_SET}}}]", "no NOT_SET"),
        (
            "connectors: [{name: A, provider: s, config: {a: {from_file: nowhere}}}]",
            "connectors.0.config.a: cannot read",
        ),
        ("connectors: [{name: A, provider: s, config: {a: 2027-01-01}}]", "quote it"),
        ("connectors: {a: b}", "must hold one list"),
        ("connectors: [{name: A, provider: s, attachments: {a: b}}]", "must be a list"),
        ("connectors: [\n  h1dden: [", "is not YAML, see line 2"),
        ("!!python/object/apply:os.system [true]", "is not YAML"),
    ],
)
def test_a_wrong_file_is_refused_before_anything_is_done(
    embedded: Studio, manifest: Path, wrong: str, said: str
) -> None:
    manifest.write_text(wrong)
    refused = embedded("apply", manifest)
    assert refused.code == 2
    assert said in refused.err
    assert "h1dden" not in refused.err


def test_rotation_says_how_many_rows_it_sealed_anew_and_that_none_is_left(embedded: Studio) -> None:
    embedded("connectors", "create", "--name", "Main", "--provider", "sqlite", "--set", "path=app.db")
    done = embedded("encryption", "rotate", "--json").json
    assert (done["rows"], done["left"], done["failed"]) == (2, 0, [])
    assert embedded("encryption", "status", "--json").json["keys"][0]["rows"] == 2
    assert "0 left on an old key" in embedded("encryption", "rotate").out


def test_a_rotation_that_fails_says_what_fits_a_rotation(embedded: Studio, toys: None, tmp_path: Path) -> None:
    made_toy(embedded, tmp_path)
    (tmp_path / "password").write_text("wrong\n")
    given = embedded("connectors", "rotate", "Toy", "--secret", f"password=@{tmp_path}/password")
    assert given.code == exits.EXIT["auth_failed"]
    assert given.err.splitlines()[-1].startswith("  next: nothing has changed here; give the secret")
    generated = embedded("connectors", "rotate", "Toy", "--generate")
    assert generated.code == exits.EXIT["operation_not_supported"]
    assert "then: studio connectors rotate NAME --secret password" in generated.err
    assert "connectors update" not in given.err + generated.err
