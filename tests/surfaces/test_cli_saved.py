"""Saved operations on the command line, in process and through a server."""

from __future__ import annotations

from tests.surfaces.conftest import Studio

QUERY = "SELECT name FROM users WHERE id <= :most AND :agent = 'agent-1' ORDER BY id"


def test_a_statement_is_saved_listed_run_and_unsaved(studio: Studio) -> None:
    studio("connectors", "create", "--name", "Main", "--provider", "sqlite", "--set", "path=app.db")
    save = ("connectors", "save", "Main", "first_users", QUERY, "--description", "The first users.")
    most = 'most={"type": "integer", "maximum": 2}'
    record = studio(*save, "--parameter", most, "--bind", 'agent={"from": "agent_id"}', "--json").json
    assert (record["parameters"], record["bound"]) == (
        {"most": {"type": "integer", "maximum": 2}},
        {"agent": {"from": "agent_id"}},
    )
    assert studio("connectors", "saved", "Main", "--json").json == {"records": [record], "total": 1}
    assert "The first users." in studio("connectors", "saved", "Main").out
    assert studio(*save).code == 2, "the statement's parameters must be declared"

    studio("connectors", "attach", "Main", "--agent", "agent-1", "--alias", "db", "--saved-only")
    names = studio("connectors", "operations", "db", "--agent", "agent-1", "--json").json["operations"]
    assert [one["name"] for one in names] == ["first_users"]
    run = ("run", "db", "first_users", "--agent", "agent-1", "--format", "csv", "--arg")
    assert studio(*run, "most=2").out == "name\nAda\nGrace\n"
    assert studio(*run, "most=3").code == 2
    refused = studio("query", "db", "SELECT 1", "--agent", "agent-1")
    assert refused.code == 4
    assert "saved operations only" in refused.err

    assert studio("connectors", "unsave", "Main", "first_users", "--json").json["name"] == "first_users"
    assert studio("connectors", "unsave", "Main", "first_users").code == 3
    assert studio(*run, "most=2").code == 4
