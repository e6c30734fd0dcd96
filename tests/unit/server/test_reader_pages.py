"""Pages of records: a row that was damaged is left out, and hides nothing behind it."""

from __future__ import annotations

import contextlib
import sqlite3

from tests.unit.server.asking import Asking

from dox_core_store.server.domain.access import ServiceRecord

SERVICES = [f"svc-{number}" for number in range(7)]
DAMAGED = ("svc-1", "svc-2", "svc-3", "svc-6")


def names(asking: Asking, page_size: int) -> list[list[str]]:
    """Every page's services, as whoever loads all of them asks: until a page is not full."""
    catalog, pages, after = asking._node._backing.catalog, list[list[str]](), None
    while True:
        found = asking._runner.run(catalog.records(ServiceRecord, after, page_size))
        pages.append([record.name for record in found])
        if len(found) < page_size:
            return pages
        after = found[-1].name


def test_damaged_rows_end_no_page(asking: Asking) -> None:
    for name in SERVICES:
        asking("POST", "/v1/services", {"service_name": name})
    with contextlib.closing(sqlite3.connect(asking.data / "store.db")) as database, database:
        database.executemany(
            "UPDATE service SET limit_count = limit_count + 1 WHERE name = ?",
            [(name,) for name in DAMAGED],
        )
    whole = ["model", *(name for name in SERVICES if name not in DAMAGED)]
    for page_size in range(1, 6):
        pages = names(asking, page_size)
        assert [name for page in pages for name in page] == whole
        assert all(len(page) == page_size for page in pages[:-1])
