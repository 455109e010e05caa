"""To whom else a bucket is open, as far as the account may ask: its ACL, and whether its policy is public.

A reading account needs neither right, so most hear nothing here; what is heard is worth knowing.
Sources: https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetBucketAcl.html, API_GetBucketPolicyStatus.html
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from studio.providers.s3.errors import error_of

_GROUPS = {
    "http://acs.amazonaws.com/groups/global/AllUsers": "everybody",
    "http://acs.amazonaws.com/groups/global/AuthenticatedUsers": "every AWS account",
}


async def open_to(client: Any, bucket: str) -> list[str]:
    """What strangers may do, in words; nothing where the service does not answer."""
    acl = await _heard(client.get_bucket_acl, bucket)
    found = [
        f"ACL of the bucket: {grant.get('Permission')} for {_GROUPS[uri]}"
        for grant in acl.get("Grants", ())
        if (uri := grant.get("Grantee", {}).get("URI")) in _GROUPS
    ]
    status = await _heard(client.get_bucket_policy_status, bucket)
    if status.get("PolicyStatus", {}).get("IsPublic") is True:
        found.append("bucket policy: it is public")
    return found


async def _heard(ask: Callable[..., Awaitable[Mapping[str, Any]]], bucket: str) -> Mapping[str, Any]:
    try:
        return await ask(Bucket=bucket)
    except Exception as exc:
        if error_of(exc) is None:
            raise
        return {}
