"""What may become of a key's versions in every store, and what may not: part of
`StoreConformance`."""

# ruff: noqa: S101, PLR2004 - assert is how tests speak, and statuses are numbers in them

from __future__ import annotations

from dox_core_store.testing.store_case import AskedStore, StoreCase

__all__ = ["VersionConformance"]


class VersionConformance(StoreCase):
    """The tests."""

    def test_a_proposed_version_is_nobodys_before_it_is_promoted(self, store: AskedStore) -> None:
        key = self.key()
        assert self.act(store, key, "propose", value="one").json["state"] == "pending"
        assert self.read(store, key) == ("key_not_found", "key_not_found")
        assert self.read(store, key, 1) == ("version_unavailable", "version_unavailable")
        told = self.act(store, key, "promote")
        assert (told.status, told.json["version"], told.json["state"]) == (200, 1, "current")
        assert self.read(store, key) == ("one", "one")
        self.act(store, key, "propose", value="two")
        self.act(store, key, "propose", value="three")
        assert self.act(store, key, "promote").code == "illegal_transition"
        told = self.act(store, key, "promote", version=3, if_version=2)
        assert (told.status, told.json["actual_version"]) == (409, 1)
        assert self.act(store, key, "promote", version=3, if_version=1).status == 200
        told = self.act(store, key, "promote", version=2)
        assert (told.code, told.json["actual_version"]) == ("version_conflict", 3)
        assert self.act(store, key, "promote", version=4).code == "version_not_found"
        assert self.states(store, key) == {1: "previous", 2: "pending", 3: "current"}
        assert self.act(store, key, "revoke").status == 200
        assert self.act(store, key, "promote").json["version"] == 2
        assert self.read(store, key) == ("two", "two")

    def test_a_rollback_is_a_new_version_with_an_old_value(self, store: AskedStore) -> None:
        key = self.key()
        assert self.act(store, key, "rollback").code == "key_not_found"
        self.put(store, key, "one")
        assert self.act(store, key, "rollback").code == "version_not_found"
        self.put(store, key, "two", "three")
        told = self.act(store, key, "rollback", to_version=1, if_version=3)
        assert (told.status, told.json["version"], told.json["rolled_back_from"]) == (200, 4, 1)
        assert self.read(store, key) == ("one", "one")
        assert self.act(store, key, "rollback").json["rolled_back_from"] == 3
        assert self.read(store, key) == ("three", "three")
        for number, code in ((5, "illegal_transition"), (9, "version_not_found")):
            assert self.act(store, key, "rollback", to_version=number).code == code
        told = self.act(store, key, "rollback", to_version=1, if_version=3)
        assert (told.code, told.json["actual_version"]) == ("version_conflict", 5)

    def test_a_retired_version_is_left_to_maintainers(self, store: AskedStore) -> None:
        key = self.key()
        self.put(store, key, "one")
        assert self.act(store, key, "retire").code == "version_not_found"
        assert self.act(store, key, "retire", version=1).code == "illegal_transition"
        self.put(store, key, "two")
        for _ in range(2):
            told = self.act(store, key, "retire", version=1)
            assert (told.status, told.json["state"]) == (200, "retired")
        assert self.read(store, key, 1) == ("version_unavailable", "one")
        assert self.read(store, key) == ("two", "two")

    def test_a_revoked_version_is_gone_and_none_takes_its_place(self, store: AskedStore) -> None:
        key = self.key()
        self.put(store, key, "one", "two")
        for _ in range(2):
            told = self.act(store, key, "revoke", reason="leaked")
            assert (told.status, told.json["version"], told.json["state"]) == (200, 2, "revoked")
            assert self.read(store, key) == ("version_revoked", "version_revoked")
            assert self.read(store, key, 2) == ("version_revoked", "version_revoked")
        assert self.read(store, key, 1) == ("one", "one")
        assert self.act(store, key, "rollback", to_version=2).code == "illegal_transition"
        self.put(store, key, "three", if_version=2)
        assert self.act(store, key, "revoke", version=1).status == 200
        assert self.read(store, key, 1) == ("version_revoked", "version_revoked")
        assert self.read(store, key) == ("three", "three")

    def test_a_destroyed_version_never_comes_back(self, store: AskedStore) -> None:
        key = self.key()
        self.put(store, key, "zero", "one", "two", "three")
        assert self.act(store, key, "destroy").code == "illegal_transition"
        for number in (2, 3):
            told = self.act(store, key, "destroy", version=number)
            assert (told.status, told.json["state"]) == (200, "destroyed")
            assert self.read(store, key, number) == ("version_destroyed", "version_destroyed")
        assert self.act(store, key, "rollback", to_version=2).code == "illegal_transition"
        assert self.act(store, key, "revoke", version=2).code == "illegal_transition"
        self.act(store, key, "propose", value="five")
        assert self.act(store, key, "destroy", version=5).status == 200
        assert self.act(store, key, "promote", version=5).code == "illegal_transition"
        assert self.read(store, key) == ("three", "three")
        self.act(store, key, "revoke")
        assert self.act(store, key, "destroy").status == 200
        assert self.read(store, key) == ("version_destroyed", "version_destroyed")
        assert self.read(store, key, 1)[1] == "zero"
        self.put(store, key, "six")
        assert self.read(store, key) == ("six", "six")

    def test_a_life_that_ended_goes_on_when_it_is_extended(self, store: AskedStore) -> None:
        key = self.key()
        assert self.act(store, key, "expire").code == "key_not_found"
        self.put(store, key, "one", expires_at="2090-01-02T03:04:05.678Z")
        assert store("GET", f"/keys/{key}").json["expires_at"] == "2090-01-02T03:04:05.678000Z"
        assert self.act(store, key, "expire").status == 200
        assert self.read(store, key) == ("key_expired", "key_expired")
        told = self.act(store, key, "extend", expires_at="2001-01-01T00:00:00Z")
        assert (told.status, told.code) == (400, "invalid_field")
        told = self.act(store, key, "extend", expires_at="2091-01-01T01:00:00+01:00")
        assert (told.json["version"], told.json["expires_at"]) == (1, "2091-01-01T00:00:00Z")
        assert self.read(store, key) == ("one", "one")
        self.put(store, key, "two")
        assert self.act(store, key, "revoke").status == 200
        assert self.act(store, key, "expire").code == "illegal_transition"
