"""Who may do what: every role against every need, and agents against everything that is not theirs."""

from __future__ import annotations

import itertools

import pytest

from studio.errors import Forbidden, ReadOnly
from studio.models import Effect, Principal, Role
from studio.security import policy

RANK = {Role.MEMBER: 1, Role.DEVELOPER: 2, Role.ADMIN: 3}


def person(role: Role) -> Principal:
    return Principal("acme", "key:1", role)


def agent(agent_id: str = "agent-1", role: Role = Role.MEMBER, **scope: frozenset[object]) -> Principal:
    return Principal("acme", "key:2", role, agent_id=agent_id, **scope)  # type: ignore[arg-type]


@pytest.mark.parametrize(("role", "needs"), list(itertools.product(Role, Role)))
def test_a_role_passes_where_it_is_high_enough(role: Role, needs: Role) -> None:
    if RANK[role] >= RANK[needs]:
        policy.require_role(person(role), needs)
        policy.require_agent(person(role), "agent-1", needs)
    else:
        for check in (
            lambda: policy.require_role(person(role), needs),
            lambda: policy.require_agent(person(role), "agent-1", needs),
        ):
            with pytest.raises(Forbidden, match=f"needs the role {needs}; yours is {role}"):
                check()


@pytest.mark.parametrize(("role", "needs"), list(itertools.product(Role, Role)))
def test_an_agents_key_has_no_role_whatever_stands_in_it(role: Role, needs: Role) -> None:
    with pytest.raises(Forbidden, match="belongs to an agent"):
        policy.require_role(agent(role=role), needs)


@pytest.mark.parametrize(("role", "otherwise"), list(itertools.product(Role, Role)))
def test_an_agent_reaches_itself_and_no_other_agent(role: Role, otherwise: Role) -> None:
    policy.require_agent(agent(role=role), "agent-1", otherwise)
    for other in ("agent-2", "", "AGENT-1", "agent-1 "):
        with pytest.raises(Forbidden, match="another agent"):
            policy.require_agent(agent(role=role), other, otherwise)


def test_a_key_without_a_scope_holds_every_alias_and_effect() -> None:
    assert policy.allows_alias(agent(), "db")
    assert all(policy.allows_effect(agent(), effect) for effect in Effect)


def test_a_scope_holds_what_it_names_and_nothing_else() -> None:
    limited = agent(aliases=frozenset({"db"}), effects=frozenset({Effect.READ}))
    assert [policy.allows_alias(limited, alias) for alias in ("db", "DB", "db2", "")] == [True, False, False, False]
    assert [effect for effect in Effect if policy.allows_effect(limited, effect)] == [Effect.READ]


def test_an_empty_scope_holds_nothing() -> None:
    nothing = agent(aliases=frozenset(), effects=frozenset())
    assert not policy.allows_alias(nothing, "db")
    assert not any(policy.allows_effect(nothing, effect) for effect in Effect)


@pytest.mark.parametrize(
    ("effect", "read_only", "scope"),
    list(itertools.product(Effect, (True, False), (None, frozenset({Effect.READ}), frozenset({Effect.WRITE})))),
)
def test_an_effect_passes_read_only_and_the_keys_scope(
    effect: Effect, read_only: bool, scope: frozenset[Effect] | None
) -> None:
    who = Principal("acme", "key:2", Role.MEMBER, agent_id="agent-1", effects=scope)
    free = (effect is Effect.READ or not read_only) and (scope is None or effect in scope)
    assert policy.allows(who, effect, read_only=read_only) is free
    if free:
        policy.require_effect(who, effect, read_only=read_only, attached=True)
        return
    expected = ReadOnly if effect is not Effect.READ and read_only else Forbidden
    with pytest.raises(expected):
        policy.require_effect(who, effect, read_only=read_only, attached=True)


@pytest.mark.parametrize(("attached", "where"), [(True, "attachment"), (False, "connector")])
def test_a_refused_write_says_what_to_do_next(attached: bool, where: str) -> None:
    with pytest.raises(ReadOnly, match=f"this {where} allows read operations only.*read_only=false"):
        policy.require_effect(person(Role.ADMIN), Effect.WRITE, read_only=True, attached=attached)


def test_an_admin_does_not_write_through_read_only_either() -> None:
    assert not policy.allows(person(Role.ADMIN), Effect.DELETE, read_only=True)
