"""A key that signs tokens, and until when it is believed (``docs/spec/token.md``)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from dox_core_store.server.domain.token import LEEWAY_SECONDS

__all__ = ["SigningKeyRecord", "signed_by", "verifies_until"]


class SigningKeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The public half of a signing key, by its RFC 7638 thumbprint. A retired key verifies until
    its last token has expired; a compromised one verifies nothing.
    """

    kid: str
    public_jwk: str
    created_at: datetime
    retired_at: datetime | None
    compromised_at: datetime | None


def verifies_until(key: SigningKeyRecord, last_expiry: datetime | None) -> datetime | None:
    """Until when a retired ``key`` verifies, whose last token expires then (None: it has none);
    None while it signs."""
    if key.retired_at is None or last_expiry is None:
        return key.retired_at
    return last_expiry + timedelta(seconds=LEEWAY_SECONDS)


def signed_by(issued_at: datetime, records: Sequence[SigningKeyRecord]) -> SigningKeyRecord | None:
    """The key that signed what was issued then; None if its row is gone."""
    return max((each for each in records if each.created_at <= issued_at), key=_age, default=None)


def _age(record: SigningKeyRecord) -> datetime:
    return record.created_at
