"""How often somebody may call: token buckets in this process.

Each replica counts for itself, so that a call costs no round trip: behind n replicas a caller has up to
n times the rate. The form is GCRA (ITU-T I.371, annex A): one number a caller, the time at which its
bucket would be full again, and nothing to refill.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable

from studio.errors import RateLimited
from studio.models import Principal
from studio.settings import Settings

BURST_S = 5.0
"""A bucket holds what its rate gives in this time."""
MOST = 20_000
"""Callers that are remembered; a full bucket need not be."""
FAILURE_BURST = 100


class Buckets:
    """A rate for each of many callers."""

    def __init__(
        self, per_s: float, burst: float, *, most: int = MOST, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._each_s = 1 / per_s if per_s else 0.0
        self._span_s = self._each_s * max(burst, 1)
        self._full_at: dict[str, float] = {}
        self._most, self._clock = most, clock

    def take(self, who: str) -> float:
        """Take one token: 0, or the seconds to wait until there is one. A rate of 0 has no bound."""
        if not self._each_s:
            return 0.0
        now = self._clock()
        full_at = self._full_at.get(who, 0.0)
        full_at = (full_at if full_at > now else now) + self._each_s
        wait = full_at - now - self._span_s
        if wait > 1e-9:
            return wait
        self._full_at[who] = full_at
        if len(self._full_at) > self._most:
            self._forget(now)
        return 0.0

    def _forget(self, now: float) -> None:
        """Forget the full buckets; where nearly all are in use, the half that is nearest to full."""
        left = {who: full_at for who, full_at in self._full_at.items() if full_at > now}
        if len(left) > self._most // 2:
            left = dict(sorted(left.items(), key=lambda one: one[1])[-self._most // 2 :])
        self._full_at = left


class Rates:
    """The bounds of one process: a principal's, its organization's, and failures' of one address."""

    def __init__(self, settings: Settings) -> None:
        self._principals = _buckets(settings.rate_limit_per_s)
        # So that one organization with very many keys does not crowd out the others.
        self._organizations = _buckets(settings.organization_rate_limit_per_s)
        self._failures = Buckets(settings.failed_login_limit_per_s, FAILURE_BURST)

    def admit(self, principal: Principal) -> None:
        """Count one call. Raises RateLimited."""
        organization = principal.organization_id or ""
        wait = self._principals.take(f"{organization}\n{principal.subject}")
        whose = "this key"
        if not wait:
            wait, whose = self._organizations.take(organization), "this organization"
        if wait:
            raise RateLimited(f"too many calls of {whose}; try again later", retry_after_s=wait)

    def failed(self, address: str) -> None:
        """Count a failed authentication from an address. Raises RateLimited in its place.

        Only failures are held up: a right key passes, whoever else calls from behind the same proxy.
        """
        if wait := self._failures.take(_network(address)):
            raise RateLimited("too many failed authentications from this address; try again later", retry_after_s=wait)


def _buckets(per_s: float) -> Buckets:
    return Buckets(per_s, per_s * BURST_S)


def _network(address: str) -> str:
    """Whom an address stands for: an IPv6 caller owns a whole /64."""
    try:
        found = ipaddress.ip_address(address.split("%")[0])
    except ValueError:
        return address  # a unix socket's, or none
    return address if found.version == 4 else str(ipaddress.ip_network((found, 64), strict=False))
