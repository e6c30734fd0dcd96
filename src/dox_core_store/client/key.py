"""`Key`: one key as a service holds it.

The value is a plain text, since that is what every library wants; what protects it is that the
object around it shows it nowhere by accident: not in ``repr``, not in a format string, not by
pickling or copying, and not to serialisers that take objects apart (so it is no dataclass).

`Key` is what `KeyClient` hands out and `SyncKey` what `SyncKeyClient` does: they differ in how
`rejected` is called.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any, Literal, Never, Protocol, Self, TypeVar

from dox_core_store.sensitive import HIDDEN
from dox_core_store.wire import KeyValue

__all__ = ["HeldKey", "Key", "Owner", "Source", "SyncKey"]

Source = Literal["service", "cache", "outage"]
"""Who answered: the store just now, this process's cache, or what was kept for an outage."""

K = TypeVar("K", bound="HeldKey")


class Owner(Protocol):
    """Who handed a key out, and takes it back."""

    elapsed: Callable[[], float]
    """Seconds that pass, also while the machine sleeps."""

    def refused(self, key: K, reason: str) -> Coroutine[Any, Any, K]:
        """See `Key.rejected`."""

    def wait_for(self, work: Coroutine[Any, Any, K]) -> K:
        """What ``work`` comes to, where the caller has no event loop."""


class HeldKey:
    """One version of a key. Immutable; its identity is ``version_id``, not its value."""

    __slots__ = (
        "_fetched_at",
        "_owner",
        "environment",
        "expires_at",
        "key_path",
        "source",
        "state",
        "value",
        "version",
        "version_id",
    )

    key_path: str
    """The canonical path, without an environment."""
    environment: str
    value: str
    version: int
    version_id: str
    state: str
    expires_at: datetime | None
    source: Source

    _fetched_at: float
    _owner: Owner

    def __init__(
        self, answer: KeyValue, *, source: Source, fetched_at: float, owner: Owner
    ) -> None:
        put = object.__setattr__
        put(self, "key_path", answer.key_path)
        put(self, "environment", answer.environment)
        put(self, "value", answer.value.reveal())
        put(self, "version", answer.version)
        put(self, "version_id", answer.version_id)
        put(self, "state", answer.state)
        put(self, "expires_at", answer.expires_at)
        put(self, "source", source)
        put(self, "_fetched_at", fetched_at)
        put(self, "_owner", owner)

    @property
    def age_seconds(self) -> float:
        """Seconds since the store was asked for it: the value was true at that moment or later."""
        return self._owner.elapsed() - self._fetched_at

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self.key_path} environment={self.environment} "
            f"version={self.version} source={self.source} value={HIDDEN}>"
        )

    def __setattr__(self, name: str, value: object) -> Never:
        raise AttributeError("a Key is immutable")

    def __delattr__(self, name: str) -> Never:
        raise AttributeError("a Key is immutable")

    def __reduce_ex__(self, protocol: object) -> Never:
        raise TypeError("a Key is never pickled or copied: it holds a secret")


class Key(HeldKey):
    """See `HeldKey`."""

    __slots__ = ()

    async def rejected(self, reason: str = "") -> Self:
        """Tell the store that whoever the key is for refused this value, and get what to use now:
        the current version, if it is another one by now, else the other one that still holds.

        Nothing changes in the store but a count. However many callers say so of one version, the
        store is asked once. Raises `NotFoundError` ``version_not_found`` where there is no other
        value, and what `KeyClient.get_key` raises.
        """
        return await self._owner.refused(self, reason)


class SyncKey(HeldKey):
    """See `HeldKey`."""

    __slots__ = ()

    def rejected(self, reason: str = "") -> Self:
        """As `Key.rejected`, for callers without an event loop."""
        return self._owner.wait_for(self._owner.refused(self, reason))
