"""The framework's part: Litestar routes the table's addresses to the desk, and serves the pages
that need no token (health, readiness, metrics, JWKS, OpenAPI, the documentation of errors).

Litestar is a router here and nothing more: bodies, errors and documents are ours, so that they are
the same at the door and behind it. Its own logging, OpenAPI and exception pages are off.
"""

from __future__ import annotations

import html
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any

from litestar import Litestar, Request, Response
from litestar.enums import HttpMethod
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException
from litestar.handlers import ASGIRouteHandler, HTTPRouteHandler
from litestar.response import Stream

from dox_core_store.errors import (
    CODES,
    DoxStoreError,
    InvalidRequestError,
    MethodNotAllowedError,
    NotFoundError,
)
from dox_core_store.server.web.desk import Answered, Desk, Route
from dox_core_store.server.web.problem import internal_error
from dox_core_store.server.web.request import Receive, Scope, Send

__all__ = ["Application", "Page", "build_application", "errors_page"]

Application = Callable[[Scope, Receive, Send], Awaitable[None]]
Page = Callable[[], Awaitable[tuple[int, str, bytes]]]
"""A page without a token: status, media type, body."""


def build_application(
    *,
    routes: Iterable[Route],
    desk: Desk,
    pages: Mapping[str, Page],
    others: Mapping[str, Application] | None = None,
) -> Application:
    """The ASGI application behind the door. ``others`` own their addresses, by every method."""

    def refuse(_request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
        return _response(desk.problem(_translated(error)))

    rows = list(routes)
    addresses = dict.fromkeys([*(route.address for route in rows), *pages])
    application: Any = Litestar(
        route_handlers=[
            *map(_no_options, addresses),  # first, or the framework has its own by then
            *(_endpoint(route, desk) for route in rows),
            *(_page(address, page) for address, page in pages.items()),
            *(_other(address, other) for address, other in (others or {}).items()),
        ],
        exception_handlers={HTTPException: refuse},
        openapi_config=None,
        logging_config=None,
        debug=False,
    )
    behind: Application = application
    return behind


def errors_page() -> bytes:
    """``/docs/errors``: where every problem's ``type`` leads."""
    rows = "".join(
        f"<dt id={code!r}><code>{code}</code> {kind.error.status or ''}</dt>"
        f"<dd><b>{html.escape(kind.title)}.</b> {html.escape(kind.remedy)}</dd>"
        for code, kind in CODES.items()
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>dox-core-store: errors</title>"
        "<style>body{font:16px/1.5 system-ui;max-width:46rem;margin:2rem auto;padding:0 1rem}"
        "dt{margin-top:1rem}dd{margin:0}dt:target{background:#fe9}</style>"
        f"<h1>Errors</h1><p>Every code, what it means and what to do.</p><dl>{rows}</dl>"
    ).encode()


def _endpoint(route: Route, desk: Desk) -> HTTPRouteHandler:
    async def handle(request: Request[Any, Any, Any]) -> Response[Any]:
        scope: Any = request.scope
        receive: Any = request.receive
        return _response(await desk.answer(route, request.path_params, scope, receive))

    return HTTPRouteHandler(
        route.address,
        http_method=HttpMethod(route.method),
        status_code=200,  # of the declaration only; every response brings its own
        name=f"{route.method} {route.address}",
    )(handle)


def _page(address: str, page: Page) -> HTTPRouteHandler:
    async def handle() -> Response[bytes]:
        status, media_type, body = await page()
        headers = {"cache-control": "no-store"}
        return Response(body, status_code=status, media_type=media_type, headers=headers)

    return HTTPRouteHandler(address, http_method=HttpMethod.GET, name=f"GET {address}")(handle)


def _no_options(address: str) -> HTTPRouteHandler:
    """The framework would answer OPTIONS itself: to anyone, in a form of its own, and without the
    methods that the door takes."""

    async def handle() -> None:
        raise MethodNotAllowedException

    return HTTPRouteHandler(address, http_method=HttpMethod.OPTIONS, name=f"OPTIONS {address}")(
        handle
    )


def _other(address: str, application: Application) -> ASGIRouteHandler:
    async def handle(scope: Any, receive: Any, send: Any) -> None:
        await application(scope, receive, send)

    return ASGIRouteHandler(address, name=address, is_mount=False, copy_scope=False)(handle)


def _response(answered: Answered) -> Response[Any]:
    headers = {name.decode(): value.decode() for name, value in answered.headers}
    media_type = headers.pop("content-type", "")
    if isinstance(answered.body, AsyncIterator):
        return Stream(
            answered.body, status_code=answered.status, headers=headers, media_type=media_type
        )
    return Response(
        answered.body or None,
        status_code=answered.status,
        headers=headers,
        media_type=media_type or None,
    )


def _translated(error: Exception) -> DoxStoreError:
    """The framework's own refusals as ours."""
    if isinstance(error, NotFoundException):
        return NotFoundError("address_not_found", "Nothing lives at this address.")
    if isinstance(error, MethodNotAllowedException):
        return MethodNotAllowedError("method_not_allowed", "This address takes another method.")
    if isinstance(error, HTTPException) and error.status_code < 500:
        return InvalidRequestError("invalid_parameter", "The request cannot be understood.")
    return internal_error()
