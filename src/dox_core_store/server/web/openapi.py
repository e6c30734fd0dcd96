"""The OpenAPI 3.1 document, made from the table of routes and the wire types.

OpenAPI 3.1 schemas are JSON Schema 2020-12, which msgspec writes from the very types that decode
the requests, so document and behaviour cannot part. The door's two routes are rows here too,
although no framework sees them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from dox_core_store import wire
from dox_core_store.sensitive import Sensitive
from dox_core_store.server.web.desk import Route

__all__ = ["openapi_document"]

_REFUSALS = {
    "GET": ("400", "401", "403", "429", "503"),
    "POST": ("400", "401", "403", "404", "409", "413", "429", "503"),
    "PUT": ("400", "401", "403", "409", "413", "429", "503"),
    "DELETE": ("400", "401", "403", "404", "429", "503"),
}
_PARAMETER = re.compile(r"\{(\w+)(?::str)?\}")
_JSON, _FORM = "application/json", "application/x-www-form-urlencoded"
_PROBLEM = {"$ref": "#/components/schemas/Problem"}


def openapi_document(routes: Iterable[Route], version: str) -> dict[str, Any]:
    """The whole document, as plain data."""
    rows = list(routes)
    types: list[Any] = [wire.Problem, wire.KeyValue, wire.BatchRequest, wire.Batch, wire.Health]
    types += [wire.SealStatus, wire.UnsealRequest, wire.Unsealing, wire.ChangeEvent]
    types += [kind for route in rows for kind in (route.body, route.answer) if kind is not None]
    references, components = msgspec.json.schema_components(
        types, schema_hook=_schema_hook, ref_template="#/components/schemas/{name}"
    )
    schemas = dict(zip(map(str, types), references, strict=True))
    paths: dict[str, dict[str, Any]] = _door(schemas)
    for route in rows:
        address = _PARAMETER.sub(r"{\1}", route.address)
        paths.setdefault(address, {})[route.method.lower()] = _operation(route, schemas)
    paths |= _seal(schemas)
    paths |= _events()
    health = schemas[str(wire.Health)]
    for address, summary in (("/v1/health", "The process answers"), ("/v1/ready", "It may serve")):
        paths[address] = {"get": {
            "operationId": _identifier("GET", address), "summary": summary, "security": [],
            "responses": {code: _json("Health", health) for code in ("200", "503")},
        }}  # fmt: skip
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "dox-core-store",
            "version": version,
            "description": "One place for a platform's keys, one audited door to them.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
            },
        },
    }


def _door(schemas: dict[str, Any]) -> dict[str, dict[str, Any]]:
    value, batch = schemas[str(wire.KeyValue)], schemas[str(wire.Batch)]
    number = {"name": "version", "in": "query", "schema": {"type": "integer", "minimum": 1}}
    paths = schemas[str(wire.BatchRequest)]
    asked = {"required": True, "content": {"application/json": {"schema": paths}}}
    return {
        "/v1/keys/{key_path}": {"get": {
            "operationId": "get_key",
            "summary": "Get a key's value",
            "parameters": [_in_path("key_path"), number],
            "responses": {"200": _json("The value", value),
                          "304": {"description": "The version that If-None-Match names"},
                          **_problems("400", "401", "403", "404", "410", "429", "503")},
        }},
        "/v1/keys/batch-get": {"post": {
            "operationId": "batch_get_keys",
            "summary": "Get up to 100 keys in one round trip, from one revision",
            "requestBody": asked,
            "responses": {"200": _json("A key or a problem for each", batch),
                          "304": {"description": "Each is the version that known names"},
                          **_problems("400", "401", "413", "429", "503")},
        }},
    }  # fmt: skip


def _seal(schemas: dict[str, Any]) -> dict[str, dict[str, Any]]:
    status, entered = schemas[str(wire.SealStatus)], schemas[str(wire.Unsealing)]
    entry = {"application/json": {"schema": schemas[str(wire.UnsealRequest)]}}
    return {
        "/v1/seal": {"get": {
            "operationId": "get_v1_seal",
            "summary": "Whether the store is sealed, and what would open it",
            "security": [],
            "responses": {"200": _json("The seal's state", status)},
        }},
        "/v1/seal/unseal": {"post": {
            "operationId": "post_v1_seal_unseal",
            "summary": "Enter a share or a passphrase in the ceremony that opens the store",
            "security": [],
            "requestBody": {"required": True, "content": entry},
            "responses": {"200": _json("How far it is", entered),
                          **_problems("400", "403", "404", "409", "413", "503")},
        }},
    }  # fmt: skip


def _events() -> dict[str, dict[str, Any]]:
    last = {"name": "Last-Event-ID", "in": "header", "schema": {"type": "string"}}
    told = "Events without an end; the data of `changed` and `revoked` is a ChangeEvent"
    return {
        "/v1/events": {"get": {
            "operationId": "get_v1_events",
            "summary": "Follow what changes of the keys that a service may read",
            "parameters": [last],
            "responses": {"200": _json(told, {"type": "string"}, "text/event-stream"),
                          **_problems("400", "401", "403", "429", "503")},
        }},
    }  # fmt: skip


def _operation(route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    names = _PARAMETER.findall(route.address)
    query = [
        {"name": name, "in": "query", "schema": {"type": "string"}} for name in route.parameters
    ]
    operation: dict[str, Any] = {
        "operationId": _identifier(route.method, route.address),
        "summary": route.summary,
        "parameters": [*map(_in_path, names), *query],
        "responses": {
            str(status): (
                {"description": route.summary}
                if route.answer is None
                else _json(route.summary, schemas[str(route.answer)], route.media_type)
            )
            for status in route.statuses
        }
        | _problems(
            *_REFUSALS[route.method],
            *(["404", "409"] if names else []),
            *(["410"] if route.for_services else []),
        ),
    }
    if route.body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {_FORM if route.is_form else _JSON: {"schema": schemas[str(route.body)]}},
        }
    if route.is_open:
        operation["security"] = []
        operation["responses"] |= _problems("429")
    return operation


def _identifier(method: str, address: str) -> str:
    words = re.findall(r"[a-z0-9]+", _PARAMETER.sub(r"\1", address).lower())
    return "_".join([method.lower(), *words])


def _in_path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _json(description: str, schema: Any, media_type: str = "application/json") -> dict[str, Any]:
    return {"description": description, "content": {media_type: {"schema": schema}}}


def _problems(*statuses: str) -> dict[str, Any]:
    content = {"application/problem+json": {"schema": _PROBLEM}}
    return {status: {"description": "A problem document", "content": content}
            for status in sorted(set(statuses))}  # fmt: skip


def _schema_hook(kind: type) -> dict[str, Any]:
    if kind is Sensitive:
        return {"type": "string", "format": "password"}
    raise TypeError(f"{kind.__name__} has no schema")
