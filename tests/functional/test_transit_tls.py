"""The Transit slot behind TLS: whose certificate is believed."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme
from tests.functional.openbao_site import tls_before
from tests.functional.real_servers import OpenBao

from dox_core_store.errors import DoxStoreError
from dox_core_store.server.adapters.seals.transit import TransitHolder
from dox_core_store.server.domain.seal import Slot, SlotKind


def test_only_the_named_authority_is_believed(
    openbao: OpenBao, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, other = trustme.CA(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    good, bad, token = tmp_path / "good.pem", tmp_path / "bad.pem", tmp_path / "token"
    authority.cert_pem.write_to_path(good)
    other.cert_pem.write_to_path(bad)
    token.write_text(openbao.transit_token())
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(good))
    for name in ("BAO_CACERT", "VAULT_CACERT"):
        monkeypatch.delenv(name, raising=False)
    with tls_before(openbao, context) as url:

        def holder(ca_file: str) -> TransitHolder:
            return TransitHolder(address=url, token_file=str(token), ca_file=ca_file)

        key, parameters = holder(str(good)).make("store_1", "slot_1")
        slot = Slot(
            slot_id="slot_1",
            kind=SlotKind.TRANSIT,
            parameters=parameters,
            wrapped_root=b"",
            created_at=datetime.now(UTC),
        )
        assert holder(str(good)).open("store_1", slot) == key
        monkeypatch.setenv("BAO_CACERT", str(good))
        assert holder("").open("store_1", slot) == key
        monkeypatch.delenv("BAO_CACERT")
        for refused in (str(bad), ""):
            with pytest.raises(DoxStoreError) as caught:
                holder(refused).open("store_1", slot)
            assert caught.value.code == "slot_unreachable"
