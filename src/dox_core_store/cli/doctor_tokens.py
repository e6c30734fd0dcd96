"""Tokens that will soon not work any more. For `doxstore doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dox_core_store.cli.finding import OK, WARNING, Finding, shown
from dox_core_store.cli.output import when

if TYPE_CHECKING:
    from dox_core_store.server.bootstrap import LocalStore
    from dox_core_store.server.domain.access import TokenRecord

__all__ = ["token_finding"]


def token_finding(store: LocalStore) -> Finding:
    """Which live tokens expire within a week, and the command that replaces each."""
    found = sorted(store.expiring_tokens(), key=lambda token: token.expires_at)
    if not found:
        return Finding("tokens", OK, "none that was to live longer expires within 7 days")
    told = shown([_told(each) for each in found], "; ")
    return Finding("tokens", WARNING, f"{len(found)} expire within 7 days: {told}")


def _told(token: TokenRecord) -> str:
    command = "operator token" if token.kind == "operator" else "token issue"
    where = f" -e {token.environment}" if token.environment else ""
    ends = when(token.expires_at)
    return f"{token.token_id} of {token.name} on {ends} (doxstore {command} {token.name}{where})"
