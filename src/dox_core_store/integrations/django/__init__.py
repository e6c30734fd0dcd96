"""Django settings whose values the store keeps.

::

    # settings.py
    import os

    from dox_core_store import SyncKeyClient
    from dox_core_store.integrations.django import key

    KEY_CLIENT = SyncKeyClient("jules-mcp")
    SECRET_KEY = key("django.secret_key")
    DATABASES = {
        "default": {
            "ENGINE": "dox_core_store.integrations.django.postgresql",
            "HOST": os.environ["DATABASE_HOST"],
            "PORT": os.environ["DATABASE_PORT"],
            "NAME": "app",
            "USER": "app",
            "PASSWORD": key("database_passwords.app"),
        }
    }

Nothing is asked for while settings are read, so a command that needs no key needs no store. A
setting is asked for whenever it is used as a text, and so follows a change; its ``repr``, which
Django's pages for errors show, hides the value. Where a library wants a real ``str``, not something
that acts like one, ``str(settings.NAME)`` is one.

`dox_core_store.integrations.django.postgresql` is Django's own backend, but for how it logs in.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.conf import settings  # type: ignore[import-untyped]
from django.core.exceptions import ImproperlyConfigured  # type: ignore[import-untyped]
from django.utils.functional import Promise  # type: ignore[import-untyped]

from dox_core_store.client import SyncKey, SyncKeyClient
from dox_core_store.client.reader import DEFAULT_CACHE_TTL_SECONDS
from dox_core_store.sensitive import HIDDEN

__all__ = ["KeySetting", "key"]


def key(key_path: str, client: SyncKeyClient | None = None) -> KeySetting:
    """The value of ``key_path``, from ``client`` or else the one in ``settings.KEY_CLIENT``, as
    often as it is used."""
    return KeySetting(key_path, client)


class KeySetting(Promise):  # type: ignore[misc]  # what Django takes for a text that comes later
    """See `key`. Acts like the text that its key has at the moment."""

    def __init__(self, key_path: str, client: SyncKeyClient | None) -> None:
        self._key_path = key_path
        self._client = client

    def get(self, cache_ttl: float = DEFAULT_CACHE_TTL_SECONDS) -> SyncKey:
        """The key itself. Raises what `SyncKeyClient.get_key` raises."""
        client = self._client or getattr(settings, "KEY_CLIENT", None)
        if not isinstance(client, SyncKeyClient):
            raise ImproperlyConfigured(
                f"A setting is the key {self._key_path}, so KEY_CLIENT has to be a SyncKeyClient."
            )
        return client.get_key(self._key_path, cache_ttl)

    def __str__(self) -> str:
        return self.get().value

    def __repr__(self) -> str:
        return f"<key {self._key_path} value={HIDDEN}>"

    def __bool__(self) -> bool:
        return True  # that there is a value; Django asks while it starts

    def __deepcopy__(self, memo: object) -> KeySetting:
        return self

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, (str, KeySetting)) and str(self) == str(other))

    __hash__ = object.__hash__

    def __len__(self) -> int:
        return len(str(self))

    def __iter__(self) -> Iterator[str]:
        return iter(str(self))

    def __contains__(self, text: str) -> bool:
        return text in str(self)

    def __getitem__(self, place: Any) -> str:
        return str(self)[place]

    def __add__(self, other: str) -> str:
        return str(self) + other

    def __radd__(self, other: str) -> str:
        return other + str(self)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(str(self), name)
