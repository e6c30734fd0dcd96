"""Requests to OpenBao or HashiCorp Vault, and what every answer means to the store.

All of it passes here: one retry where the server says that it cannot now, one deadline for all
requests of a method, no redirect, no proxy, no setting from the environment. What a request's
caller has to tell apart comes back as an `Answer`; everything else is one of our errors. Which
token a request carries is not decided here (``openbao_login``).
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast
from urllib.parse import quote

from dox_core_store.errors import ConfigurationError, DoxStoreError, error_for

__all__ = ["Answer", "BaoConnection", "Deadline", "said", "vault_refused", "vault_unavailable"]

MERGE_PATCH = "application/merge-patch+json"  # RFC 7396, what KV takes a PATCH in
_RETRY_SECONDS = 0.2
_LEAST_SECONDS = 0.01
"""What a request has at least: a deadline that has passed is found by the request before it."""
_BUSY = frozenset({412, 429, 500, 502, 503, 504})
"""Not now: 412 is a standby that has not caught up, 429 a quota (or a standby's health), 503 a
sealed one; 472 and 473 do not answer to what is asked here."""
_SEALED = 503
_TO_THE_CALLER = frozenset({400, 401, 403, 404})
_CONNECTIONS = 16
_CHUNK_BYTES = 65_536
_MAX_SHOWN = 200


class _NotNowError(Exception):
    """Worth asking once more."""


class Answer(NamedTuple):
    """``status`` is 200, 204, or one of 400, 401, 403 and 404; ``body`` is empty where none came.
    Holds values and tokens: it is passed on, never shown."""

    status: int
    body: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"Answer({self.status})"


class Deadline:
    """Until when all that is asked for one purpose has to be answered."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return max(self._until - time.monotonic(), 0.0)


class BaoConnection:
    """One server, from any number of threads. Raises ``bad_setting`` where ``ca_file`` is none."""

    def __init__(self, *, origin: str, namespace: str, ca_file: str) -> None:
        try:
            import hvac.adapters  # noqa: PLC0415 - only who has such a vault needs the library
            import requests.adapters  # noqa: PLC0415 - what hvac speaks HTTP with
            import urllib3  # noqa: PLC0415 - and what that does
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                "bad_setting",
                f"A vault at OpenBao needs {error.name}, which is not installed:"
                " pip install 'dox-core-store[openbao]'.",
            ) from None
        if ca_file and not Path(ca_file).is_file():
            raise ConfigurationError("bad_setting", f"There is no CA file {ca_file}.")
        self.origin = origin
        self._namespace = namespace.strip("/")
        self._adapter = hvac.adapters.RawAdapter
        self._timeout = urllib3.Timeout
        self._failures = (requests.RequestException, urllib3.exceptions.HTTPError)
        self._slow = requests.Timeout
        self._session = requests.Session()
        self._session.trust_env = False  # neither a proxy nor another CA because of a variable
        # hvac takes the session's over its own parameter.
        self._session.verify = ca_file or True
        pool = requests.adapters.HTTPAdapter(pool_maxsize=_CONNECTIONS)
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, pool)

    def ask(
        self,
        deadline: Deadline,
        method: str,
        path: str,
        *,
        token: str = "",
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Answer:
        """What the API answers. Raises ``vault_unavailable``."""
        try:
            return self._once(deadline, method, path, token, body, query)
        except _NotNowError as error:
            if deadline.left <= _RETRY_SECONDS:
                raise vault_unavailable(str(error)) from None
        time.sleep(_RETRY_SECONDS)
        try:
            return self._once(deadline, method, path, token, body, query)
        except _NotNowError as error:
            raise vault_unavailable(str(error)) from None

    def close(self) -> None:
        self._session.close()

    def __repr__(self) -> str:
        return f"BaoConnection({self.origin})"

    def _once(
        self,
        deadline: Deadline,
        method: str,
        path: str,
        token: str,
        body: Mapping[str, Any] | None,
        query: Mapping[str, str] | None,
    ) -> Answer:
        if not (left := deadline.left):
            raise vault_unavailable(f"{self.origin} does not answer in time.")
        adapter = self._adapter(
            base_uri=self.origin,
            token=token,
            # As requests takes it: of connecting and reading together.
            timeout=cast("Any", self._timeout(total=max(left, _LEAST_SECONDS))),
            allow_redirects=False,
            session=self._session,
            namespace=self._namespace or None,
        )
        headers = {"Content-Type": MERGE_PATCH} if method == "PATCH" else {}
        try:
            with adapter.request(
                method,
                f"v1/{quote(path)}",
                headers=headers,
                raise_exception=False,
                stream=True,
                json=body,
                params=query,
            ) as response:
                raw = _body(response.raw, deadline)
            told = json.loads(raw) if raw else {}
        except self._slow:
            raise vault_unavailable(f"{self.origin} does not answer in time.") from None
        # ValueError: neither a URL for the libraries, nor JSON. Neither may show what was sent.
        except (*self._failures, OSError, ValueError) as error:
            raise _NotNowError(f"{self.origin} does not answer: {type(error).__name__}.") from None
        return self._answer(response.status_code, told if isinstance(told, dict) else {})

    def _answer(self, status: int, body: dict[str, Any]) -> Answer:
        if status in (200, 204) or status in _TO_THE_CALLER:
            return Answer(status, body)
        if status in _BUSY:
            sealed = ": it is sealed, or no node of it leads" if status == _SEALED else ""
            raise _NotNowError(f"{self.origin} answers {status}{sealed}.")
        raise vault_unavailable(f"{self.origin} answers {status}, which is not understood.")


def said(answer: Answer) -> str:
    """The first of an answer's errors, for a person. Not for answers to what carried a value."""
    errors = answer.body.get("errors")
    first = errors[0] if isinstance(errors, list) and errors else f"status {answer.status}"
    text = "".join(each if each.isprintable() else " " for each in str(first))
    return text.strip()[:_MAX_SHOWN]


def vault_unavailable(detail: str) -> DoxStoreError:
    return error_for("vault_unavailable", detail)


def vault_refused(detail: str) -> DoxStoreError:
    return error_for("vault_refused", detail)


def _body(raw: Any, deadline: Deadline) -> bytes:
    """What comes as long as there is time: a server may send a byte now and then."""
    parts = []
    while part := raw.read1(_CHUNK_BYTES, decode_content=True):
        parts.append(part)
        if not deadline.left:
            raise TimeoutError
    return b"".join(parts)
