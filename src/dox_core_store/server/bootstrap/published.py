"""What a store says to everybody: keys to check its signatures with, its API, its errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from dox_core_store import wire
from dox_core_store.server.adapters.sql.inspection import public_checkpoint_key
from dox_core_store.server.adapters.sql.store import OpenedStore
from dox_core_store.server.usecases.principal import SigningKeys
from dox_core_store.server.web.application import Page, errors_page
from dox_core_store.server.web.desk import Route
from dox_core_store.server.web.openapi import openapi_document

__all__ = ["published_pages"]

_JSON, _HTML = "application/json", "text/html"

Content = Callable[[], tuple[str, bytes]]


def published_pages(
    *,
    store: OpenedStore,
    signing_keys: SigningKeys,
    routes: Sequence[Route],
    release: str,
) -> dict[str, Page]:
    """The pages by address."""
    checkpoint_key = wire.encode(public_checkpoint_key(store))
    document = msgspec.json.encode(openapi_document(routes, release))
    errors = errors_page()
    published: dict[str, Content] = {
        "/.well-known/jwks.json": lambda: (
            "application/jwk-set+json",
            msgspec.json.encode(signing_keys.jwks()),
        ),
        "/.well-known/checkpoint-key.json": lambda: (_JSON, checkpoint_key),
        "/openapi.json": lambda: (_JSON, document),
        "/docs/errors": lambda: (_HTML, errors),
    }
    return {at: _page(content) for at, content in published.items()}


def _page(content: Content) -> Page:
    async def page() -> tuple[int, str, bytes]:
        return (200, *content())

    return page
