"""The KMS slot: a random key that AWS KMS encrypts and gives back to whoever may ask.

Credentials come by AWS's usual chain, and ``AWS_ENDPOINT_URL`` is honoured. Store and slot are the
encryption context, which KMS authenticates and CloudTrail shows. The ARN of the key stands in the
database, so whoever writes that could name a key of their own account; that is why the role needs a
policy that allows ``kms:Decrypt`` on this ARN and on no other (``docs/operations.md``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import msgspec

from dox_core_store.errors import ConfigurationError, error_for
from dox_core_store.server.adapters.seals.parameters import parameters_of, read_parameters
from dox_core_store.server.domain.envelope import KEY_BYTES
from dox_core_store.server.domain.seal import Slot, SlotKind

__all__ = ["KmsHolder"]

_ARN = r"^arn:aws[a-z-]*:kms:[a-z0-9-]{1,32}:[0-9]{12}:(key|alias)/[A-Za-z0-9/_-]{1,256}\Z"
_CONNECT_SECONDS = 5
_READ_SECONDS = 5
_ATTEMPTS = 2
_NOT_NOW = frozenset(
    {
        "DependencyTimeoutException",
        "InternalFailure",
        "KMSInternalException",
        "KeyUnavailableException",
        "RequestLimitExceeded",
        "ServiceUnavailable",
        "Throttling",
        "ThrottlingException",
    }
)


class _Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key_id: Annotated[str, msgspec.Meta(pattern=_ARN)]
    region: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9-]{1,32}\Z")]
    ciphertext: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{2}){1,6144}\Z")]


class KmsHolder:
    """The `SlotHolder` port over AWS KMS. ``key_id`` is the ARN of the key of a slot to make."""

    kind = SlotKind.KMS

    def __init__(self, *, key_id: str = "") -> None:
        self._key_id = key_id

    def make(self, store_id: str, slot_id: str) -> tuple[bytes, dict[str, Any]]:
        if re.match(_ARN, self._key_id) is None:
            raise ConfigurationError(
                "bad_setting", "A KMS slot takes the ARN of its key: arn:aws:kms:REGION:ACCOUNT:…"
            )
        key, region = os.urandom(KEY_BYTES), _region_of(self._key_id)
        with _asking(self._key_id, region) as client:
            answer = client.encrypt(
                KeyId=self._key_id,
                Plaintext=key,
                EncryptionContext=_context(store_id, slot_id),
            )
            # An alias may be moved to another key; the slot names the key itself.
            made = _Parameters(answer["KeyId"], region, answer["CiphertextBlob"].hex())
        # Who may encrypt may not be who may decrypt, and the slot is for opening the store.
        if _decrypted(made, store_id, slot_id) != key:
            raise error_for("slot_refused", "KMS does not give back what it was given.")
        return key, parameters_of(made)

    def open(self, store_id: str, slot: Slot) -> bytes:
        parameters = read_parameters(slot, _Parameters)
        if parameters.region != _region_of(parameters.key_id):
            raise ConfigurationError(
                "store_damaged", f"Slot {slot.slot_id} names two regions for one key."
            )
        return _decrypted(parameters, store_id, slot.slot_id)


def _decrypted(parameters: _Parameters, store_id: str, slot_id: str) -> bytes:
    with _asking(parameters.key_id, parameters.region) as client:
        answer = client.decrypt(
            KeyId=parameters.key_id,
            CiphertextBlob=bytes.fromhex(parameters.ciphertext),
            EncryptionContext=_context(store_id, slot_id),
        )
        if answer["KeyId"] != parameters.key_id:  # what AWS checks itself, as IncorrectKeyException
            raise error_for(
                "slot_refused", f"KMS opened the slot by {answer['KeyId']}, which is another key."
            )
        return bytes(answer["Plaintext"])


def _region_of(arn: str) -> str:
    return arn.split(":")[3]


def _context(store_id: str, slot_id: str) -> dict[str, str]:
    return {"store_id": store_id, "slot_id": slot_id}


@contextmanager
def _asking(key_id: str, region: str) -> Iterator[Any]:
    """A client, around which every error of its library becomes ours."""
    try:
        import boto3  # type: ignore[import-untyped]  # noqa: PLC0415 - only who has such a slot
        import botocore  # type: ignore[import-untyped]  # noqa: PLC0415 - needs the libraries
        import botocore.config  # type: ignore[import-untyped]  # noqa: PLC0415
        import botocore.exceptions  # type: ignore[import-untyped]  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "bad_setting",
            f"A KMS slot needs {error.name}, which is not installed:"
            " pip install 'dox-core-store[aws]'.",
        ) from None
    refusals = (
        botocore.exceptions.NoCredentialsError,
        botocore.exceptions.PartialCredentialsError,
        botocore.exceptions.CredentialRetrievalError,
        botocore.exceptions.ProfileNotFound,
    )
    try:
        yield boto3.session.Session().client(
            "kms",
            region_name=region,
            config=botocore.config.Config(
                connect_timeout=_CONNECT_SECONDS,
                read_timeout=_READ_SECONDS,
                retries={"total_max_attempts": _ATTEMPTS, "mode": "standard"},
            ),
        )
    except refusals as error:
        raise ConfigurationError(
            "slot_needed", f"A KMS slot needs AWS credentials: {type(error).__name__}."
        ) from None
    except botocore.exceptions.ClientError as error:
        said = error.response.get("Error", {}).get("Code", "")
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if said in _NOT_NOW or status >= 500:  # noqa: PLR2004 - HTTP
            raise error_for("slot_unreachable", f"KMS cannot answer now: {said}.") from None
        raise error_for(
            "slot_refused",
            f"KMS refuses {key_id}: {said}. The role needs kms:Encrypt and kms:Decrypt on it, and"
            " the ciphertext must be this store's.",
        ) from None
    except botocore.exceptions.BotoCoreError as error:
        raise error_for(
            "slot_unreachable", f"KMS in {region} does not answer: {type(error).__name__}."
        ) from None
