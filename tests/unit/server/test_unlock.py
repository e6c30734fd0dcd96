"""What opens a store, in which order, and what is said where nothing does: without any network."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from dox_core_store.errors import ConfigurationError, DoxStoreError
from dox_core_store.sensitive import Sensitive
from dox_core_store.server.adapters.seals.kms import KmsHolder
from dox_core_store.server.adapters.seals.transit import TransitHolder
from dox_core_store.server.bootstrap.local import LocalStore, init_store, list_slots
from dox_core_store.server.bootstrap.unlock import NewHolder, unlock_of
from dox_core_store.server.domain.seal import Slot, SlotKind
from dox_core_store.server.settings import Settings

PASSPHRASE = "correct horse battery"


class Person:
    """The `Ask` of somebody who knows some things."""

    def __init__(self, passphrase: str = PASSPHRASE, shares: list[Sensitive] | None = None) -> None:
        self._passphrase = passphrase
        self._shares = list(shares or [])
        self.asked: list[str] = []

    def passphrase(self) -> Sensitive:
        self.asked.append("passphrase")
        return Sensitive(self._passphrase)

    def share(self, label: str, entered: int, needed: int) -> Sensitive:
        self.asked.append(f"share {entered} of {needed}")
        if not self._shares:
            raise ConfigurationError("slot_needed", "They left.")
        return self._shares.pop(0)

    def refused(self, error: DoxStoreError) -> None:
        raise error


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Of a store that has a key file and a passphrase."""
    made = Settings(data=str(tmp_path / "data"), key_file=str(tmp_path / "root.key"))
    init_store(made, operator="admin", roles=["admin"])
    store = LocalStore(made)
    new = NewHolder(passphrase=lambda: Sensitive(PASSPHRASE))
    store.add_slot(store.make_slot(SlotKind.PASSPHRASE, new, "safe"))
    return made


def changed(settings: Settings, **fields: Any) -> Settings:
    names = {name: getattr(settings, name) for name in Settings.__struct_fields__}
    return Settings(**{**names, **fields})


def test_nobody_is_asked_while_the_key_file_opens_it(settings: Settings) -> None:
    person = Person()
    assert LocalStore(settings, ask=person).opened_by.kind == "key-file"
    assert person.asked == []


def test_whoever_can_be_asked_is_asked_once_the_key_file_does_not_open_it(
    settings: Settings,
) -> None:
    Path(settings.key_file).unlink()
    person = Person()
    assert LocalStore(settings, ask=person).opened_by.label == "safe"
    assert person.asked == ["passphrase"]


def test_only_the_one_way_is_tried_that_was_named(settings: Settings) -> None:
    only = changed(settings, unseal_with="passphrase")
    assert LocalStore(only, ask=Person()).opened_by.kind == "passphrase"
    with pytest.raises(DoxStoreError) as caught:
        LocalStore(only, ask=Person("wrong horse battery"))
    assert caught.value.code == "wrong_passphrase"
    with pytest.raises(DoxStoreError) as caught:
        LocalStore(only)
    assert caught.value.code == "slot_needed"
    with pytest.raises(DoxStoreError) as caught:
        LocalStore(changed(settings, unseal_with="kms"))
    assert caught.value.code == "slot_needed"
    assert "key-file, passphrase" in caught.value.detail


def test_where_nothing_opens_it_everything_that_was_tried_is_told(settings: Settings) -> None:
    Path(settings.key_file).unlink()
    with pytest.raises(DoxStoreError) as caught:
        LocalStore(settings, ask=Person("wrong horse battery"))
    assert caught.value.code == "key_file_missing"
    assert settings.key_file in caught.value.detail
    assert "passphrase opens no slot" in caught.value.detail


def test_a_key_file_beside_the_data_is_found(settings: Settings) -> None:
    beside = Path(settings.data) / "root.key"
    Path(settings.key_file).rename(beside)
    assert LocalStore(changed(settings, key_file="")).opened_by.kind == "key-file"
    beside.unlink()
    with pytest.raises(DoxStoreError) as caught:
        LocalStore(changed(settings, key_file=""))
    assert caught.value.code == "slot_needed"


