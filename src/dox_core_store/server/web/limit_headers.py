"""What an answer says of the limits that it was counted under.

``RateLimit-Policy`` and ``RateLimit`` of draft-ietf-httpapi-ratelimit-headers-10: an item for the
service and, where it has a limit of its own, one for the key. A batch has one item for all its
keys: of the one with the least left.
"""

from __future__ import annotations

from collections.abc import Iterable

from dox_core_store.errors import DoxStoreError
from dox_core_store.server.domain.limit import Verdict
from dox_core_store.server.usecases.key_limiter import verdict_of_key
from dox_core_store.server.usecases.reveal import Revealed

__all__ = ["limit_headers", "of_key", "tightest"]


def limit_headers(
    of_service: Verdict | None, of_key: Verdict | None = None
) -> list[tuple[bytes, bytes]]:
    """The two headers; none for whom no limit holds."""
    if of_service is None:
        return []
    policy = of_service.policy
    if of_key is None:  # written out, for every read comes through here
        reset = int(of_service.reset_seconds + 0.999)
        left = b"%b;r=%d;t=%d" % (policy.name, of_service.remaining, reset)
        return [(b"ratelimit-policy", policy.item), (b"ratelimit", left)]
    return [
        (b"ratelimit-policy", b"%b, %b" % (policy.item, of_key.policy.item)),
        (b"ratelimit", b"%b, %b" % (_left(of_service), _left(of_key))),
    ]


def of_key(found: Revealed | DoxStoreError) -> Verdict | None:
    """What the key's own limit said, if it was asked."""
    return found.verdict if isinstance(found, Revealed) else verdict_of_key(found)


def tightest(found: Iterable[Revealed | DoxStoreError]) -> Verdict | None:
    """What is told of the keys' own limits in a batch."""
    verdicts = [verdict for verdict in map(of_key, found) if verdict is not None]
    return min(verdicts, key=lambda verdict: verdict.remaining, default=None)


def _left(verdict: Verdict) -> bytes:
    reset = int(verdict.reset_seconds + 0.999)
    return b"%b;r=%d;t=%d" % (verdict.policy.name, verdict.remaining, reset)
