"""How `run` and `agent` reach the store: as a service, by its own token, and never as an operator.

The service's name is the token's own unless it is given. All keys are asked for in one round trip,
and each has its own outcome.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dox_core_store.client.credential import claims_of, source_from
from dox_core_store.client.outage import is_borne
from dox_core_store.errors import ConfigurationError, DoxStoreError
from dox_core_store.sensitive import Sensitive

if TYPE_CHECKING:
    from dox_core_store.client import Key, KeyClient

__all__ = ["ServiceName", "first_of", "is_borne", "outcomes", "service_client"]

ServiceName = Annotated[
    str | None,
    typer.Option(
        "--service",
        metavar="NAME",
        help="The service whose token it is. Needed only where there is an identity of the"
        " platform and no token. [default: the token's own]",
    ),
]


def service_client(name: str | None, *, follow: bool) -> KeyClient:
    """The client of the service ``name``. Raises `ConfigurationError`."""
    from dox_core_store.client import KeyClient

    return KeyClient(name or _own_name(), follow=follow)


async def outcomes(client: KeyClient, key_paths: Sequence[str]) -> dict[str, Key | DoxStoreError]:
    """What each of ``key_paths`` is now, or why it cannot be had."""
    try:
        return dict(await client.get_keys(key_paths))
    except DoxStoreError as error:
        failed = error.errors or dict.fromkeys(key_paths, error)
    found: dict[str, Key | DoxStoreError] = dict(failed)
    for key_path in key_paths:
        if key_path not in failed:
            try:
                found[key_path] = await client.get_key(key_path)
            except DoxStoreError as error:
                found[key_path] = error
    return {key_path: found[key_path] for key_path in key_paths}


def first_of(errors: dict[str, DoxStoreError]) -> DoxStoreError:
    """One error for all of ``errors``; the store's own answers before what may pass by itself."""
    path, first = next(
        ((path, error) for path, error in errors.items() if not is_borne(error)),
        next(iter(errors.items())),
    )
    others = len(errors) - 1
    more = f" (and {others} more of the keys asked for)" if others else ""
    named = first.detail if path in first.detail or is_borne(first) else f"{path}: {first.detail}"
    return type(first)(first.code, f"{named}{more}", request_id=first.request_id)


def _own_name() -> str:
    if not (os.environ.get("SERVICE_TOKEN") or os.environ.get("SERVICE_TOKEN_FILE")) and (
        os.environ.get("SERVICE_IDENTITY_TOKEN_FILE") or os.environ.get("SERVICE_IDENTITY_AUDIENCE")
    ):
        raise typer.BadParameter("Say --service NAME: the platform's identity does not name it.")
    source = source_from(
        os.environ, None, variable="SERVICE_TOKEN", file_variable="SERVICE_TOKEN_FILE"
    )
    claims = claims_of(_read(source) if isinstance(source, Path) else source)
    if claims is None:
        raise ConfigurationError("bad_setting", f"The token in {source} is not one of a store's.")
    return claims.sub


def _read(path: Path) -> Sensitive:
    try:
        return Sensitive(path.read_bytes()[:16_384].decode("ascii", "replace").strip())
    except OSError as error:
        raise ConfigurationError(
            "bad_setting", f"The token file {path} cannot be read: {error.strerror}."
        ) from None
