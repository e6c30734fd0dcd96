"""What is asked of Secrets Manager, one request each, within the time of one turn.

Values are always asked for by version or by label: without one, moto answers the wrong version
after a label has moved. ``None`` is what AWS does not have, or has scheduled for deletion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from dox_core_store.errors import DoxStoreError, error_for
from dox_core_store.server.adapters.vaults.aws_client import AwsClient
from dox_core_store.server.adapters.vaults.aws_place import CURRENT, AwsSecret
from dox_core_store.server.adapters.vaults.aws_value import has_value

__all__ = ["MAX_BATCH", "AwsTurn", "pages", "settled"]

Result = TypeVar("Result")

MAX_BATCH = 20
"""Secrets in one BatchGetSecretValue; moto takes more."""
_MAX_PAGE = 100
_TRIES = 4
_MAX_DESCRIPTION = 2048
_ABSENT = frozenset({"vault_value_missing", "vault_conflict"})
"""For who reads. A conflict is then a secret that is scheduled for deletion."""


class AwsTurn:
    """One method of the vault at work."""

    def __init__(self, client: AwsClient) -> None:
        self._client = client
        self._until = client.until()

    def described(self, name: str) -> AwsSecret | None:
        try:
            return AwsSecret.of(self._call("describe_secret", "Name", name, SecretId=name))
        except DoxStoreError as error:
            if error.code == "vault_value_missing":
                return None
            raise

    def at(self, name: str, version: str) -> dict[str, Any] | None:
        return self._value(name, VersionId=version)

    def current(self, name: str) -> dict[str, Any] | None:
        return self._value(name, VersionStage=CURRENT)

    def currents(self, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The current values of ``names``, `MAX_BATCH` of them at most, by name; without those
        that AWS does not have, or that it refuses."""
        found: dict[str, dict[str, Any]] = {}
        more: dict[str, Any] = {}
        while True:
            answer = self._call(
                "batch_get_secret_value",
                "SecretValues",
                "several secrets",
                SecretIdList=list(names),
                **more,
            )
            found |= {each["Name"]: each for each in answer.get("SecretValues") or ()}
            if not answer.get("NextToken"):
                return found
            more = {"NextToken": answer["NextToken"]}

    def create(
        self,
        name: str,
        version: str,
        secret: Mapping[str, Any],
        *,
        tags: Mapping[str, str],
        description: str,
        kms_key: str,
    ) -> None:
        """A secret whose only version is ``version``. Nothing happens if it is there already;
        raises ``vault_conflict`` if something else is."""
        given: dict[str, Any] = {"KmsKeyId": kms_key} if kms_key else {}
        self._call(
            "create_secret",
            "Name",
            name,
            Name=name,
            ClientRequestToken=version,
            Tags=_tags(tags),
            Description=description[:_MAX_DESCRIPTION],
            **secret,
            **given,
        )

    def put(self, name: str, version: str, secret: Mapping[str, Any], label: str) -> None:
        """One more version, with ``label`` and no other, so that it is nobody's current one: in a
        secret that has a version already, for AWS makes the first one current by itself."""
        answer = self._call(
            "put_secret_value",
            "VersionId",
            name,
            SecretId=name,
            ClientRequestToken=version,
            VersionStages=[label],
            **secret,
        )
        if label not in answer.get("VersionStages", [label]):  # it was there, without a label
            self.move(name, label, source=None, target=version)

    def move(self, name: str, label: str, *, source: str | None, target: str | None) -> None:
        """Raises ``vault_conflict`` if ``label`` is not at ``source``: who saw it there should
        look again."""
        given = {"RemoveFromVersionId": source, "MoveToVersionId": target}
        self._call(
            "update_secret_version_stage",
            "Name",
            name,
            SecretId=name,
            VersionStage=label,
            **{key: value for key, value in given.items() if value is not None},
        )

    def tag(self, name: str, tags: Mapping[str, str]) -> None:
        self._call("tag_resource", "", name, SecretId=name, Tags=_tags(tags))

    def describe(self, name: str, description: str) -> None:
        """Have ``name`` described so."""
        description = description[:_MAX_DESCRIPTION]
        self._call("update_secret", "Name", name, SecretId=name, Description=description)

    def delete(self, name: str, *, recovery_days: int | None) -> None:
        """With all versions; for good, where ``recovery_days`` is None. Gone already is fine."""
        window: dict[str, Any] = (
            {"ForceDeleteWithoutRecovery": True}
            if recovery_days is None
            else {"RecoveryWindowInDays": recovery_days}
        )
        try:
            self._call("delete_secret", "Name", name, SecretId=name, **window)
        except DoxStoreError as error:
            if error.code not in _ABSENT:
                raise

    def page(
        self, prefix: str, *, limit: int = _MAX_PAGE, token: str | None = None
    ) -> tuple[list[AwsSecret], str | None]:
        """Secrets whose names begin with ``prefix``. AWS may be five minutes behind."""
        given: dict[str, Any] = {"MaxResults": limit}
        if prefix:
            given["Filters"] = [{"Key": "name", "Values": [prefix]}]
        if token is not None:
            given["NextToken"] = token
        answer = self._call("list_secrets", "SecretList", prefix or "all secrets", **given)
        found = [AwsSecret.of(each) for each in answer.get("SecretList") or ()]
        # The filter is AWS's, and what it takes for a beginning is said in half a sentence.
        return [each for each in found if each.name.startswith(prefix)], answer.get("NextToken")

    def _value(self, name: str, **which: str) -> dict[str, Any] | None:
        try:
            answer = self._call("get_secret_value", "VersionId", name, SecretId=name, **which)
        except DoxStoreError as error:
            if error.code in _ABSENT:
                return None
            raise
        return answer if has_value(answer) else None

    def _call(self, operation: str, has: str, place: str, **parameters: Any) -> dict[str, Any]:
        """What AWS answers, which always has ``has`` in it. The library takes any answer that is
        no error for one of AWS's, be it a page of a proxy: that is not a value that is missing."""
        answer = self._client.call(operation, self._until, place, parameters)
        if has and answer.get(has) is None:
            raise error_for(
                "vault_unavailable", f"What answers {operation} is not AWS: it says no {has}."
            )
        return answer


def settled(client: AwsClient, act: Callable[[AwsTurn], Result]) -> Result:
    """What ``act`` does, which is done again where somebody changed the secret in between."""
    turn = AwsTurn(client)
    for _ in range(_TRIES - 1):
        try:
            return act(turn)
        except DoxStoreError as error:
            if error.code not in _ABSENT:
                raise
    return act(turn)


def pages(client: AwsClient, prefix: str) -> Iterator[list[AwsSecret]]:
    """All secrets whose names begin with ``prefix``, page by page, a turn for each."""
    token: str | None = None
    while True:
        found, token = AwsTurn(client).page(prefix, token=token)
        yield found
        if not token:
            return


def _tags(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]
