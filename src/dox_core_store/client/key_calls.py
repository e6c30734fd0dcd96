"""`KeyCalls`: the keys themselves. Versions, their states and times, what is said of keys, and
imports."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Literal

from dox_core_store import wire
from dox_core_store.client.key_import import KeyImport
from dox_core_store.client.operator_calls import OperatorCalls, as_utc
from dox_core_store.client.protocol import check_spelling
from dox_core_store.sensitive import Sensitive

__all__ = ["KeyCalls"]


class KeyCalls(OperatorCalls):
    """Calls about keys. A path may end in an environment, or ``environment`` may name it."""

    async def store_key(
        self,
        key_path: str,
        value: str | Sensitive,
        environment: str | None = None,
        *,
        if_version: int | None = None,
        owner: str | None = None,
        usage: str | None = None,
        expires_at: datetime | None = None,
        reason: str | None = None,
    ) -> wire.KeyWritten:
        """A new current version; with ``if_version`` only if that is the current one now."""
        secret = value if isinstance(value, Sensitive) else Sensitive(value)
        del value  # an error below must not find it among the variables of this call
        body = wire.PutKeyRequest(
            value=secret,
            environment=environment,
            if_version=if_version,
            owner=owner,
            usage=usage,
            expires_at=None if expires_at is None else as_utc(expires_at),
            reason=reason,
        )
        return await self._call("PUT", _key(key_path), body, wire.KeyWritten)

    async def get_key(self, key_path: str, version: int | None = None) -> wire.KeyValue:
        """One version with its value, from the store in any case; on record as this operator's."""
        query = {"version": version}
        return await self._call("GET", _key(key_path), None, wire.KeyValue, query=query)

    def list_keys(
        self,
        prefix: str | None = None,
        environment: str | None = None,
        page_size: int | None = None,
    ) -> AsyncIterator[wire.KeySummary]:
        """Keys under ``prefix``, without values."""
        return self._pages(
            "/v1/keys",
            wire.Page[wire.KeySummary],
            {"prefix": prefix, "environment": environment, "limit": page_size},
        )

    def versions(
        self, key_path: str, environment: str | None = None
    ) -> AsyncIterator[wire.KeyVersion]:
        """Every version of a key."""
        return self._pages(
            _key(key_path, "versions"), wire.Page[wire.KeyVersion], {"environment": environment}
        )

    async def description(
        self, key_path: str, environment: str | None = None
    ) -> wire.KeyDescription:
        """All about a key but its values: whose it is, its times, and every version's state."""
        query = {"environment": environment}
        path = _key(key_path, "description")
        return await self._call("GET", path, None, wire.KeyDescription, query=query)

    async def describe(
        self,
        key_path: str,
        environment: str | None = None,
        *,
        owner: str | None = None,
        usage: str | None = None,
        keep_versions: int | Literal["default"] | None = None,
        verified: bool = False,
        reason: str | None = None,
    ) -> wire.KeyDescription:
        """Say whose a key is, what it is for, how many versions that are out of use it keeps (0:
        all), and that a restored one still opens what it is for. None leaves a thing as it is."""
        body = wire.DescribeRequest(
            environment=environment,
            owner=owner,
            usage=usage,
            keep_versions=keep_versions,
            verified=verified,
            reason=reason,
        )
        return await self._call("POST", _key(key_path, "describe"), body, wire.KeyDescription)

    async def set_key_limit(
        self,
        key_path: str,
        limit: str,
        burst: int | None = None,
        environment: str | None = None,
        reason: str | None = None,
    ) -> wire.KeyDescription:
        """Limit how fast all services together may read a key, for example to ``60/min``."""
        body = wire.KeyLimitRequest(
            limit=limit, burst=burst, environment=environment, reason=reason
        )
        return await self._call("PUT", _key(key_path, "limit"), body, wire.KeyDescription)

    async def remove_key_limit(
        self, key_path: str, environment: str | None = None, reason: str | None = None
    ) -> wire.KeyDescription:
        """Take a key's own limit away; its readers' limits stay."""
        query = {"environment": environment, "reason": reason}
        return await self._call(
            "DELETE", _key(key_path, "limit"), None, wire.KeyDescription, query=query
        )

    async def propose(
        self,
        key_path: str,
        value: str | Sensitive,
        environment: str | None = None,
        *,
        expires_at: datetime | None = None,
        reason: str | None = None,
    ) -> wire.KeyWritten:
        """A new version that nobody is handed before it is promoted."""
        secret = value if isinstance(value, Sensitive) else Sensitive(value)
        del value  # an error below must not find it among the variables of this call
        body = wire.ProposeRequest(
            value=secret,
            environment=environment,
            expires_at=None if expires_at is None else as_utc(expires_at),
            reason=reason,
        )
        return await self._call("POST", _key(key_path, "propose"), body, wire.KeyWritten)

    async def promote(
        self,
        key_path: str,
        version: int | None = None,
        environment: str | None = None,
        if_version: int | None = None,
        reason: str | None = None,
    ) -> wire.KeyWritten:
        """Make a pending version current; by default the only one that is pending."""
        body = wire.PromoteRequest(
            version=version, environment=environment, if_version=if_version, reason=reason
        )
        return await self._call("POST", _key(key_path, "promote"), body, wire.KeyWritten)

    async def rollback(
        self,
        key_path: str,
        to_version: int | None = None,
        environment: str | None = None,
        if_version: int | None = None,
        reason: str | None = None,
    ) -> wire.KeyWritten:
        """A new version with an old value; by default the one before the current."""
        body = wire.RollbackRequest(
            to_version=to_version, environment=environment, if_version=if_version, reason=reason
        )
        return await self._call("POST", _key(key_path, "rollback"), body, wire.KeyWritten)

    async def retire(
        self,
        key_path: str,
        version: int | None = None,
        environment: str | None = None,
        reason: str | None = None,
    ) -> wire.KeyWritten:
        """End a previous version's overlap: services are not handed it any more."""
        body = wire.VersionRequest(version=version, environment=environment, reason=reason)
        return await self._call("POST", _key(key_path, "retire"), body, wire.KeyWritten)

    async def revoke(
        self,
        key_path: str,
        version: int | None = None,
        environment: str | None = None,
        reason: str | None = None,
    ) -> wire.KeyWritten:
        """Hand a version out nowhere any more, at once and for ever."""
        body = wire.VersionRequest(version=version, environment=environment, reason=reason)
        return await self._call("POST", _key(key_path, "revoke"), body, wire.KeyWritten)

    async def destroy(
        self,
        key_path: str,
        version: int | None = None,
        environment: str | None = None,
        reason: str | None = None,
    ) -> wire.KeyWritten:
        """Erase a version's value. Nothing brings it back."""
        body = wire.VersionRequest(version=version, environment=environment, reason=reason)
        return await self._call("POST", _key(key_path, "destroy"), body, wire.KeyWritten)

    async def expire(
        self, key_path: str, environment: str | None = None, reason: str | None = None
    ) -> wire.KeyWritten:
        """End the current version's life now; extending it brings it back."""
        body = wire.ExpireRequest(environment=environment, reason=reason)
        return await self._call("POST", _key(key_path, "expire"), body, wire.KeyWritten)

    async def extend(
        self,
        key_path: str,
        expires_at: datetime,
        environment: str | None = None,
        reason: str | None = None,
    ) -> wire.KeyWritten:
        """Move the current version's expiry."""
        body = wire.ExtendRequest(
            expires_at=as_utc(expires_at), environment=environment, reason=reason
        )
        return await self._call("POST", _key(key_path, "extend"), body, wire.KeyWritten)

    async def open_import(self) -> KeyImport:
        """Begin an import: many keys that become visible together, or not at all."""
        opened = await self._call("POST", "/v1/imports", None, wire.ImportResult)
        return KeyImport(opened.import_id, call=self._call)


def _key(key_path: str, what: str | None = None) -> str:
    path = f"/v1/keys/{check_spelling(key_path)}"
    return path if what is None else f"{path}/{what}"
