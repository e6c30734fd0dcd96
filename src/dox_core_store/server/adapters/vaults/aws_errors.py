"""What AWS and its library say when they do not do it, as errors of ours.

The table is total: what nobody knows is a refusal if AWS answered, and an outage if it did not.
Only codes and names of classes are passed on: messages of the library repeat parameters, among
which there may be a value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from dox_core_store.errors import ConfigurationError, DoxStoreError, error_for

__all__ = ["AwsFailure", "failure_of"]

_UNAVAILABLE, _REFUSED = "vault_unavailable", "vault_refused"
_MISSING, _CONFLICT = "vault_value_missing", "vault_conflict"

_AGAIN = frozenset(
    {
        "BandwidthLimitExceeded",
        "InternalFailure",
        "InternalServiceError",
        "LimitExceeded",
        "PriorRequestNotComplete",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
        "ServiceUnavailableException",
        "SlowDown",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
        "TransactionInProgressException",
    }
)
_CODES = {
    "ResourceNotFoundException": _MISSING,
    "InvalidRequestException": _CONFLICT,  # scheduled for deletion, or another service's
    "ResourceExistsException": _CONFLICT,
    "InvalidParameterException": _CONFLICT,  # the label is not where we saw it
    "LimitExceededException": _UNAVAILABLE,  # a quota: of versions, it is over in a day
    "InvalidNextTokenException": _UNAVAILABLE,
    "PreconditionNotMetException": _UNAVAILABLE,
}
_CREDENTIALS = (
    "CredentialRetrievalError",
    "LoginError",
    "NoAuthTokenError",
    "NoCredentialsError",
    "PartialCredentialsError",
    "ProfileNotFound",
    "SSOError",
    "TokenRetrievalError",
    "UnknownCredentialError",
    "UnknownTokenProviderError",
)
"""With what is derived from them. The library looks at its sources when a client is made."""
_STALE = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
_HTTP_TOO_MANY, _HTTP_FAULT = 429, 500


class AwsFailure(NamedTuple):
    """``again``: it may go well in a moment. ``anew``: the client's credentials are none, or not
    good any more, so whoever comes next should look for them again."""

    error: DoxStoreError
    again: bool
    anew: bool


def failure_of(error: Exception, place: str) -> AwsFailure:
    """``place`` says where, for a person: the name of a secret."""
    if isinstance(error, ModuleNotFoundError):
        missing = f"aws:// needs {error.name}: pip install 'dox-core-store[server,aws]'."
        return AwsFailure(ConfigurationError("bad_setting", missing), again=False, anew=True)
    if isinstance(error, DoxStoreError):
        return AwsFailure(error, again=False, anew=False)
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return _answered(response, getattr(error, "operation_name", "it"), place)
    kinds = {each.__name__ for each in type(error).__mro__}
    if kinds & set(_CREDENTIALS):
        said = f"There are no AWS credentials that work: {type(error).__name__}."
        return AwsFailure(error_for(_REFUSED, said), again=False, anew=True)
    if "ParamValidationError" in kinds:
        said = f"What should be done with {place} cannot be said to AWS: ParamValidationError."
        return AwsFailure(error_for(_CONFLICT, said), again=False, anew=False)
    said = f"AWS Secrets Manager does not answer: {type(error).__name__}."
    return AwsFailure(error_for(_UNAVAILABLE, said), again=True, anew=False)


def _answered(response: Mapping[str, Any], operation: str, place: str) -> AwsFailure:
    code = str(response.get("Error", {}).get("Code", ""))[:80]
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _AGAIN or status == _HTTP_TOO_MANY or status >= _HTTP_FAULT:
        error = error_for(_UNAVAILABLE, f"AWS cannot do {operation} now: {code or status}.")
        return AwsFailure(error, again=True, anew=False)
    ours = _CODES.get(code, _REFUSED)
    if operation == "AssumeRole" or (operation == "CreateSecret" and ours == _MISSING):
        ours = _REFUSED  # what is missing there is the role, or the key of KMS
    error = error_for(ours, f"AWS refuses {operation} for {place}: {code or status}.")
    return AwsFailure(error, again=False, anew=code in _STALE)
