"""Every error of dox-core-store, on one page.

::

    DoxStoreError
    ├── InvalidRequestError     400   the request cannot be understood as written
    ├── AuthenticationError     401   who is asking is not proven
    ├── UnauthorizedError       403   who is asking may not
    ├── NotFoundError           404   allowed, but nothing is there
    ├── MethodNotAllowedError   405   the address exists, the method does not
    ├── ConflictError           409   the store is in another state than the request assumes
    ├── GoneError               410   was there, and will never be handed out again
    ├── PayloadTooLargeError    413   over a documented size
    ├── RateLimitError          429   too many key requests
    ├── InternalError           500   a fault of ours; nothing was revealed
    ├── StoreUnavailableError   503   the store answers, but cannot serve safely now
    ├── ConnectionFailedError   --    no answer that counts came from the store (client side)
    └── ConfigurationError      --    settings, files or arguments of this process are unusable

A class says what kind of failure it is (one class per HTTP status); ``code`` says which, and is
stable: programs match on it. `CODES` is the only list of codes; the problem documents of the
server (RFC 9457), the client's exceptions, ``/docs/errors`` and the documentation are made from it.
No message ever contains a key's value or a token.
"""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = [
    "CODES",
    "AuthenticationError",
    "Code",
    "ConfigurationError",
    "ConflictError",
    "ConnectionFailedError",
    "DoxStoreError",
    "GoneError",
    "InternalError",
    "InvalidRequestError",
    "MethodNotAllowedError",
    "NotFoundError",
    "PayloadTooLargeError",
    "RateLimitError",
    "StoreUnavailableError",
    "UnauthorizedError",
    "error_for",
]


class DoxStoreError(Exception):
    """Base of every error that this package raises on purpose.

    ``code`` is one of `CODES`; ``detail`` is one sentence for a person; ``extra`` holds further
    members of the problem document (for example ``actual_version``); ``request_id`` is the
    store's id of the request where there was one. ``errors`` holds, for a batch, every failed
    path's own error.
    """

    status: int | None = None

    def __init__(
        self, code: str, detail: str, *, request_id: str | None = None, **extra: Any
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.request_id = request_id
        self.extra = extra
        self.errors: dict[str, DoxStoreError] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.code, self.detail, self.request_id, self.extra))


def _rebuild(
    kind: type[DoxStoreError], code: str, detail: str, request_id: str | None, extra: dict[str, Any]
) -> DoxStoreError:
    return kind(code, detail, request_id=request_id, **extra)


class InvalidRequestError(DoxStoreError):
    """The request cannot be understood as written. Sending it again unchanged is useless."""

    status = 400


class AuthenticationError(DoxStoreError):
    """Who is asking is not proven: no token, or one that is invalid, expired or revoked."""

    status = 401


class UnauthorizedError(DoxStoreError):
    """Who is asking is known and may not. Alike for forbidden and for unknown keys."""

    status = 403


class NotFoundError(DoxStoreError):
    """Allowed, but nothing is there."""

    status = 404


class MethodNotAllowedError(DoxStoreError):
    """The address exists, the method does not."""

    status = 405


class ConflictError(DoxStoreError):
    """The store is in another state than the request assumes. Read again, then decide."""

    status = 409


class GoneError(DoxStoreError):
    """Was there, and will not be handed out again: revoked, destroyed, retired or expired."""

    status = 410


class PayloadTooLargeError(DoxStoreError):
    """Over a documented size. Nothing was stored; what was there stays."""

    status = 413


class RateLimitError(DoxStoreError):
    """Too many key requests. ``extra["retry_after_seconds"]`` says when to come back."""

    status = 429


class InternalError(DoxStoreError):
    """A fault of the store itself. Nothing was revealed; the request id finds it in the logs."""

    status = 500


class StoreUnavailableError(DoxStoreError):
    """The store answers but cannot serve safely now, for example because it cannot record."""

    status = 503


class ConnectionFailedError(DoxStoreError):
    """No answer that counts came from the store: refused, timed out, TLS, or not the store."""


class ConfigurationError(DoxStoreError):
    """Settings, files or arguments of this process are unusable; the message says what to do."""


class Code(NamedTuple):
    """What a stable code means: its class, its title, and what whoever meets it should do."""

    error: type[DoxStoreError]
    title: str
    remedy: str


