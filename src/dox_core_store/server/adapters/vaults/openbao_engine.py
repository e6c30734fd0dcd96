"""The calls of a KV engine, version 2, below one prefix, each for one purpose with one deadline.

Tells apart what the store has to: a version that is there, one that is gone, a path where nothing
ever was, and a write that came too late. Everything else is one of our errors. A 404 says two
things: nothing is there, or there is no such engine; only the latter names errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dox_core_store.server.adapters.vaults.openbao_connection import (
    Answer,
    BaoConnection,
    Deadline,
    said,
    vault_refused,
    vault_unavailable,
)
from dox_core_store.server.adapters.vaults.openbao_entry import Version
from dox_core_store.server.adapters.vaults.openbao_login import BaoLogin
from dox_core_store.server.adapters.vaults.openbao_policy import is_versioned, needed_capabilities

__all__ = ["KvEngine"]

_OK, _NO_CONTENT, _BAD, _UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND = 200, 204, 400, 401, 403, 404
_NOTHING = Version(0, "", None, {})


class KvEngine:
    """One engine and prefix, for one purpose: made anew for each."""

    def __init__(
        self,
        *,
        connection: BaoConnection,
        login: BaoLogin,
        mount: str,
        prefix: str,
        timeout_seconds: float,
    ) -> None:
        self._connection = connection
        self._login = login
        self._mount = mount
        self._prefix = prefix
        self.deadline = Deadline(timeout_seconds)

    def read(self, path: str, version: int | None = None) -> Version:
        """The newest version at ``path``, or the one asked for; number 0 if there is none."""
        query = None if version is None else {"version": str(version)}
        answer = self._ask("GET", "data", path, query=query)
        data = answer.body.get("data")
        if not isinstance(data, dict):
            return _NOTHING
        return _version(data.get("metadata"), data.get("data"))

    def described(self, path: str) -> Version:
        """What the engine knows of ``path`` beside its versions; number 0 if it knows nothing,
        and if it has no version."""
        data = self._ask("GET", "metadata", path).body.get("data")
        if not isinstance(data, dict):
            return _NOTHING
        return _version({**data, "version": data.get("current_version")}, None)

    def write(self, path: str, fields: Mapping[str, Any], after: int) -> Version | None:
        """A new version with ``fields``; None if the newest is not ``after`` any more."""
        body = {"data": fields, "options": {"cas": after}}
        answer = self._ask("POST", "data", path, body=body, late=True)
        if answer.status == _BAD:
            return None
        made = _version(answer.body.get("data"), None)
        if made.number != after + 1:
            raise vault_refused(f"{self._mount} is no KV engine of version 2.")
        return made._replace(fields=dict(fields))

    def describe(self, path: str, about: Mapping[str, str | None]) -> None:
        """Add ``about`` to what is said of ``path``, which the engine has to know; what is None
        there is taken away."""
        self._ask("PATCH", "metadata", path, body={"custom_metadata": about})

    def make(self, path: str, settings: Mapping[str, Any]) -> None:
        """Have the engine know ``path`` with ``settings``, be it with no version yet."""
        self._ask("POST", "metadata", path, body=settings)

    def hide(self, path: str, version: int) -> None:
        """Delete a version so that it can be brought back."""
        self._ask("POST", "delete", path, body={"versions": [version]})

    def destroy(self, path: str, version: int) -> None:
        self._ask("PUT", "destroy", path, body={"versions": [version]})

    def forget(self, path: str) -> None:
        """Delete everything at ``path``; nothing there is fine."""
        self._ask("DELETE", "metadata", path)

    def names(self, folder: str) -> list[str]:
        """What is in ``folder`` (empty: at the prefix); folders end in a slash."""
        data = self._ask("LIST", "metadata", folder).body.get("data")
        keys = data.get("keys") if isinstance(data, dict) else None
        return [each for each in keys if isinstance(each, str)] if isinstance(keys, list) else []

    def check(self) -> None:
        """Whether there is such an engine, and the token may do there what is needed."""
        mounted = self._allowed("GET", f"sys/internal/ui/mounts/{self._mount}")
        if mounted.status != _OK or not is_versioned(mounted):
            raise vault_refused(f"{self._mount} is no KV engine of version 2.")
        wanted = needed_capabilities(self._mount, self._prefix)
        answer = self._allowed("POST", "sys/capabilities-self", body={"paths": [*wanted]})
        has = answer.body.get("data")
        for path, capabilities in wanted.items():
            given = has.get(path) if isinstance(has, dict) else None
            missing = capabilities - set(given if isinstance(given, list) else ())
            if missing and "root" not in (given or ()):
                raise vault_refused(f"The policy lacks {', '.join(sorted(missing))} on {path}.")

    def _ask(
        self,
        method: str,
        act: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
        late: bool = False,
    ) -> Answer:
        below = "/".join(each for each in (self._prefix, path) if each)
        answer = self._allowed(method, f"{self._mount}/{act}/{below}", body, query)
        if answer.status in (_OK, _NO_CONTENT):
            return answer
        if answer.status == _NOT_FOUND:
            if answer.body.get("errors"):
                raise vault_refused(f"There is no KV engine at {self._mount}: {said(answer)}.")
            return answer
        if late and "check-and-set" in said(answer):
            return answer
        if "pgrading" in said(answer):  # for a moment after it was enabled
            raise vault_unavailable(f"The engine at {self._mount} is being made.")
        # Not what the answer says: it may quote what was sent.
        raise vault_refused(f"The vault does not take {method} on {self._mount}/{act}/{below}.")

    def _allowed(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Answer:
        """What the API answers to a token that it takes."""
        token = self._login.token(self.deadline)
        answer = self._connection.ask(
            self.deadline, method, path, token=token, body=body, query=query
        )
        if answer.status not in (_UNAUTHORIZED, _FORBIDDEN):
            return answer
        if another := self._login.instead_of(token, self.deadline):
            answer = self._connection.ask(
                self.deadline, method, path, token=another, body=body, query=query
            )
            if answer.status not in (_UNAUTHORIZED, _FORBIDDEN):
                return answer
        raise vault_refused(f"The vault refuses {method} on {path} to the store's token.")


def _version(metadata: Any, fields: Any) -> Version:
    """Raises ``vault_refused`` where this is not what version 2 of the engine answers."""
    match metadata:
        case {"version": int(number), "created_time": str(created)}:
            custom = metadata.get("custom_metadata")
            told = custom if isinstance(custom, dict) else {}
            held = fields if isinstance(fields, dict) else None
            return Version(number, created, held, told)
        case _:
            raise vault_refused("The vault answers unlike a KV engine of version 2.")
