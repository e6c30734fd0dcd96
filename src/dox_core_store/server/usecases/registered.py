"""Whether a service was ever registered, for lists that are asked for one service only.

A name that is mistyped would give an empty list, which says that all is well. A decommissioned
service stays known. The database is asked, so a service counts from its registration on.
"""

from __future__ import annotations

from dox_core_store.errors import NotFoundError
from dox_core_store.key_path import check_service_name
from dox_core_store.server.domain.access import ServiceRecord
from dox_core_store.server.ports import Catalog

__all__ = ["check_registered"]


async def check_registered(catalog: Catalog, name: str) -> str:
    """``name``, if a service has or had it. Raises ``invalid_field``, ``service_not_found``."""
    check_service_name(name)
    if not await catalog.records(ServiceRecord, None, 1, name=name):
        raise NotFoundError("service_not_found", f"There is no service {name}.")
    return name
