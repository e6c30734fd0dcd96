"""What a request brings to prove that its sender holds the token's key (DPoP, RFC 9449)."""

from __future__ import annotations

from collections.abc import Callable

from dox_core_store.server.domain.proof import Proven, content_digest
from dox_core_store.server.usecases.principal import Shown
from dox_core_store.server.usecases.proof import Proofs
from dox_core_store.server.web.request import Heard, Scope

__all__ = ["Holders"]


class Holders:
    """``host_of`` says for which host a request was made, None where that cannot be known."""

    def __init__(self, *, proofs: Proofs, host_of: Callable[[Scope], str | None]) -> None:
        self._proofs = proofs
        self._host_of = host_of

    def shown(self, scope: Scope, heard: Heard, body: bytes = b"") -> Shown:
        """The proof that came with a request, and what it has to have been made for."""
        asked = Proven(
            method=scope["method"],
            host=self._host_of(scope),
            path=scope["raw_path"].decode("latin-1"),
            body_digest=content_digest(body),
        )
        return Shown(heard.proof or b"", asked)

    def nonce(self) -> tuple[bytes, bytes]:
        """The header with what the next proof should carry (RFC 9449, 8.2)."""
        return b"dpop-nonce", self._proofs.nonce().encode()
