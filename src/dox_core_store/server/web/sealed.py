"""The seal over HTTP: its state for anybody, entries of a ceremony, and a node that is sealed.

`SealDesk` answers ``GET /v1/seal`` and ``POST /v1/seal/unseal``, while the store is sealed and
after. No token is asked for: nobody could verify one while it is sealed, and the ceremony's id is
what an entry needs. `SealedApplication` is all that a sealed node serves: the desk, the pages of
health and metrics, and ``sealed`` to everything else, whatever it is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from dox_core_store import wire
from dox_core_store.errors import (
    DoxStoreError,
    InvalidRequestError,
    MethodNotAllowedError,
    NotFoundError,
    StoreUnavailableError,
)
from dox_core_store.server.web.application import Page
from dox_core_store.server.web.problem import (
    internal_error,
    problem_body,
    problem_document,
    problem_headers,
)
from dox_core_store.server.web.request import (
    Receive,
    RequestIds,
    Scope,
    Send,
    parse,
    read_body,
)

__all__ = ["SEAL_ADDRESSES", "Enter", "SealDesk", "SealedApplication"]

Enter = Callable[[wire.UnsealRequest, str], Awaitable[wire.Unsealing]]
"""Takes one entry from an address."""

_STATUS = "/v1/seal"
_UNSEAL = "/v1/seal/unseal"
SEAL_ADDRESSES = (_STATUS, _UNSEAL)

_MAX_ENTRY_BYTES = 4 * 1024
_RETRY_SECONDS = 5


class SealDesk:
    """See the module."""

    def __init__(
        self,
        *,
        status: Callable[[], wire.SealStatus],
        enter: Enter,
        store_id: str,
        report: Callable[[BaseException, str], None],
        address_of: Callable[[Scope], str],
    ) -> None:
        self._address_of = address_of
        self._status = status
        self._enter = enter
        self._store_id = store_id
        self._report = report
        self._request_ids = RequestIds()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = self._request_ids()
        try:
            answer = await self._answer(scope, receive)
        except DoxStoreError as error:
            if error.status is None:
                self._report(error, request_id)
            await self.refuse(error, send, request_id)
            return
        except Exception as error:  # noqa: BLE001 - told as a fault of ours, and reported
            self._report(error, request_id)
            await self.refuse(internal_error(), send, request_id)
            return
        headers = [(b"x-request-id", request_id.encode())]
        await _send(send, 200, "application/json", wire.encode(answer), headers)

    async def refuse(self, error: DoxStoreError, send: Send, request_id: str | None = None) -> None:
        """``error`` as a problem document."""
        problem = problem_document(error, self._store_id, request_id or self._request_ids())
        await send({
            "type": "http.response.start",
            "status": problem.status,
            "headers": problem_headers(problem),
        })  # fmt: skip
        await send({"type": "http.response.body", "body": problem_body(problem)})

    async def _answer(self, scope: Scope, receive: Receive) -> wire.SealStatus | wire.Unsealing:
        path, method = scope["raw_path"].decode("latin-1"), scope["method"]
        if path == _STATUS and method == "GET":
            return self._status()
        if path == _UNSEAL and method == "POST":
            if scope["query_string"]:  # a secret in an address would end up in logs
                raise InvalidRequestError("invalid_parameter", "This takes no parameters.")
            request = parse(wire.UnsealRequest, await read_body(receive, _MAX_ENTRY_BYTES))
            return await self._enter(request, self._address_of(scope))
        if path in SEAL_ADDRESSES:
            raise MethodNotAllowedError("method_not_allowed", "This address takes another method.")
        raise NotFoundError("address_not_found", "Nothing lives at this address.")


class SealedApplication:
    """See the module. ``pages`` are those that a sealed node shows, by address."""

    def __init__(self, *, desk: SealDesk, pages: Mapping[str, Page]) -> None:
        self._desk = desk
        self._pages = {address.encode(): page for address, page in pages.items()}
        self._desk_paths = frozenset(address.encode() for address in SEAL_ADDRESSES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["raw_path"]
        if path in self._desk_paths:
            await self._desk(scope, receive, send)
            return
        page = self._pages.get(path)
        if page is not None and scope["method"] == "GET":
            status, media_type, body = await page()
            await _send(send, status, media_type, body, [])
            return
        sealed = StoreUnavailableError(
            "sealed",
            "The store is sealed; nothing is served until it is opened.",
            retry_after_seconds=_RETRY_SECONDS,
        )
        await self._desk.refuse(sealed, send)


async def _send(
    send: Send, status: int, media_type: str, body: bytes, more: list[tuple[bytes, bytes]]
) -> None:
    headers = [(b"content-type", media_type.encode()), (b"cache-control", b"no-store"), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
