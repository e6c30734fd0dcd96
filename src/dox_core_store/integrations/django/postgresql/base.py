"""Django's PostgreSQL backend, with a password that is asked for at each connection.

See `dox_core_store.integrations.django` for the settings, and `database_login` for what happens
where the database refuses. Connections that are open stay so; ``CONN_MAX_AGE`` is as ever.
"""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ImproperlyConfigured  # type: ignore[import-untyped]
from django.db.backends.postgresql import base  # type: ignore[import-untyped]

from dox_core_store.client import SyncKey
from dox_core_store.integrations.database_login import REASON, logged_in
from dox_core_store.integrations.django import KeySetting

__all__ = ["DatabaseWrapper"]


class DatabaseWrapper(base.DatabaseWrapper):  # type: ignore[misc]  # Django has no types
    def get_connection_params(self) -> dict[str, Any]:
        if self.settings_dict["OPTIONS"].get("pool") and self._follows:
            # It is given one password, when it is made.
            raise ImproperlyConfigured(
                "OPTIONS['pool'] cannot follow a password that is a key: use CONN_MAX_AGE instead."
            )
        parameters: dict[str, Any] = super().get_connection_params()
        return parameters

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        password = conn_params.get("password")
        if not isinstance(password, KeySetting):
            return super().get_new_connection(conn_params)

        def open_with(key: SyncKey) -> Any:
            parameters = {**conn_params, "password": key.value}
            return super(DatabaseWrapper, self).get_new_connection(parameters)

        return logged_in(password.get, open_with, lambda key: key.rejected(REASON))

    @property
    def _follows(self) -> bool:
        return isinstance(self.settings_dict["PASSWORD"], KeySetting)
