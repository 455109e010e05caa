"""Token buckets: bursts, rates, and a bounded memory."""

from __future__ import annotations

import pytest

from studio.errors import RateLimited
from studio.models import Principal, Role
from studio.services import rates
from studio.services.rates import Buckets, Rates
from studio.settings import Settings


def test_a_bucket_gives_its_burst_then_its_rate() -> None:
    now = [100.0]
    buckets = Buckets(10, 5, clock=lambda: now[0])
    assert [buckets.take("a") for _ in range(5)] == [0] * 5
    assert buckets.take("a") == pytest.approx(0.1)
    assert buckets.take("b") == 0  # another caller's bucket is its own
    now[0] += 0.1
    assert buckets.take("a") == 0
    assert buckets.take("a") > 0
    now[0] += 60
    assert [buckets.take("a") for _ in range(6)][-2:] == [0, pytest.approx(0.1)]  # no more than the burst is saved


def test_the_memory_of_buckets_is_bounded_and_keeps_the_emptiest() -> None:
    buckets = Buckets(1, 5, most=100, clock=lambda: 100.0)
    for _ in range(5):
        buckets.take("busy")
    for number in range(10_000):
        buckets.take(f"caller {number}")
        assert len(buckets._full_at) <= 101
    assert buckets.take("busy") > 0


def test_an_organization_with_many_keys_has_one_bound_for_all() -> None:
    bound = Rates(Settings(rate_limit_per_s=1, organization_rate_limit_per_s=2))
    keys = [Principal(organization_id="acme", subject=f"key:{number}", role=Role.MEMBER) for number in range(20)]
    with pytest.raises(RateLimited, match="this organization"):
        for key in keys:
            bound.admit(key)
    bound.admit(Principal(organization_id="beta", subject="key:0", role=Role.MEMBER))


def test_a_rate_of_zero_has_no_bound() -> None:
    bound = Rates(Settings(rate_limit_per_s=0, organization_rate_limit_per_s=0))
    for _ in range(10_000):
        bound.admit(Principal(organization_id="acme", subject="key:1", role=Role.MEMBER))


@pytest.mark.parametrize(
    ("address", "network"),
    [("192.0.2.1", "192.0.2.1"), ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"), ("::1", "::/64"), ("", "")],
)
def test_an_ipv6_caller_is_its_network(address: str, network: str) -> None:
    assert rates._network(address) == network