CODES: dict[str, Code] = {
    # 400
    "malformed_path": Code(
        InvalidRequestError,
        "The key path is malformed",
        "Use 1 to 8 segments of A-Z a-z 0-9 _ - (64 characters each, 256 in all) joined by dots.",
    ),
    "environment_conflict": Code(
        InvalidRequestError,
        "The path and the request name different environments",
        "Name the environment once: as the last segment of the path or as `environment`.",
    ),
    "unknown_environment": Code(
        InvalidRequestError,
        "The environment is not declared",
        "List the declared ones with `doxstore env list`, or add it with `doxstore env add`.",
    ),
    "unknown_vault": Code(
        InvalidRequestError,
        "The server knows no such vault",
        "`doxstore vault check` lists those that it knows: name others in its settings `vault` or"
        " `vault_also`, on every node.",
    ),
    "reserved_path": Code(
        InvalidRequestError,
        "The path is reserved for the store itself",
        "Choose a path that does not begin with `_store`.",
    ),
    "malformed_json": Code(
        InvalidRequestError, "The body is not valid JSON", "Send one JSON object, UTF-8 encoded."
    ),
    "invalid_field": Code(
        InvalidRequestError,
        "A field is missing, unknown or of the wrong type",
        "The detail names the field. `/openapi.json` describes each request.",
    ),
    "invalid_parameter": Code(
        InvalidRequestError,
        "A query parameter is unknown or unusable",
        "The detail names the parameter. `/openapi.json` describes each request.",
    ),
    "malformed_pattern": Code(
        InvalidRequestError,
        "The grant pattern is malformed",
        "Name whole segments; `*` stands for one segment, a trailing `**` for one or more.",
    ),
    "malformed_import": Code(
        InvalidRequestError,
        "The file to import cannot be used",
        "The detail names the place in the file. Nothing was stored.",
    ),
    "malformed_share": Code(
        InvalidRequestError,
        "This is not a share",
        "Type all words of the share, in order; a mistyped word is found by its checksum.",
    ),
    # 401
    "token_missing": Code(
        AuthenticationError,
        "No token was sent",
        "Send `Authorization: Bearer TOKEN` with the token from `POST /tokens`.",
    ),
    "token_invalid": Code(
        AuthenticationError,
        "The token is not valid here",
        "Issue a new token with `doxstore token issue SERVICE`.",
    ),
    "proof_needed": Code(
        AuthenticationError,
        "The token is bound to a key",
        "Give the service its key by `SERVICE_KEY_FILE` or `SERVICE_KEY`.",
    ),
    "proof_invalid": Code(
        AuthenticationError,
        "The proof is not valid for this request",
        "Make a new proof for each request, with the key that the token was issued for.",
    ),
    "nonce_needed": Code(
        AuthenticationError,
        "The proof lacks a current nonce",
        "Make the proof again with the nonce of the header `DPoP-Nonce`; `KeyClient` does.",
    ),
    "address_not_allowed": Code(
        AuthenticationError,
        "The token may not be used from this address",
        "Issue a token for this network with `doxstore token issue SERVICE --address CIDR`.",
    ),
    "token_expired": Code(
        AuthenticationError,
        "The token has expired",
        "Issue a new token with `doxstore token issue SERVICE`.",
    ),
    "token_revoked": Code(
        AuthenticationError,
        "The token was revoked",
        "Find out why with `doxstore ledger search`, then issue a new one.",
    ),
    "subject_token_invalid": Code(
        AuthenticationError,
        "The issuer's token is not valid here",
        "Its `iss` and `aud` must be those of an issuer in `doxstore issuer list`.",
    ),
    "subject_token_expired": Code(
        AuthenticationError,
        "The issuer's token is too old",
        "Get a new one from the platform, or sign in again: `doxstore login`.",
    ),
    # 403
    "not_authorized": Code(
        UnauthorizedError,
        "Not authorized for this key",
        "Ask whoever may grant for `doxstore grant add SERVICE PATTERN`.",
    ),
    "role_required": Code(
        UnauthorizedError,
        "The operator lacks the role for this",
        "`docs/roles.md` lists who may do what.",
    ),
    "sign_in_required": Code(
        UnauthorizedError,
        "This takes a person who signed in",
        "Sign in with `doxstore login`; static operator tokens are for pipelines.",
    ),
    "no_trust": Code(
        UnauthorizedError,
        "The store trusts this token with nothing",
        "An admin says which claims stand for whom: `doxstore issuer trust`.",
    ),
    "ambiguous_trust": Code(
        UnauthorizedError,
        "More than one trust fits this token",
        "Name the service that is meant, or narrow the trusts: `doxstore issuer list`.",
    ),
    "operator_disabled": Code(
        UnauthorizedError,
        "The operator is disabled",
        "Whoever runs the store may add it again: `doxstore operator add`.",
    ),
    "wrong_passphrase": Code(
        UnauthorizedError,
        "The passphrase does not open this store",
        "Type it again. `doxstore seal slots list` shows what else opens the store.",
    ),
    "wrong_share": Code(
        UnauthorizedError,
        "The share is not one of this store's",
        "Use the shares made with the slot: the number on each says which set it belongs to.",
    ),
    # 404
    "key_not_found": Code(
        NotFoundError,
        "The key has no value there",
        "Check path and environment with `doxstore key list`, or store it: `doxstore key put`.",
    ),
    "version_not_found": Code(
        NotFoundError, "No such version", "List them with `doxstore key versions KEY`."
    ),
    "service_not_found": Code(
        NotFoundError,
        "No such service",
        "Register it first: `doxstore service register NAME`, or check `doxstore service list`.",
    ),
    "grant_not_found": Code(NotFoundError, "No such grant", "See `doxstore grant list`."),
    "signing_key_not_found": Code(
        NotFoundError, "No such signing key", "List them with `doxstore token signing-keys`."
    ),
    "token_not_found": Code(
        NotFoundError, "No such token", "Token ids are in the ledger and in the token's `jti`."
    ),
    "issuer_not_found": Code(NotFoundError, "No such issuer", "See `doxstore issuer list`."),
    "trust_not_found": Code(NotFoundError, "No such trust", "See `doxstore issuer list`."),
    "operator_not_found": Code(NotFoundError, "No such operator", "See `doxstore operator list`."),
    "import_not_found": Code(
        NotFoundError,
        "No such open import",
        "It was committed, aborted, or given up as idle. Start the import again.",
    ),
    "slot_not_found": Code(NotFoundError, "No such slot", "See `doxstore seal slots list`."),
    "ceremony_not_found": Code(
        NotFoundError,
        "No such ceremony",
        "It has ended, or three wrong entries closed it. The node prints the id of the next one.",
    ),
    "address_not_found": Code(
        NotFoundError, "Nothing lives at this address", "`/openapi.json` lists all addresses."
    ),
    # 405
    "method_not_allowed": Code(
        MethodNotAllowedError,
        "The method does not exist at this address",
        "`/openapi.json` lists what does.",
    ),
    # 409
    "version_conflict": Code(
        ConflictError,
        "The key has moved on",
        "Read it again and repeat with the `actual_version` of this answer as `if_version`.",
    ),
    "case_collision": Code(
        ConflictError,
        "The name differs from a stored one only in case",
        "Use the stored spelling, which the detail names.",
    ),
    "illegal_transition": Code(
        ConflictError,
        "The version's state does not allow this",
        "`docs/roles.md` and the key's versions say which states allow what.",
    ),
    "already_exists": Code(
        ConflictError, "The name is taken", "Choose another name, or change the one that exists."
    ),
    "environment_in_use": Code(
        ConflictError,
        "A stored path ends in this name",
        "Choose another name for the environment.",
    ),
    "service_decommissioned": Code(
        ConflictError,
        "The service was decommissioned",
        "Register it again if it is to come back; its old tokens stay dead.",
    ),
    "vault_conflict": Code(
        ConflictError,
        "The name is taken in the vault",
        "See what lies there: adopt it, remove it, or wait until its deletion is over.",
    ),
    "entry_shared": Code(
        ConflictError,
        "The key is one of several fields of a vault's entry",
        "`doxstore vault adopt` with --split gives it an entry of its own.",
    ),
    "last_admin": Code(
        ConflictError,
        "This would leave the store without an admin",
        "Give another operator the role first.",
    ),
    "share_repeated": Code(
        ConflictError, "This share was entered already", "Let another holder enter theirs."
    ),
    "last_slot": Code(
        ConflictError,
        "This would leave nothing that opens the store",
        "Add another slot first: `doxstore seal slots add`.",
    ),
    "rekey_blocked": Code(
        ConflictError,
        "The sealing keys cannot be changed now",
        "The detail says what stands in the way; what was done so far stays, and can be resumed.",
    ),
    # 410
    "version_revoked": Code(
        GoneError,
        "The version was revoked",
        "It is compromised. Wait for, or store, a new version.",
    ),
    "version_destroyed": Code(
        GoneError, "The version was destroyed", "Its value no longer exists anywhere in the store."
    ),
    "version_unavailable": Code(
        GoneError,
        "The version is not handed out in its state",
        "Read the current version, without a version number.",
    ),
    "key_expired": Code(
        GoneError,
        "The key has expired",
        "Store a new version with `doxstore key put`, or extend it with `doxstore key extend`.",
    ),
    # 413
    "value_too_large": Code(
        PayloadTooLargeError,
        "The value is over 64 KiB",
        "Store a smaller value. The old version stays as it was.",
    ),
    "body_too_large": Code(
        PayloadTooLargeError, "The request body is too large", "Split the request."
    ),
    # 429
    "rate_limited": Code(
        RateLimitError,
        "Too many key requests",
        "Wait for `Retry-After`, cache longer, or raise it with `doxstore service limit` or"
        " `doxstore key limit`.",
    ),
    # 500, 503
    "internal_error": Code(
        InternalError, "A fault of the store", "Give the request id to whoever runs the store."
    ),
    "value_damaged": Code(
        InternalError,
        "The stored value does not open",
        "Store the key anew. `doxstore doctor` names what else was changed behind the store.",
    ),
    "vault_value_missing": Code(
        InternalError,
        "The vault holds the value no more",
        "Somebody deleted it there: bring it back in the vault, or store the key anew.",
    ),
    "ledger_unavailable": Code(
        StoreUnavailableError,
        "The access cannot be put on record",
        "Nothing was revealed. See `docs/operations.md`: usually a full or slow disk, or a"
        " database that does not answer.",
    ),
    "sink_behind": Code(
        StoreUnavailableError,
        "The ledger is not shipped where it has to be",
        "Bring the place back that `ship_required` names; reads go on once it has caught up.",
    ),
    "ledger_full": Code(
        StoreUnavailableError,
        "The ledger has no room left",
        "Raise `ledger_max_gib`, or move old entries away as `docs/operations.md` says.",
    ),
    "overloaded": Code(
        StoreUnavailableError, "Too many requests are waiting", "Come back after `Retry-After`."
    ),
    "sealed": Code(
        StoreUnavailableError,
        "The store is sealed",
        "Nothing is served until it is opened: `doxstore seal unseal`, or see `/v1/seal`.",
    ),
    "issuer_unreachable": Code(
        StoreUnavailableError,
        "The issuer's keys cannot be had now",
        "Check that the store reaches the issuer's url (`doxstore issuer list`), then ask again.",
    ),
    "slot_unreachable": Code(
        StoreUnavailableError,
        "What holds the slot's key does not answer",
        "Check that OpenBao or AWS can be reached; a server keeps trying and serves nothing.",
    ),
    "vault_unavailable": Code(
        StoreUnavailableError,
        "The vault that holds the value cannot answer now",
        "See that it runs, is unsealed and not overloaded; the store tries again by itself.",
    ),
    "vault_refused": Code(
        StoreUnavailableError,
        "The vault refuses the store",
        "Renew the store's credentials for it, or give them the policy that `doxstore vault setup`"
        " prints.",
    ),
    "vault_not_configured": Code(
        StoreUnavailableError,
        "The value lies in a vault that this node does not know",
        "Name that vault in `vault` or `vault_also` on every node.",
    ),
    "unreviewed": Code(
        StoreUnavailableError,
        "Nobody has signed off this store since it was restored",
        "Revoke what was revoked since the backup, then `doxstore backup sign-off`.",
    ),
    "timed_out": Code(
        StoreUnavailableError, "The request took too long to arrive", "Send the body faster."
    ),
    "shutting_down": Code(
        StoreUnavailableError, "The node is shutting down", "Ask again; another answer will come."
    ),
    # client side
    "connection_failed": Code(
        ConnectionFailedError,
        "The store could not be reached",
        "Check `KEY_SERVICE_URL` and the network; `health_check()` tells more.",
    ),
    "not_the_store": Code(
        ConnectionFailedError,
        "Something else answered in the store's place",
        "Check `KEY_SERVICE_URL` and what stands between: a proxy answers for the store.",
    ),
    # configuration
    "bad_setting": Code(
        ConfigurationError, "A setting is unusable", "The detail names it and what it takes."
    ),
    "output_failed": Code(
        ConfigurationError,
        "The output cannot be written",
        "Make room, or write elsewhere. What was written so far is not whole.",
    ),
    "bad_map": Code(
        ConfigurationError,
        "The map of names and keys is unusable",
        "The detail says where; nothing was done. `docs/run.md` shows what a map looks like.",
    ),
    "unsafe_variable": Code(
        ConfigurationError,
        "A key cannot be given by this variable",
        "Choose another name, or --files; `docs/run.md` lists the names that are refused.",
    ),
    "command_not_found": Code(
        ConfigurationError,
        "There is no such command",
        "Check its spelling and PATH; no key was asked for.",
    ),
    "command_not_runnable": Code(
        ConfigurationError,
        "The command cannot be run",
        "Check that it is a program, has a `#!` line if it is a script, and may be executed.",
    ),
    "insecure_url": Code(
        ConfigurationError,
        "http:// is only for loopback",
        "Use https:// and, for a private CA, `KEY_SERVICE_CA_FILE`.",
    ),
    "sign_in_failed": Code(
        ConfigurationError,
        "Signing in did not work",
        "The detail says why. Nothing was kept; try again with `doxstore login`.",
    ),
    "service_mismatch": Code(
        ConfigurationError,
        "The token belongs to another service",
        "Use the token issued for `service_name`.",
    ),
    "database_unreachable": Code(
        ConfigurationError,
        "The database does not answer",
        "See that it runs, that the address and the password of `database` are right, and that"
        " this machine may connect to it.",
    ),
    "store_missing": Code(
        ConfigurationError, "There is no store there", "Make one with `doxstore init`."
    ),
    "store_exists": Code(
        ConfigurationError,
        "There is a store there already",
        "Choose another folder or database.",
    ),
    "store_locked": Code(
        ConfigurationError,
        "Another server holds this store",
        "Stop it first; one node is one server process.",
    ),
    "store_read_only": Code(
        ConfigurationError,
        "The store cannot be written",
        "Check owner, mode and mount; of a database, its settings and its user's rights.",
    ),
    "store_newer": Code(
        ConfigurationError,
        "The store was written by a newer release",
        "Upgrade this installation; nothing was changed.",
    ),
    "store_damaged": Code(
        ConfigurationError, "The store is damaged", "Restore a backup; nothing was changed."
    ),
    "wrong_key_file": Code(
        ConfigurationError,
        "The key file does not open this store",
        "Use the key file made with it; nothing was changed.",
    ),
    "slot_needed": Code(
        ConfigurationError,
        "Nothing was given that opens the store",
        "Say how to open it: `--key-file FILE` or `--unseal-with`; see `doxstore seal slots list`.",
    ),
    "slot_refused": Code(
        ConfigurationError,
        "The key service does not open this store",
        "Check the service's key and who may use it; nothing was changed.",
    ),
    "clock_behind": Code(
        ConfigurationError,
        "The clock is behind the store's newest entry",
        "Set the clock. Where the clock is right, start once with `--accept-clock`.",
    ),
    "backup_damaged": Code(
        ConfigurationError,
        "The backup is damaged or incomplete",
        "Nothing was written. Use another copy: `doxstore backup drill FILE` tells if it is whole.",
    ),
    "backup_encrypted": Code(
        ConfigurationError,
        "The backup is encrypted for a recipient",
        "Name the file with the recipient's age identity: `--identity FILE`.",
    ),
    "backup_target": Code(
        ConfigurationError,
        "The backup cannot be written or read there",
        "The detail says why. Nothing that was there before was changed.",
    ),
    "bad_checkpoints": Code(
        ConfigurationError,
        "The checkpoints do not belong to this backup",
        "Use what was shipped or exported from the same store. Nothing was written.",
    ),
    "key_file_missing": Code(
        ConfigurationError,
        "The key file is missing or unsafe",
        "Name it with `--key-file`; it must be a regular file with mode 0600.",
    ),
}


_BY_STATUS: dict[int, type[DoxStoreError]] = {
    kind.status: kind for kind in DoxStoreError.__subclasses__() if kind.status is not None
}


def error_for(
    code: str,
    detail: str,
    *,
    status: int | None = None,
    request_id: str | None = None,
    **extra: Any,
) -> DoxStoreError:
    """The error for ``code``; where the code is unknown (a newer store), by HTTP ``status``."""
    known = CODES.get(code)
    kind = _BY_STATUS.get(status or 0, DoxStoreError) if known is None else known.error
    return kind(code, detail, request_id=request_id, **extra)
