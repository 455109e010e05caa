"""May this principal do this here? Pure functions: no store, no clock, no I/O."""

from __future__ import annotations

from collections.abc import Iterable

from studio.errors import Forbidden, InsufficientScope, ReadOnly
from studio.models import Effect, Principal, Role


def require_role(principal: Principal, needs: Role) -> None:
    """Raises Forbidden where the principal's role is lower, or where it is an agent's key."""
    if principal.agent_id is not None:
        raise Forbidden("this key belongs to an agent: it may only list and use its own connectors")
    if not principal.role.includes(needs):
        raise Forbidden(f"this needs the role {needs}; yours is {principal.role}")


def require_agent(principal: Principal, agent_id: str, otherwise: Role) -> None:
    """Allow the agent itself, or a person of role `otherwise`. Raises Forbidden.

    An agent that names another agent gets the same answer whether or not that one exists.
    """
    if principal.agent_id is None:
        require_role(principal, otherwise)
    elif principal.agent_id != agent_id:
        raise Forbidden("this key belongs to another agent: it may only list and use its own connectors")


def allows_alias(principal: Principal, alias: str) -> bool:
    """Whether the key's scope holds this alias; one outside is not found, not forbidden."""
    return principal.aliases is None or alias in principal.aliases


def allows_effect(principal: Principal, effect: Effect) -> bool:
    """Whether the key's scope holds this effect."""
    return principal.effects is None or effect in principal.effects


def allows(principal: Principal, effect: Effect, *, read_only: bool) -> bool:
    """Whether `require_effect` would pass."""
    return (effect is Effect.READ or not read_only) and allows_effect(principal, effect)


def require_effect(principal: Principal, effect: Effect, *, read_only: bool, attached: bool) -> None:
    """May this principal cause this effect here? Raises ReadOnly or Forbidden."""
    if effect is not Effect.READ and read_only:
        where = "attachment" if attached else "connector"
        raise ReadOnly(
            f"this {where} allows read operations only, and this is a {effect} operation; "
            f"ask a developer to use a connector with read_only=false"
        )
    if not allows_effect(principal, effect):
        if principal.scope_prefix is not None:
            raise InsufficientScope(
                f"the token's scopes do not allow {effect} operations; ask the issuer for one with the scope "
                f"{principal.scope_prefix}{effect}",
                scope=scopes(principal.scope_prefix, {effect, *(principal.effects or ())}),
            )
        raise Forbidden(f"this key does not allow {effect} operations; ask for a key with that effect")


def scopes(prefix: str, effects: Iterable[Effect]) -> str:
    """The scopes that allow these effects, as they stand in a challenge (RFC 6750, section 3)."""
    wanted = set(effects)
    return " ".join(f"{prefix}{effect}" for effect in Effect if effect in wanted)