def test_shares_are_asked_for_one_by_one(settings: Settings) -> None:
    store = LocalStore(settings)
    made = store.make_slot(SlotKind.SHARES, NewHolder(threshold=2, shares=3), None)
    slot = store.add_slot(made)
    Path(settings.key_file).unlink()
    person = Person("", made.shares[1:])
    assert LocalStore(settings, ask=person).opened_by == slot
    assert person.asked == ["passphrase", "share 0 of 2", "share 1 of 2"]


def test_one_slot_alone_may_be_asked_for(settings: Settings) -> None:
    file, passphrase = list_slots(settings)
    assert LocalStore(settings, ask=Person(), only=passphrase.slot_id).opened_by == passphrase
    assert LocalStore(settings, ask=Person(), only=file.slot_id).opened_by == file


def test_a_removed_slot_opens_nothing_any_more(settings: Settings) -> None:
    file, passphrase = list_slots(settings)
    store = LocalStore(settings)
    assert store.remove_slot(passphrase.slot_id) == passphrase
    with pytest.raises(DoxStoreError) as caught:
        LocalStore(changed(settings, unseal_with="passphrase"), ask=Person())
    assert caught.value.code == "slot_needed"
    with pytest.raises(DoxStoreError) as caught:
        store.remove_slot(file.slot_id)
    assert caught.value.code == "last_slot"


def test_a_setting_that_names_no_kind_is_refused() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings(unseal_with="fingerprint")
    assert "passphrase" in caught.value.detail


@pytest.mark.parametrize(
    ("holder", "library", "extra"),
    [
        (TransitHolder(address="http://127.0.0.1:1"), "hvac", "openbao"),
        (KmsHolder(key_id="arn:aws:kms:eu-central-1:123456789012:key/a"), "boto3", "aws"),
    ],
)
def test_a_library_that_is_missing_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, holder: Any, library: str, extra: str
) -> None:
    for name in [each for each in sys.modules if each.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ConfigurationError) as caught:
        holder.make("store_1", "slot_1")
    assert library in caught.value.detail
    assert f"dox-core-store[{extra}]" in caught.value.detail


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        ("transit", {"mount": "../sys", "key": "k", "ciphertext": "vault:v1:AAAA"}),
        ("transit", {"mount": "transit", "key": "a/../b", "ciphertext": "vault:v1:AAAA"}),
        ("transit", {"mount": "transit", "key": "k", "ciphertext": "vault:v1:AAAA?x=y"}),
        ("transit", {"mount": "transit", "key": "k"}),
        ("transit", {"mount": "transit", "key": "k", "ciphertext": "vault:v1:A", "address": "x"}),
        ("kms", {"key_id": "alias/k", "region": "eu-central-1", "ciphertext": "00"}),
        (
            "kms",
            {"key_id": "arn:aws:kms:a:123456789012:key/k", "region": "@evil", "ciphertext": "00"},
        ),
        ("kms", {"key_id": "arn:aws:kms:a:123456789012:key/k", "region": "a", "ciphertext": "0x"}),
        ("kms", {"key_id": "arn:aws:kms:a:123456789012:key/k", "region": "b", "ciphertext": "00"}),
        ("kms", {"key_id": "arn:aws:kms:a:123456789012:key/k", "region": "a", "ciphertext": "000"}),
    ],
)
def test_parameters_that_would_reach_elsewhere_are_refused(
    settings: Settings, kind: str, parameters: dict[str, Any]
) -> None:
    (file, _) = list_slots(settings)
    tampered = Slot(
        slot_id=file.slot_id,
        kind=SlotKind(kind),
        parameters=parameters,
        wrapped_root=b"",
        created_at=file.created_at,
    )
    with pytest.raises(DoxStoreError) as caught:
        list(unlock_of(changed(settings, unseal_with=kind), None)("store_1", [tampered]))
    assert caught.value.code == "store_damaged"
