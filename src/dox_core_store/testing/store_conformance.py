"""What every store has to answer, wherever its catalog and its values lie: tests over HTTP.

For authors of adapters. Subclass `StoreConformance` where pytest collects it, and give it one
fixture, ``store``: an `AskedStore` of a server that runs with the adapter. It may be shared by all
tests: each makes keys of its own. What such a store answers to many operations in a row is compared
with another one by `store_play`.
"""

# ruff: noqa: S101, PLR2004 - assert is how tests speak, and statuses are numbers in them

from __future__ import annotations

from dox_core_store.testing.store_case import PREFIX, AskedStore, until
from dox_core_store.testing.store_imports import ImportConformance
from dox_core_store.testing.store_versions import VersionConformance

__all__ = ["AskedStore", "StoreConformance"]

LIMIT = 64 * 1024
"""Bytes of UTF-8 that a value may have."""

EXACT = (
    "",
    " ",
    "\n",
    "with a newline at its end\n",
    "crlf\r\n\r\n",
    "nul \0 in it",
    "null",
    '{"value": "an object"}',
    '{"user": "u", "password": "p"}',
    "\N{LINE SEPARATOR}\N{GRINNING FACE}e\N{COMBINING ACUTE ACCENT}",
    "x" * LIMIT,
    "\N{LATIN SMALL LETTER U WITH DIAERESIS}" * (LIMIT // 2),
)
"""Values that come back as they went in."""

_MANY = 24
"""More versions than a vault may keep by itself."""


class StoreConformance(VersionConformance, ImportConformance):
    """The tests; those of `VersionConformance` and `ImportConformance` too."""

    def test_every_value_comes_back_byte_for_byte(self, store: AskedStore) -> None:
        key = self.key()
        for number, value in enumerate(EXACT, start=1):
            told = store("PUT", f"/keys/{key}", {"value": value})
            assert (told.status, told.json["version"]) == (201 if number == 1 else 200, number)
            assert "value" not in told.json
            assert self.read(store, key) == (value, value)
        for number, value in enumerate(EXACT, start=1):
            assert self.read(store, key, number)[1] == value

    def test_a_value_that_is_too_large_changes_nothing(self, store: AskedStore) -> None:
        key = self.key()
        for value in ("x" * (LIMIT + 1), "\N{GRINNING FACE}" * (LIMIT // 4) + "x"):
            told = store("PUT", f"/keys/{key}", {"value": value})
            assert (told.status, told.code) == (413, "value_too_large")
        assert self.read(store, key) == ("key_not_found", "key_not_found")
        self.put(store, key, "one")
        told = self.act(store, key, "propose", value="x" * (LIMIT + 1))
        assert (told.status, told.code) == (413, "value_too_large")
        assert self.states(store, key) == {1: "current"}

    def test_a_write_may_say_which_version_it_follows(self, store: AskedStore) -> None:
        key = self.key()
        told = store("PUT", f"/keys/{key}", {"value": "x", "if_version": 1})
        assert (told.status, told.code, told.json["actual_version"]) == (409, "version_conflict", 0)
        self.put(store, key, "one", if_version=0)
        self.put(store, key, "two", if_version=1)
        for guess in (0, 1, 3):
            told = store("PUT", f"/keys/{key}", {"value": "x", "if_version": guess})
            assert (told.status, told.code) == (409, "version_conflict")
            assert told.json["actual_version"] == 2
        assert self.read(store, key) == ("two", "two")
        assert self.states(store, key) == {1: "previous", 2: "current"}

    def test_each_version_is_read_by_its_number_as_its_state_says(self, store: AskedStore) -> None:
        key = self.key()
        self.put(store, key, "one", "same", "same")
        assert self.states(store, key) == {1: "retired", 2: "previous", 3: "current"}
        assert self.read(store, key, 1) == ("version_unavailable", "one")
        assert self.read(store, key, 2) == self.read(store, key, 3) == ("same", "same")
        assert self.read(store, key, 4) == ("version_not_found", "version_not_found")
        ids = {
            store("GET", f"/keys/{key}?version={number}").json["version_id"] for number in (1, 2, 3)
        }
        assert len(ids) == 3

    def test_a_key_keeps_as_many_versions_as_it_gets(self, store: AskedStore) -> None:
        key = self.key()
        values = [f"v{number}" for number in range(1, _MANY + 1)]
        self.put(store, key, *values)
        assert [self.read(store, key, number + 1)[1] for number in range(_MANY)] == values

    def test_what_is_beyond_the_kept_ones_is_destroyed(self, store: AskedStore) -> None:
        key = self.key()
        self.put(store, key, "one", "two", "three", "four")
        told = self.act(store, key, "describe", keep_versions=1, owner="ada")
        assert (told.status, told.json["owner"], told.json["keep_versions"]) == (200, "ada", 1)
        self.put(store, key, "five")
        assert self.states(store, key) == {
            1: "destroyed", 2: "destroyed", 3: "retired", 4: "previous", 5: "current",
        }  # fmt: skip
        assert self.read(store, key, 2) == ("version_destroyed", "version_destroyed")
        assert self.read(store, key, 3)[1] == "three"

    def test_environments_have_values_of_their_own(self, store: AskedStore) -> None:
        key = self.key()
        self.put(store, key, "p")
        self.put(store, f"{key}.staging", "s")
        self.put(store, key, "s2", environment="staging")
        assert self.read(store, key) == ("p", "p")
        assert self.read(store, f"{key}.staging") == ("s2", "s2")
        assert self.states(store, key, "staging") == {1: "previous", 2: "current"}
        told = store("PUT", f"/keys/{key}.staging", {"value": "x", "environment": "production"})
        assert (told.status, told.code) == (400, "environment_conflict")
        assert self.act(store, f"{key}.staging", "revoke").status == 200
        assert self.read(store, f"{key}.staging") == ("version_revoked", "version_revoked")
        assert self.read(store, key) == ("p", "p")

    def test_a_key_may_be_the_beginning_of_another(self, store: AskedStore) -> None:
        key = self.key()
        self.put(store, key, "above")
        self.put(store, f"{key}.below.it", "below")
        self.put(store, f"{key}.below", "between")
        told = store("PUT", f"/keys/{key}.BELOW", {"value": "x"})
        assert (told.status, told.code) == (409, "case_collision")
        assert self.read(store, key)[0] == "above"
        assert self.read(store, f"{key}.below")[0] == "between"
        assert self.read(store, f"{key}.below.it")[0] == "below"

    def test_a_batch_answers_each_spelling_as_its_own_read(self, store: AskedStore) -> None:
        key, other, gone = self.key(), self.key(), self.key()
        self.put(store, key, "one")
        self.put(store, f"{other}.staging", "two")
        self.put(store, gone, "three")
        self.act(store, gone, "revoke")
        asked = [key, f"{key}.production", f"{other}.staging", other, gone, "elsewhere.k", "not ok"]
        body = {"key_paths": asked}
        told = store("POST", "/keys/batch-get", body, token=store.reader)
        assert [each["asked"] for each in told.json["keys"]] == asked
        found = [
            each["key"]["value"] if "key" in each else each["problem"]["code"]
            for each in told.json["keys"]
        ]
        assert found == [
            "one", "one", "two", "key_not_found", "version_revoked", "not_authorized",
            "malformed_path",
        ]  # fmt: skip

    def test_an_unchanged_version_is_not_sent_again(self, store: AskedStore) -> None:
        key = self.key()
        self.put(store, key, "one")
        etag = store("GET", f"/keys/{key}", token=store.reader).headers["etag"]
        again = {"If-None-Match": etag}
        assert store("GET", f"/keys/{key}", token=store.reader, headers=again).status == 304
        self.put(store, key, "one")
        assert store("GET", f"/keys/{key}", token=store.reader, headers=again).said == "one"
        self.act(store, key, "revoke")
        assert store("GET", f"/keys/{key}", token=store.reader, headers=again).status == 410

    def test_lists_have_every_key_once_in_order_and_no_value(self, store: AskedStore) -> None:
        root = self.key("list")
        names = [f"{root}.{name}" for name in ("a", "a-b", "a.b", "B", "z_", "Z0")]
        for name in names:
            self.put(store, name, "c4nary", usage="is listed")
        self.put(store, f"{names[0]}.staging", "c4nary")
        self.act(store, f"{root}.proposed", "propose", value="c4nary")
        self.act(store, names[1], "revoke")
        rows, query = [], f"?prefix={root}&limit=3"
        while query:
            told = store("GET", f"/keys{query}")
            assert "c4nary" not in str(told.json)
            rows += told.json["items"]
            more = told.json["next_cursor"]
            query = f"?prefix={root}&limit=3&cursor={more}" if more else ""
        found = [(row["key_path"], row["environment"]) for row in rows]
        assert found == sorted(found)
        assert len(found) == len(names) + 2
        states = {
            found: (row["version"], row["state"]) for found, row in zip(found, rows, strict=True)
        }
        assert states[names[1], "production"] == (1, "revoked")
        assert states[f"{root}.proposed", "production"] == (None, "pending")
        assert states[names[0], "staging"] == (1, "current")
        below = store("GET", f"/keys?prefix={names[0]}&environment=production").json["items"]
        assert [row["key_path"] for row in below] == [names[0], names[2]]

    def test_refused_requests_change_nothing(self, store: AskedStore) -> None:
        key = self.key()
        self.put(store, key, "one")
        for target, body, code in (
            (f"{key}.nowhere..x", {"value": "x"}, "malformed_path"),
            (f"{PREFIX}.{'x' * 65}", {"value": "x"}, "malformed_path"),
            (key, {"value": "x", "environment": "nowhere"}, "unknown_environment"),
            (key, {"value": "x", "unknown": 1}, "invalid_field"),
            (key, {"value": 1}, "invalid_field"),
            (key, {}, "invalid_field"),
            (key, {"value": "x", "expires_at": "2001-01-01T00:00:00Z"}, "invalid_field"),
            ("_store.x", {"value": "x"}, "reserved_path"),
        ):
            told = store("PUT", f"/keys/{target}", body)
            assert (told.status, told.code) == (400, code), target
        told = store("PUT", f"/keys/{key}", {"value": "x"}, token=store.reader)
        assert told.status == 403
        assert self.states(store, key) == {1: "current"}

    def test_the_ledger_has_each_change_and_each_read(self, store: AskedStore) -> None:
        key = self.key()
        self.put(store, key, "one", "two")
        self.read(store, key)
        self.act(store, key, "rollback", reason="broken")
        self.act(store, key, "revoke", reason="leaked")
        self.read(store, key)
        path = f"{key}.production"
        # A refusal is not waited for: it may be on record a moment later.
        entries = until(
            lambda: [each for each in store.export() if each["key_path"] == path],
            lambda found: len(found) >= 8,
        )
        found = [
            (each["action"], each["status"], each["version"], each["reason"])
            for each in entries
            if each["stream"] == "changes"
        ]
        assert found == [
            ("PUT", "GRANTED", 1, None),
            ("PUT", "GRANTED", 2, None),
            ("ROLLBACK", "GRANTED", 3, "broken"),
            ("REVOKE", "GRANTED", 3, "leaked"),
        ]
        reads = [(each["status"], each["version"]) for each in entries if each["action"] == "GET"]
        assert sorted(reads, key=str) == [("DENIED", None)] * 2 + [("GRANTED", 2)] * 2
