"""What the store needs in IAM, and no more: the policies that ``doxstore vault setup aws`` prints.

Everything is limited to the region and to names below the prefix. A key's secret is never deleted
without its recovery window; that is allowed only for what lies apart. ``ListSecrets`` and
``BatchGetSecretValue`` know no resources in IAM: the first shows names and tags of the account, the
second hands out only what ``GetSecretValue`` is allowed for. The key of KMS may be used through
Secrets Manager, for these names, and not by itself.
"""

from __future__ import annotations

import json
from typing import Any

from dox_core_store.server.adapters.vaults.address import VaultAddress
from dox_core_store.server.adapters.vaults.aws_layout import layout_of
from dox_core_store.server.adapters.vaults.aws_place import APART

__all__ = ["assume_policy", "vault_policy"]

_KEYS = (
    "secretsmanager:CreateSecret",
    "secretsmanager:DescribeSecret",
    "secretsmanager:GetSecretValue",
    "secretsmanager:PutSecretValue",
    "secretsmanager:TagResource",
    "secretsmanager:UpdateSecret",
    "secretsmanager:UpdateSecretVersionStage",
)
_ACCOUNT = ("secretsmanager:BatchGetSecretValue", "secretsmanager:ListSecrets")


def vault_policy(address: VaultAddress, account: str = "*") -> str:
    """For the role that the store has there, as JSON. ``account`` is the number of the account.

    Raises `ConfigurationError` ``bad_setting``.
    """
    layout = layout_of(address)
    start = f"arn:{_partition(address.region)}:secretsmanager:{address.region}:{account}:secret:"
    delete = "secretsmanager:DeleteSecret"
    statements: list[dict[str, Any]] = [
        _allow("Keys", _KEYS, f"{start}{layout.root}*"),
        {
            **_allow("DeleteKeysWithRecovery", (delete,), f"{start}{layout.root}*"),
            "Condition": {
                "BoolIfExists": {"secretsmanager:ForceDeleteWithoutRecovery": "false"},
                "NumericGreaterThanEqualsIfExists": {
                    "secretsmanager:RecoveryWindowInDays": str(layout.recovery_days)
                },
            },
        },
        _allow("DeleteApart", (delete,), f"{start}{layout.root}{APART}/*"),
        _allow("List", _ACCOUNT, "*"),
    ]
    if layout.kms_key:
        statements.append(_kms(address, layout.kms_key, account, f"{start}{layout.root}*"))
    return _document(statements)


def assume_policy(address: VaultAddress) -> str | None:
    """For who takes the role of the option ``role_arn``, as JSON; None where there is none."""
    role = address.option("role_arn")
    return _document([_allow("BecomeTheVaultsRole", ("sts:AssumeRole",), role)]) if role else None


def _kms(address: VaultAddress, key: str, account: str, secrets: str) -> dict[str, Any]:
    condition: dict[str, Any] = {
        "StringEquals": {"kms:ViaService": f"secretsmanager.{address.region}.{_host(address)}"},
        "StringLike": {"kms:EncryptionContext:SecretARN": secrets},
    }
    start = f"arn:{_partition(address.region)}:kms:{address.region}:{account}:key/"
    resource = key if key.startswith("arn:") else f"{start}{key}"
    alias = key.rpartition(":")[2]
    if alias.startswith("alias/"):  # IAM knows a key by what it is, not by its other names
        resource = f"{start}*"
        condition["ForAnyValue:StringEquals"] = {"kms:ResourceAliases": alias}
    return {
        **_allow("Kms", ("kms:Decrypt", "kms:GenerateDataKey"), resource),
        "Condition": condition,
    }


def _allow(sid: str, actions: tuple[str, ...], resource: str) -> dict[str, Any]:
    return {"Sid": sid, "Effect": "Allow", "Action": list(actions), "Resource": resource}


def _document(statements: list[dict[str, Any]]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": statements}, indent=2) + "\n"


def _partition(region: str) -> str:
    if region.startswith("cn-"):
        return "aws-cn"
    return "aws-us-gov" if region.startswith("us-gov-") else "aws"


def _host(address: VaultAddress) -> str:
    return "amazonaws.com.cn" if address.region.startswith("cn-") else "amazonaws.com"
