"""Calls to Secrets Manager: credentials, time and retries.

One client is made at the first call and shared by all threads. Credentials come by AWS's usual
chain; with a role, they are that role's, taken by ``AssumeRole`` and renewed in time by the
library. Who had none when the client was made is looked up again.

No turn (what one method of the vault does) takes longer than the timeout: one attempt, with the
role that may have to be taken first, has half of it, and none begins in the second half. What may
go well in a moment is tried again, a little later each time, as long as the budget lasts that all
threads share: a vault that is down is not asked much more often than usual. How long the library
looks for credentials on this machine is its own matter.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from dox_core_store.errors import DoxStoreError, error_for
from dox_core_store.server.adapters.vaults.aws_errors import failure_of

__all__ = ["AwsClient"]

_ATTEMPTS = 3
_FIRST_PAUSE_SECONDS = 0.1
_BUDGET = 20.0
_REFUND = 0.2
"""Per call that went well: at most a fifth more calls than usual, in the long run."""
_CONNECTIONS = 32
_SESSION_NAME = "dox-core-store"


class AwsClient:
    """``timeout_seconds`` is that of a whole turn. Raises `ConfigurationError` ``bad_setting``
    where there is no boto3."""

    def __init__(
        self, *, region: str, endpoint: str, role_arn: str, timeout_seconds: float
    ) -> None:
        self._region = region
        self._endpoint = endpoint
        self._role_arn = role_arn
        self._timeout = timeout_seconds
        # Connecting and waiting for an answer, at STS too where there is a role: half the timeout.
        self._patience = timeout_seconds / (8 if role_arn else 4)
        self._lock = threading.Lock()
        self._client: Any = None
        self._budget = _BUDGET
        try:
            import botocore.session  # type: ignore[import-untyped]  # noqa: F401, PLC0415
        except ModuleNotFoundError as error:
            raise failure_of(error, "").error from None
        # At DEBUG the library logs whole requests and answers, and so values.
        logger = logging.getLogger("botocore")
        logger.setLevel(max(logger.level, logging.INFO))

    def until(self) -> float:
        """When a turn that begins now has to be over."""
        return time.monotonic() + self._timeout

    def call(
        self, operation: str, until: float, place: str, parameters: dict[str, Any]
    ) -> dict[str, Any]:
        """What AWS answers. Raises a `DoxStoreError`, and nothing else."""
        last = error_for(
            "vault_unavailable", f"AWS Secrets Manager took too long: {self._timeout:g} s are over."
        )
        for attempt in range(_ATTEMPTS):
            if time.monotonic() > until - self._timeout / 2:
                break
            try:
                answer: dict[str, Any] = getattr(self._made(), operation)(**parameters)
            except Exception as error:  # noqa: BLE001 - the table is total, and nothing may pass
                last = self._failed(error, place)
            else:
                self._spend(-_REFUND)
                return answer
            if attempt == _ATTEMPTS - 1 or not self._spend(1.0):
                break
            time.sleep(random.uniform(0, _FIRST_PAUSE_SECONDS * 2**attempt))  # noqa: S311 - a pause
        raise last

    def _failed(self, error: Exception, place: str) -> DoxStoreError:
        """The error of ours, to be tried again; raises it if that is useless."""
        failure = failure_of(error, place)
        if failure.anew:
            with self._lock:
                self._client = None
        if not failure.again:
            raise failure.error from None
        return failure.error

    def _spend(self, tokens: float) -> bool:
        with self._lock:
            if self._budget < tokens:
                return False
            self._budget = min(self._budget - tokens, _BUDGET)
            return True

    def _made(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = self._new_client()
            return self._client

    def _new_client(self) -> Any:
        import botocore.config  # type: ignore[import-untyped]  # noqa: PLC0415 - only who has such a vault
        import botocore.session  # noqa: PLC0415 - as above

        config = botocore.config.Config(
            connect_timeout=self._patience,
            read_timeout=self._patience,
            retries={"total_max_attempts": 1},
            max_pool_connections=_CONNECTIONS,
        )
        session = botocore.session.get_session()
        if self._role_arn:
            session = self._as_role(session, config)
        return session.create_client(
            "secretsmanager",
            region_name=self._region,
            endpoint_url=self._endpoint or None,
            config=config,
        )

    def _as_role(self, source: Any, config: Any) -> Any:
        """A session whose only credentials are the role's; ``source`` is who may take it."""
        import botocore.credentials  # type: ignore[import-untyped]  # noqa: PLC0415 - as above
        import botocore.exceptions  # type: ignore[import-untyped]  # noqa: PLC0415 - as above
        import botocore.session  # noqa: PLC0415 - as above

        credentials = source.get_credentials()
        if credentials is None:
            raise botocore.exceptions.NoCredentialsError
        fetcher = botocore.credentials.AssumeRoleCredentialFetcher(
            client_creator=self._creator(source, config),
            source_credentials=credentials,
            role_arn=self._role_arn,
            extra_args={"RoleSessionName": _SESSION_NAME},
        )

        class RoleProvider(botocore.credentials.CredentialProvider):  # type: ignore[misc]
            METHOD = "assume-role"

            def load(self) -> Any:
                return botocore.credentials.DeferredRefreshableCredentials(
                    refresh_using=fetcher.fetch_credentials, method=self.METHOD
                )

        session = botocore.session.get_session()
        session.register_component(
            "credential_provider", botocore.credentials.CredentialResolver([RoleProvider()])
        )
        return session

    def _creator(self, source: Any, config: Any) -> Callable[..., Any]:
        def create(service: str, **given: Any) -> Any:
            return source.create_client(
                service, **{"region_name": self._region, "config": config, **given}
            )

        return create
