"""The fake that stands for a vault passes what every vault has to."""

import pytest

from dox_core_store.errors import DoxStoreError, StoreUnavailableError
from dox_core_store.testing.vault import MemoryVault
from dox_core_store.testing.vault_conformance import VaultConformance, about


@pytest.fixture
def vault() -> MemoryVault:
    return MemoryVault()


@pytest.fixture
def tools(vault: MemoryVault) -> MemoryVault:
    return vault


class TestMemoryVault(VaultConformance):
    def test_it_is_unavailable_when_told_to(self, vault):
        binding = self.binding()
        place = vault.store(binding, b"one", about(1))
        vault.fault = StoreUnavailableError("vault_unavailable", "sealed")
        with pytest.raises(DoxStoreError) as raised:
            vault.open(binding, place)
        assert raised.value.code == "vault_unavailable"
        vault.fault = None
        assert vault.open(binding, place).value == b"one"
        assert vault.calls == ["store", "open", "open"]
