"""What a vault has to do where others work in it too: part of `VaultConformance`.

They change, delete and make anew what is the store's, have entries of their own, and let the store
adopt some of those.
"""

# ruff: noqa: S101 - assert is how tests speak

from __future__ import annotations

import secrets

from dox_core_store.server.ports import Erasure, Home, Vault, VaultEntry
from dox_core_store.testing.vault_case import (
    VaultCase,
    VaultTools,
    about,
    next_version,
    refused_as,
)

__all__ = ["SharedVaultConformance"]


class SharedVaultConformance(VaultCase):
    """The tests."""

    def test_a_change_behind_our_back_is_noticed(self, vault: Vault, tools: VaultTools) -> None:
        binding = self.binding()
        place = vault.promote(binding, vault.store(binding, b"ours", about(1)), about(1))
        tools.change(binding, b"theirs")
        assert vault.open(binding, place) == (b"ours", True)
        assert vault.superseded(binding, place)
        head = vault.head(binding, None)
        assert head is not None
        assert head.value == b"theirs"
        assert b"theirs" not in head.place

    def test_a_change_is_taken_over_by_its_place(self, vault: Vault, tools: VaultTools) -> None:
        first = self.binding()
        ours = vault.promote(first, vault.store(first, b"ours", about(1)), about(1))
        tools.change(first, b"theirs")
        head = vault.head(first, None)
        assert head is not None
        second = next_version(first)
        assert vault.open(second, head.place) == (b"theirs", False)
        place = vault.promote(second, head.place, about(2))
        assert tools.shows(first) == b"theirs"
        assert vault.open(second, place) == (b"theirs", False)
        assert vault.open(first, ours).value == b"ours"

    def test_our_next_version_follows_a_change(self, vault: Vault, tools: VaultTools) -> None:
        first = self.binding()
        vault.promote(first, vault.store(first, b"ours", about(1)), about(1))
        tools.change(first, b"theirs")
        second = next_version(first)
        place = vault.promote(second, vault.store(second, b"next", about(3)), about(3))
        assert tools.shows(first) == b"next"
        assert vault.open(second, place) == (b"next", False)

    def test_what_was_deleted_is_missing_and_not_empty(
        self, vault: Vault, tools: VaultTools
    ) -> None:
        binding = self.binding()
        place = vault.promote(binding, vault.store(binding, b"one", about(1)), about(1))
        tools.delete(binding)
        with refused_as("vault_value_missing"):
            vault.open(binding, place)
        assert vault.head(binding, None) is None

    def test_what_was_made_anew_is_not_taken_for_ours(
        self, vault: Vault, tools: VaultTools
    ) -> None:
        binding = self.binding()
        place = vault.promote(binding, vault.store(binding, b"ours", about(1)), about(1))
        tools.recreate(binding, b"theirs")
        with refused_as("value_damaged", "vault_value_missing"):
            vault.open(binding, place)

    def test_a_name_that_is_taken_is_a_conflict(self, vault: Vault, tools: VaultTools) -> None:
        binding = self.binding()
        tools.change(binding, b"theirs")
        with refused_as("vault_conflict"):  # before it is said to be stored
            vault.store(binding, b"ours", about(1))
        assert vault.find(binding) is None
        assert tools.shows(binding) == b"theirs"

    def test_a_name_that_is_taken_meanwhile_is_a_conflict(
        self, vault: Vault, tools: VaultTools
    ) -> None:
        binding = self.binding()
        place = vault.store(binding, b"ours", about(1))
        tools.change(binding, b"theirs")
        with refused_as("vault_conflict"):
            vault.promote(binding, place, about(1))
        assert tools.shows(binding) == b"theirs"
        assert vault.open(binding, place) == (b"ours", False)

    def test_entries_are_listed_without_what_waits(self, vault: Vault, tools: VaultTools) -> None:
        binding, path = self.binding(), f"listed/{secrets.token_hex(6)}"
        tools.put(path, {"user": "u", "password": "canary-of-entry"})
        before = {entry.path for entry in vault.entries()}
        place = vault.store(binding, b"one", about(1))
        assert {entry.path for entry in vault.entries()} == before, "a pending version is listed"
        vault.promote(binding, place, about(1))
        entries = {entry.path: entry for entry in vault.entries()}
        (made,) = entries.keys() - before
        assert entries[made].managed
        theirs = entries[path]
        assert (set(theirs.fields), theirs.managed) == ({"user", "password"}, False)
        assert "canary-of-entry" not in repr(theirs)

    def test_a_field_of_an_entry_is_adopted_where_it_lies(
        self, vault: Vault, tools: VaultTools
    ) -> None:
        binding, path = self.binding(), f"adopted/{secrets.token_hex(6)}"
        tools.put(path, {"user": "u", "password": "p"})
        home = Home(path=path, field="password", shared=True)
        head = vault.head(binding, home)
        assert head is not None
        assert head.value == b"p"
        assert vault.open(binding, head.place) == (b"p", False)
        assert tools.fields(path) == {"user": "u", "password": "p"}
        tools.put(path, {"user": "another", "password": "p"})
        assert vault.open(binding, head.place) == (b"p", False), "another field was changed"
        tools.put(path, {"user": "another", "password": "changed"})
        assert vault.open(binding, head.place) == (b"p", True)

    def test_an_entry_of_several_keys_is_left_as_it_is(
        self, vault: Vault, tools: VaultTools
    ) -> None:
        binding, path = self.binding(), f"adopted/{secrets.token_hex(6)}"
        tools.put(path, {"user": "u", "password": "p"})
        home = Home(path=path, field="password", shared=True)
        head = vault.head(binding, home)
        assert head is not None
        place = vault.promote(binding, head.place, about(1, home))
        assert vault.open(binding, place) == (b"p", False)
        vault.withdraw(binding, place)
        assert vault.erase(binding, place) is Erasure.UNLINKED
        assert tools.fields(path) == {"user": "u", "password": "p"}

    def test_an_adopted_entry_gets_its_next_version_where_it_lies(
        self, vault: Vault, tools: VaultTools
    ) -> None:
        first, path = self.binding(), f"adopted/{secrets.token_hex(6)}"
        tools.put(path, {"token": "theirs"})
        home = Home(path=path, field="token", shared=False)
        head = vault.head(first, home)
        assert head is not None
        old = vault.promote(first, head.place, about(1, home))
        second = next_version(first)
        new = vault.promote(second, vault.store(second, b"ours", about(2, home)), about(2, home))
        assert tools.fields(path) == {"token": "ours"}
        assert vault.open(second, new) == (b"ours", False)
        assert vault.open(first, old).value == b"theirs"
        now = vault.head(second, home)
        assert now is not None
        assert now.value == b"ours"
        assert [each.fields for each in self._at(vault, path)] == [("token",)]

    def test_an_entry_that_is_not_there_has_no_head(self, vault: Vault) -> None:
        home = Home(path=f"none/{secrets.token_hex(6)}", field="token", shared=False)
        assert vault.head(self.binding(), home) is None

    def _at(self, vault: Vault, path: str) -> list[VaultEntry]:
        return [entry for entry in vault.entries() if entry.path == path]
