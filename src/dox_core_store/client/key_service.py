"""`KeyService`: the operators' client, for people's scripts, pipelines and the command line.

Each method is one call, named as in the HTTP interface; lists are asynchronous iterators that
fetch page after page. Nothing is cached and nothing is repeated: an operator wants to know what
the store says now, and whether a change was made.
"""

from __future__ import annotations

from dox_core_store.client.access_calls import AccessCalls
from dox_core_store.client.issuer_calls import IssuerCalls
from dox_core_store.client.key_calls import KeyCalls
from dox_core_store.client.ledger_calls import LedgerCalls
from dox_core_store.client.token_calls import TokenCalls
from dox_core_store.client.vault_calls import VaultCalls

__all__ = ["KeyService"]


class KeyService(TokenCalls, IssuerCalls, AccessCalls, KeyCalls, VaultCalls, LedgerCalls):
    """Every operator's call: services and grants, keys and imports, vaults, and the ledger.

    ``KeyService(url=None, token=None)``: what is not given comes from ``KEY_SERVICE_URL``,
    ``ADMIN_TOKEN``, ``KEY_SERVICE_TIMEOUT`` and ``KEY_SERVICE_CA_FILE``.
    """
