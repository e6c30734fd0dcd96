"""What every vault has to do, as tests: for authors of adapters.

Subclass `VaultConformance` where pytest collects it, and give it two fixtures: ``vault``, the
adapter on a real server with exactly the rights that it asks for, and ``tools``, a `VaultTools`
that does what somebody does there beside the store. Nothing else is needed, and a vault may be
shared by all tests: each makes keys of its own. Call ``pytest.register_assert_rewrite`` with this
module's name for better messages.

Paths of entries are relative to the vault's prefix, without a slash at either end.

Not here, because each vault is broken in its own way: that a vault which is slow, sealed, throttled
or refuses us is ``vault_unavailable`` or ``vault_refused``, within its timeout.
"""

# ruff: noqa: S101 - assert is how tests speak

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

from dox_core_store.server.ports import Erasure, Vault
from dox_core_store.testing.vault_case import VaultTools, about, next_version, refused_as
from dox_core_store.testing.vault_sharing import SharedVaultConformance

__all__ = ["VaultConformance", "VaultTools", "about", "next_version", "refused_as"]

_THREADS = 8


class VaultConformance(SharedVaultConformance):
    """The tests; those of `SharedVaultConformance` too."""

    def test_what_was_stored_opens_and_its_place_does_not_tell(self, vault: Vault) -> None:
        binding = self.binding()
        place = vault.store(binding, b"s3cret-canary", about(1))
        assert isinstance(json.loads(place), dict)
        assert b"s3cret-canary" not in place
        assert vault.open(binding, place) == (b"s3cret-canary", False)
        assert not vault.superseded(binding, place)

    def test_what_is_opened_with_others_is_what_opens_alone(self, vault: Vault) -> None:
        wanted = []
        for number in range(1, 4):
            binding = self.binding()
            place = vault.store(binding, b"of %d" % number, about(1))
            wanted.append((binding, vault.promote(binding, place, about(1))))
        alone = [vault.open(binding, place) for binding, place in wanted]
        for held, opened in zip(vault.open_many(wanted), alone, strict=True):
            assert held in (None, opened)
        assert vault.open_many([]) == []

    def test_any_text_comes_back_as_it_was(self, vault: Vault) -> None:
        largest = b"k" * (64 * 1024 - 1) + b"\n"
        odd = " ä€\U0001f511\u2028\x00\\\"'{}\r\n".encode()
        for value in (odd, b'{"value": 1}', b"0", largest):
            binding = self.binding()
            place = vault.store(binding, value, about(1))
            assert vault.open(binding, place).value == value
            place = vault.promote(binding, place, about(1))
            assert vault.open(binding, place).value == value

    def test_what_is_stored_is_not_current_yet(self, vault: Vault, tools: VaultTools) -> None:
        first = self.binding()
        place = vault.store(first, b"one", about(1))
        assert tools.shows(first) is None
        assert vault.head(first, None) is None
        vault.promote(first, place, about(1))
        second = next_version(first)
        vault.store(second, b"two", about(2))
        assert tools.shows(first) == b"one"

    def test_storing_again_is_storing_once(self, vault: Vault) -> None:
        binding = self.binding()
        places = [vault.store(binding, b"one", about(1)) for _ in range(2)]
        assert [vault.open(binding, place).value for place in places] == [b"one", b"one"]

    def test_what_was_left_behind_is_found_by_its_version_id(self, vault: Vault) -> None:
        binding = self.binding()
        assert vault.find(binding) is None
        vault.store(binding, b"one", about(1))
        assert vault.find(next_version(binding)) is None
        found = vault.find(binding)
        assert found is not None
        assert vault.open(binding, found).value == b"one"

    def test_a_promoted_version_is_what_the_tools_show(
        self, vault: Vault, tools: VaultTools
    ) -> None:
        binding = self.binding()
        stored = vault.store(binding, b"one", about(1))
        place = vault.promote(binding, stored, about(1))
        assert tools.shows(binding) == b"one"
        assert vault.open(binding, place) == (b"one", False)
        assert vault.open(binding, stored) == (b"one", False), "the first place opens until erase"

    def test_promoting_again_from_either_place_changes_nothing(
        self, vault: Vault, tools: VaultTools
    ) -> None:
        binding = self.binding()
        stored = vault.store(binding, b"one", about(1))
        place = vault.promote(binding, stored, about(1))
        for again in (stored, place):
            assert json.loads(vault.promote(binding, again, about(1))) == json.loads(place)
        assert tools.shows(binding) == b"one"

    def test_an_older_version_still_opens_and_nobody_changed_anything(self, vault: Vault) -> None:
        first = self.binding()
        old = vault.promote(first, vault.store(first, b"one", about(1)), about(1))
        second = next_version(first)
        new = vault.promote(second, vault.store(second, b"two", about(2)), about(2))
        assert vault.open(first, old) == (b"one", False)
        assert vault.open(second, new) == (b"two", False)
        assert not vault.superseded(first, old)

    def test_two_versions_may_have_the_same_value(self, vault: Vault, tools: VaultTools) -> None:
        binding = self.binding()
        places = []
        for number, value in enumerate((b"same", b"other", b"same"), start=1):
            binding = next_version(binding)
            stored = vault.store(binding, value, about(number))
            places.append((binding, vault.promote(binding, stored, about(number)), value))
        for each, place, value in places:
            assert vault.open(each, place) == (value, False)
        assert tools.shows(binding) == b"same"

    def test_a_late_promotion_does_not_bring_back_an_older_version(
        self, vault: Vault, tools: VaultTools
    ) -> None:
        first = self.binding()
        stored = vault.store(first, b"one", about(1))
        second = next_version(first)
        vault.promote(second, vault.store(second, b"two", about(2)), about(2))
        late = vault.promote(first, stored, about(1))
        assert tools.shows(first) == b"two"
        assert vault.open(first, late).value == b"one"
        assert vault.open(first, stored).value == b"one"

    def test_an_older_version_is_shown_after_newer_ones_that_have_passed(
        self, vault: Vault, tools: VaultTools
    ) -> None:
        first = self.binding()
        stored = vault.store(first, b"one", about(1))
        second = next_version(first)
        place = vault.promote(second, vault.store(second, b"two", about(2)), about(2))
        vault.withdraw(second, place)
        late = vault.promote(first, stored, about(1)._replace(passed=frozenset({2})))
        assert tools.shows(first) == b"one"
        assert vault.open(first, late) == (b"one", False)
        third = next_version(first)
        place = vault.promote(third, vault.store(third, b"three", about(3)), about(3))
        assert tools.shows(first) == b"three"
        assert vault.open(third, place) == (b"three", False)

    def test_threads_that_promote_one_version_promote_it_once(
        self, vault: Vault, tools: VaultTools
    ) -> None:
        binding = self.binding()

        def run(_: int) -> bytes:
            return vault.promote(binding, vault.store(binding, b"one", about(1)), about(1))

        with ThreadPoolExecutor(_THREADS) as pool:
            places = list(pool.map(run, range(_THREADS)))
        assert tools.shows(binding) == b"one"
        assert {vault.open(binding, place) for place in places} == {(b"one", False)}

    def test_threads_with_keys_of_their_own_do_not_meet(self, vault: Vault) -> None:
        def run(number: int) -> bool:
            binding, value = self.binding(), f"value {number}".encode()
            place = vault.promote(binding, vault.store(binding, value, about(1)), about(1))
            return vault.open(binding, place) == (value, False)

        with ThreadPoolExecutor(_THREADS) as pool:
            assert all(pool.map(run, range(2 * _THREADS)))

    def test_what_was_erased_is_gone_from_both_places(self, vault: Vault) -> None:
        binding = self.binding()
        stored = vault.store(binding, b"one", about(1))
        place = vault.promote(binding, stored, about(1))
        later = next_version(binding)
        current = vault.promote(later, vault.store(later, b"two", about(2)), about(2))
        for _ in range(2):
            assert vault.erase(binding, place) in Erasure
        for each in (stored, place):
            with refused_as("vault_value_missing"):
                vault.open(binding, each)
        assert vault.open(later, current) == (b"two", False)

    def test_what_was_never_promoted_is_erased_too(self, vault: Vault, tools: VaultTools) -> None:
        first = self.binding()
        vault.promote(first, vault.store(first, b"one", about(1)), about(1))
        second = next_version(first)
        place = vault.store(second, b"two", about(2))
        for _ in range(2):
            assert vault.erase(second, place) in Erasure
        with refused_as("vault_value_missing"):
            vault.open(second, place)
        assert vault.find(second) is None
        assert tools.shows(first) == b"one"

    def test_the_only_version_of_a_key_is_erased(self, vault: Vault) -> None:
        binding = self.binding()
        place = vault.promote(binding, vault.store(binding, b"one", about(1)), about(1))
        assert vault.erase(binding, place) in Erasure
        with refused_as("vault_value_missing"):
            vault.open(binding, place)

    def test_withdrawing_leaves_the_other_versions(self, vault: Vault) -> None:
        first = self.binding()
        old = vault.promote(first, vault.store(first, b"one", about(1)), about(1))
        second = next_version(first)
        new = vault.promote(second, vault.store(second, b"two", about(2)), about(2))
        for _ in range(2):
            vault.withdraw(second, new)
        assert vault.open(first, old) == (b"one", False)
        third = next_version(first)
        place = vault.promote(third, vault.store(third, b"three", about(3)), about(3))
        assert vault.open(third, place) == (b"three", False)

    def test_an_old_version_is_withdrawn_without_the_current_one(
        self, vault: Vault, tools: VaultTools
    ) -> None:
        first = self.binding()
        old = vault.promote(first, vault.store(first, b"one", about(1)), about(1))
        second = next_version(first)
        new = vault.promote(second, vault.store(second, b"two", about(2)), about(2))
        vault.withdraw(first, old)
        assert tools.shows(first) == b"two"
        assert vault.open(second, new) == (b"two", False)

    def test_a_place_that_is_none_is_damage(self, vault: Vault) -> None:
        for place in (b"", b"no json", b"[]", b"{}", b'{"path": 1}'):
            with refused_as("value_damaged"):
                vault.open(self.binding(), place)

    def test_it_says_what_it_is_and_that_it_works(self, vault: Vault) -> None:
        assert "://" in vault.name
        vault.check()
