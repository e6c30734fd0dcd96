"""The token that requests to OpenBao carry: one for all threads, renewed before it expires.

At two thirds of its time a token is renewed; where that is refused, or gives no more time, one logs
in anew from the source. An answer of 403 makes one log in anew too, once for each request: but not
if the token is young and alive, for then it is the policy that does not suffice, and logging in
would only pile up leases. However many threads need a token, one gets it and the others wait.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from dox_core_store.errors import DoxStoreError
from dox_core_store.server.adapters.vaults.openbao_connection import (
    Answer,
    BaoConnection,
    Deadline,
    said,
    vault_refused,
    vault_unavailable,
)
from dox_core_store.server.adapters.vaults.openbao_credentials import Credentials

__all__ = ["BaoLogin"]

_RENEW_AT = 2 / 3
_LEAST_BETWEEN_SECONDS = 5.0
"""A renewal that failed is not tried again before."""
_YOUNG_SECONDS = 60.0
_OK = 200


class _Held(NamedTuple):
    """A token; ``expires_at`` and ``renew_at`` are of the monotonic clock, None for never."""

    token: str
    since: float
    expires_at: float | None
    renew_at: float | None
    renewable: bool

    def __repr__(self) -> str:
        return "_Held()"


class BaoLogin:
    """See above. ``credentials`` are read at each login."""

    def __init__(self, *, connection: BaoConnection, credentials: Credentials) -> None:
        self._connection = connection
        self._credentials = credentials
        self._lock = threading.Lock()
        self._held: _Held | None = None

    def token(self, deadline: Deadline) -> str:
        """One that has not expired. Raises ``vault_unavailable`` and ``vault_refused``."""
        held = self._held
        if held is None or _past(held.expires_at):
            with self._alone(deadline):
                held = self._held
                if held is None or _past(held.expires_at):
                    held = self._held = self._logged_in(deadline)
        elif _past(held.renew_at) and self._lock.acquire(blocking=False):
            try:
                if self._held is held:
                    held = self._held = self._renewed(held, deadline)
            finally:
                self._lock.release()
        return held.token

    def instead_of(self, token: str, deadline: Deadline) -> str | None:
        """Another token than ``token``, which was refused; None where that would not help."""
        with self._alone(deadline):
            held = self._held
            if held is not None and held.token != token:
                return held.token
            young = held is not None and time.monotonic() - held.since < _YOUNG_SECONDS
            if young and self._self("lookup", token, deadline).status == _OK:
                return None
            self._held = None
            held = self._held = self._logged_in(deadline)
        return held.token if held.token != token else None

    def __repr__(self) -> str:
        return f"BaoLogin({self._connection.origin})"

    @contextmanager
    def _alone(self, deadline: Deadline) -> Iterator[None]:
        if not self._lock.acquire(timeout=deadline.left):
            raise vault_unavailable("Logging in to the vault takes too long.")
        try:
            yield
        finally:
            self._lock.release()

    def _logged_in(self, deadline: Deadline) -> _Held:
        given = self._credentials.read()
        if not self._credentials.path:
            return self._given(given["token"], deadline)
        path = self._credentials.path
        answer = self._connection.ask(deadline, "POST", path, body=given)
        if answer.status != _OK:
            raise vault_refused(f"The vault refuses the login at {path}: {said(answer)}.")
        return self._issued(answer, f"the login at {path}")

    def _given(self, token: str, deadline: Deadline) -> _Held:
        """A token that somebody else made: how long it lives, it may or may not tell us."""
        answer = self._self("lookup", token, deadline)
        told = answer.body.get("data") if answer.status == _OK else None
        if not isinstance(told, dict):
            return _held(token, 0, renewable=False)
        return _held(token, told.get("ttl"), renewable=told.get("renewable") is True)

    def _renewed(self, held: _Held, deadline: Deadline) -> _Held:
        """``held`` with more time, or another; ``held`` as it is while neither can be had."""
        try:
            if held.renewable:
                answer = self._self("renew", held.token, deadline)
                if answer.status == _OK:
                    renewed = self._issued(answer, "the renewal of a token")
                    if (renewed.renew_at or 0) > time.monotonic() + _LEAST_BETWEEN_SECONDS:
                        # As old as it was: whether it is alive is asked by its age.
                        return renewed._replace(since=held.since)
            return self._logged_in(deadline)
        except DoxStoreError:
            return held._replace(renew_at=time.monotonic() + _LEAST_BETWEEN_SECONDS)

    def _issued(self, answer: Answer, what: str) -> _Held:
        auth = answer.body.get("auth")
        token = auth.get("client_token") if isinstance(auth, dict) else None
        if not isinstance(auth, dict) or not isinstance(token, str) or not token:
            raise vault_refused(f"The vault answers {what} without a token.")
        return _held(token, auth.get("lease_duration"), renewable=auth.get("renewable") is True)

    def _self(self, act: str, token: str, deadline: Deadline) -> Answer:
        method = "GET" if act == "lookup" else "POST"
        body: dict[str, str] | None = None if act == "lookup" else {}
        return self._connection.ask(
            deadline, method, f"auth/token/{act}-self", token=token, body=body
        )


def _held(token: str, seconds: Any, *, renewable: bool) -> _Held:
    now = time.monotonic()
    if not isinstance(seconds, int) or seconds <= 0:
        return _Held(token, now, None, None, renewable=False)
    return _Held(token, now, now + seconds, now + seconds * _RENEW_AT, renewable)


def _past(moment: float | None) -> bool:
    return moment is not None and moment <= time.monotonic()
