"""What every store has to make of imports, and of keys that come by one: part of
`StoreConformance`."""

# ruff: noqa: S101, PLR2004 - assert is how tests speak, and statuses are numbers in them

from __future__ import annotations

from typing import Any

from dox_core_store.testing.store_case import AskedStore, StoreCase

__all__ = ["ImportConformance"]


class ImportConformance(StoreCase):
    """The tests."""

    def begun(self, store: AskedStore) -> str:
        told = store("POST", "/imports")
        assert told.status == 201
        return str(told.json["import_id"])

    def add(self, store: AskedStore, at: str, sequence: int, **values: str) -> Any:
        """A slice of ``values`` by path, with ``__`` for a dot; the counts, or the code."""
        entries = [
            {"key_path": path.replace("__", "."), "environment": "production", "value": value}
            for path, value in values.items()
        ]
        body = {"sequence": sequence, "entries": entries}
        told = store("POST", f"/imports/{at}/entries", body)
        if told.code is not None:
            return told.code
        return tuple(told.json[name] for name in ("created", "replaced", "unchanged"))

    def test_an_import_is_visible_all_at_once(self, store: AskedStore) -> None:
        old, same, new = self.key(), self.key(), self.key()
        self.put(store, old, "before")
        self.put(store, same, "same")
        at = self.begun(store)
        assert self.add(store, at, 0, **{old: "after", same: "same"}) == (0, 1, 1)
        many = {f"{new}.n{number}": f"v{number}" for number in range(30)}
        assert self.add(store, at, 1, **many) == (30, 1, 1)
        assert self.add(store, at, 1, **many) == (30, 1, 1), "sent again"
        assert self.read(store, old) == ("before", "before")
        assert self.read(store, f"{new}.n7") == ("key_not_found", "key_not_found")
        for _ in range(2):
            told = store("POST", f"/imports/{at}/commit", {})
            assert (told.status, told.json["status"]) == (200, "committed")
        assert self.read(store, old) == ("after", "after")
        assert self.read(store, old, 1) == ("before", "before")
        assert self.states(store, same) == {1: "current"}
        for path, value in many.items():
            assert self.read(store, path)[1] == value
        assert store("POST", f"/imports/{at}/abort", {}).code == "import_not_found"

    def test_an_import_that_is_aborted_leaves_nothing(self, store: AskedStore) -> None:
        old, new = self.key(), self.key()
        self.put(store, old, "before")
        at = self.begun(store)
        assert self.add(store, at, 0, **{old: "after", new: "new"}) == (1, 1, 0)
        told = store("POST", f"/imports/{at}/abort", {})
        assert (told.status, told.json["status"]) == (200, "aborted")
        assert store("POST", f"/imports/{at}/commit", {}).code == "import_not_found"
        assert self.read(store, old) == ("before", "before")
        assert self.states(store, old) == {1: "current"}
        assert self.read(store, new) == ("key_not_found", "key_not_found")
        self.put(store, new, "new", if_version=0)
        assert self.read(store, new) == ("new", "new")

    def test_an_import_overwrites_nothing_unseen(self, store: AskedStore) -> None:
        old, new = self.key(), self.key()
        self.put(store, old, "before")
        at = self.begun(store)
        self.add(store, at, 0, **{old: "after", new: "new"})
        self.put(store, old, "meanwhile")
        told = store("POST", f"/imports/{at}/commit", {})
        assert (told.status, told.code) == (409, "version_conflict")
        assert self.read(store, old) == ("meanwhile", "meanwhile")
        assert self.read(store, new) == ("key_not_found", "key_not_found")
        assert store("POST", f"/imports/{at}/abort", {}).status == 200

    def test_a_slice_that_is_refused_stages_nothing(self, store: AskedStore) -> None:
        good, at = self.key(), self.begun(store)
        assert self.add(store, at, 0, **{good: "x", "not ok": "x"}) == "malformed_path"
        assert self.add(store, at, 0, **{good: "x" * (64 * 1024 + 1)}) == "value_too_large"
        assert self.add(store, at, 0, **{good: "x", "_store.x": "x"}) == "reserved_path"
        assert self.add(store, at, 0, **{good: "x", good.upper(): "x"}) == "case_collision"
        assert self.add(store, at, 1, **{good: "x"}) == "version_conflict"
        assert self.add(store, at, 0, **{good: ""}) == (1, 0, 0)
        assert self.add(store, at, 1, **{good: "another"}) == "malformed_import"
        assert store("POST", f"/imports/{at}/commit", {}).status == 200
        assert self.read(store, good) == ("", "")
        assert self.states(store, good) == {1: "current"}
        assert store("POST", "/imports/imp_none/commit", {}).code == "import_not_found"
