"""`Key`: one key as a service holds it.

The value is a plain text, since that is what every library wants; what protects it is that the
object around it shows it nowhere by accident: not in ``repr``, not in a format string, not by
pickling or copying, and not to serialisers that take objects apart (so it is no dataclass).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Literal, Never

from dox_core_store.sensitive import HIDDEN
from dox_core_store.wire import KeyValue

__all__ = ["Key", "Source"]

Source = Literal["service", "cache", "outage"]
"""Who answered: the store just now, this process's cache, or what was kept for an outage."""


class Key:
    """One version of a key. Immutable; its identity is ``version_id``, not its value."""

    __slots__ = (
        "_fetched_at",
        "_monotonic",
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
    _monotonic: Callable[[], float]

    def __init__(
        self,
        answer: KeyValue,
        *,
        source: Source,
        fetched_at: float,
        monotonic: Callable[[], float],
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
        put(self, "_monotonic", monotonic)

    @property
    def age_seconds(self) -> float:
        """Seconds since the store was asked for it: the value was true at that moment or later."""
        return self._monotonic() - self._fetched_at

    def __repr__(self) -> str:
        return (
            f"<Key {self.key_path} environment={self.environment} version={self.version} "
            f"source={self.source} value={HIDDEN}>"
        )

    def __setattr__(self, name: str, value: object) -> Never:
        raise AttributeError("a Key is immutable")

    def __delattr__(self, name: str) -> Never:
        raise AttributeError("a Key is immutable")

    def __reduce_ex__(self, protocol: object) -> Never:
        raise TypeError("a Key is never pickled or copied: it holds a secret")
