"""What a call is about, and whether it may be: resolve the alias, look the operation up, ask policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from studio.contract import Operation
from studio.errors import BadRequest, Forbidden, Inactive, NotFound, OverrideNotAllowed
from studio.models import Connector, ConnectorInstance, Effect, Principal, Role
from studio.security import policy
from studio.services.configs import Effective
from studio.services.core import Core
from studio.services.saved import Saved
from studio.store.store import Scope

NO_ALIAS = "no connector is attached to this agent under this alias"
SAVED_ONLY = "this attachment allows saved operations only; the list of its operations names them"


@dataclass(frozen=True)
class Target:
    """What a call is about: a connector, through an attachment or directly.

    `saved` is the saved operation that the call names, where it names one.
    """

    connector: Connector
    instance: ConnectorInstance | None
    effective: Effective
    saved: Saved | None = None

    @property
    def saved_only(self) -> bool:
        """Whether nothing but saved operations may run here."""
        return self.instance is not None and bool(self.instance.saved_only)

    @property
    def timeout_s(self) -> float:
        """Deadline of one operation here, before the server's ceiling."""
        return float(self.effective["timeout_s"])


@dataclass(frozen=True)
class Planned:
    """A call that policy has allowed: who asks, the operation, its validated arguments and its effect.

    `name` is the operation's as it was asked for, which may be a saved one's.
    """

    target: Target
    operation: Operation
    arguments: Mapping[str, Any]
    principal: Principal
    name: str
    effect: Effect


async def by_alias(core: Core, scope: Scope, principal: Principal, agent_id: str, alias: str) -> Target:
    """The connector that an agent knows under an alias. Raises NotFound."""
    found = await scope.attachment(agent_id, alias) if policy.allows_alias(principal, alias) else []
    if not found:
        raise NotFound(NO_ALIAS)
    if len(found) > 1:
        raise BadRequest("several organizations have such an agent and alias: name the organization_id")
    instance, connector = found[0]
    return Target(connector, instance, core.configs.effective(connector, instance))


def plan(
    principal: Principal, target: Target, name: str, arguments: Mapping[str, Any], *, raw: bool = False
) -> Planned:
    """Look the operation up, validate its arguments, and ask policy. `raw` asks for the form that moves bytes.

    A saved operation becomes a call of the provider's own one, and is judged as that.

    Raises:
        OperationNotSupported, InvalidRequest, Inactive, OverrideNotAllowed, ReadOnly, Forbidden.
    """
    asked = name
    if target.saved is not None and target.saved.name == name:
        name, arguments = target.saved.call(target.effective, target.connector, target.instance, arguments)
    elif target.saved_only:
        raise Forbidden(SAVED_ONLY)
    kind = target.effective.kind
    operation = kind.byte_form(name) if raw else kind.operation(name, target.effective.operations)
    _require_usable(target)
    parsed = operation.parse(arguments)
    effect = operation.effect_of(parsed)
    _require_effect(principal, target, effect)
    return Planned(target, operation, parsed, principal, asked, effect)


def require_still(principal: Principal, target: Target, effect: Effect) -> None:
    """Judge an operation that runs by who asks and what is there by now. Raises what `plan` and `by_alias` raise."""
    if target.instance is None:
        policy.require_role(principal, Role.DEVELOPER)
    else:
        policy.require_agent(principal, target.instance.agent_id, Role.DEVELOPER)
        if not policy.allows_alias(principal, target.instance.alias):
            raise NotFound(NO_ALIAS)
    _require_usable(target)
    _require_effect(principal, target, effect)


def _require_usable(target: Target) -> None:
    if target.connector.status == "inactive":
        raise Inactive("the connector is switched off; an admin can set its status to active")
    if target.effective.unfit:
        raise OverrideNotAllowed.at(
            f"config_override.{target.effective.unfit[0]}",
            "does not lie within the connector's own value any more; ask a developer to attach it again",
        )


def _require_effect(principal: Principal, target: Target, effect: Effect) -> None:
    read_only = bool(target.effective["read_only"])
    policy.require_effect(principal, effect, read_only=read_only, attached=target.instance is not None)


def plan_query(principal: Principal, target: Target, query: str, params: Mapping[str, Any] | None) -> Planned:
    """As `plan`, for a statement in the provider's own language."""
    name, arguments = target.effective.kind.native(query, params)
    return plan(principal, target, name, arguments)
