"""The passphrase slot: what a person knows, made expensive to guess.

The slot's key is Argon2id (RFC 9106) of the passphrase in Unicode NFC, so that it does not matter
on which keyboard an accent was typed. New slots take the second recommendation of its section 4.
What is stored are the salt and the costs; both come back from the database, so both are bounded
before they are used. Byte by byte: ``docs/spec/envelope.md``.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from dox_core_store.errors import ConfigurationError, InvalidRequestError, UnauthorizedError
from dox_core_store.sensitive import Sensitive
from dox_core_store.server.adapters.seals.parameters import parameters_of, read_parameters
from dox_core_store.server.domain.envelope import KEY_BYTES
from dox_core_store.server.domain.seal import Slot, SlotKind

__all__ = ["MIN_CHARACTERS", "PassphraseHolder"]

MIN_CHARACTERS = 12

# RFC 9106 section 4, second recommendation.
_ITERATIONS = 3
_LANES = 4
_MEMORY_KIB = 64 * 1024
_SALT_BYTES = 16

_MAX_ITERATIONS = 16
_MAX_LANES = 16
_MAX_MEMORY_KIB = 1024 * 1024
"""1 GiB: a little over a second on two cores, and what a small machine can spare."""


class _Costs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    salt: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
    iterations: Annotated[int, msgspec.Meta(ge=_ITERATIONS, le=_MAX_ITERATIONS)]
    lanes: Annotated[int, msgspec.Meta(ge=1, le=_MAX_LANES)]
    memory_kib: Annotated[int, msgspec.Meta(ge=_MEMORY_KIB, le=_MAX_MEMORY_KIB)]


class PassphraseHolder:
    """The `SlotHolder` port over one passphrase, for which ``ask`` is called once."""

    kind = SlotKind.PASSPHRASE

    def __init__(self, *, ask: Callable[[], Sensitive]) -> None:
        self._ask = ask
        self._asked: Sensitive | None = None

    def make(self, store_id: str, slot_id: str) -> tuple[bytes, dict[str, Any]]:  # noqa: ARG002
        text = self._text()
        if len(text) < MIN_CHARACTERS:
            raise InvalidRequestError(
                "invalid_field",
                f"A passphrase has at least {MIN_CHARACTERS} characters; six random words are good"
                " ones.",
            )
        costs = _Costs(os.urandom(_SALT_BYTES).hex(), _ITERATIONS, _LANES, _MEMORY_KIB)
        return _derive(text, costs), parameters_of(costs)

    def open(self, store_id: str, slot: Slot) -> bytes:  # noqa: ARG002 - the root key tells
        costs = read_parameters(slot, _Costs)
        text = self._text()
        if not text:
            raise UnauthorizedError("wrong_passphrase", "No passphrase was given.")
        return _derive(text, costs)

    def _text(self) -> str:
        if self._asked is None:
            self._asked = self._ask()
        return unicodedata.normalize("NFC", self._asked.reveal())


def _derive(text: str, costs: _Costs) -> bytes:
    argon2id = Argon2id(
        salt=bytes.fromhex(costs.salt),
        length=KEY_BYTES,
        iterations=costs.iterations,
        lanes=costs.lanes,
        memory_cost=costs.memory_kib,
    )
    try:
        return argon2id.derive(text.encode())
    except MemoryError as error:
        raise ConfigurationError(
            "bad_setting",
            f"The passphrase needs {costs.memory_kib // 1024} MiB of memory, which is not there.",
        ) from error
