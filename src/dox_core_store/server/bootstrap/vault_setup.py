"""What has to be done in a vault before a store's values can lie there: said, and for OpenBao done.

Needs no store, and no credentials but an administrator's where it is to be done.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import NamedTuple

from dox_core_store.errors import ConfigurationError
from dox_core_store.server.adapters.vaults.address import (
    Login,
    VaultAddress,
    VaultKind,
    parse_vault,
)
from dox_core_store.server.adapters.vaults.aws_policy import assume_policy, vault_policy
from dox_core_store.server.adapters.vaults.openbao_connection import BaoConnection
from dox_core_store.server.adapters.vaults.openbao_policy import policy_text, set_up

__all__ = ["SetupStep", "apply_setup", "setup_steps"]

_TIMEOUT_SECONDS = 30.0


class SetupStep(NamedTuple):
    """What is to be done, and the command or document for it."""

    what: str
    text: str


def setup_steps(
    kind: str, text: str, *, policy_name: str, account: str
) -> tuple[str, list[SetupStep]]:
    """The name of the vault at the address ``text``, and what is to be done there. Raises
    `ConfigurationError` ``bad_setting``, also where the address is of another ``kind``."""
    address = _address(kind, text)
    if address.kind is VaultKind.OPENBAO:
        return address.name, [*_openbao_steps(address, policy_name), _setting(text)]
    steps = [
        SetupStep(
            "A policy of IAM for the role or user of the store:", vault_policy(address, account)
        )
    ]
    if (become := assume_policy(address)) is not None:
        role = address.option("role_arn")
        steps[0] = SetupStep(f"A policy of IAM for {role}:", vault_policy(address, account))
        steps.append(SetupStep(f"And one for whoever is to become {role}:", become))
        steps.append(
            SetupStep("The role's own trust policy has to name whoever that is, as in:", _TRUST)
        )
    return address.name, [*steps, _setting(text)]


def apply_setup(text: str, *, token: str, policy_name: str) -> Iterator[str]:
    """Do it, for OpenBao; says what was done, step by step. Done again, nothing changes.

    Raises as `set_up` does.
    """
    address = _address(VaultKind.OPENBAO, text)
    connection = BaoConnection(
        origin=address.origin,
        namespace=address.option("namespace"),
        ca_file=address.option("ca_file"),
    )
    with contextlib.closing(connection):
        yield from set_up(
            connection,
            token=token,
            mount=address.mount,
            prefix=address.prefix,
            policy_name=policy_name,
            timeout_seconds=_TIMEOUT_SECONDS,
        )


_TRUST = """\
{
  "Version": "2012-10-17",
  "Statement": [
    {
      "Effect": "Allow",
      "Principal": {"AWS": "arn:aws:iam::ACCOUNT:role/WHO-RUNS-THE-STORE"},
      "Action": "sts:AssumeRole"
    }
  ]
}
"""


def _openbao_steps(address: VaultAddress, policy_name: str) -> list[SetupStep]:
    tool, upper = ("vault", "VAULT") if address.name.startswith("vault+") else ("bao", "BAO")
    where = [f"export {upper}_ADDR={address.origin}"]
    if namespace := address.option("namespace"):
        where.append(f"export {upper}_NAMESPACE={namespace.strip('/')}")
    policy = policy_text(address.mount, address.prefix)
    return [
        SetupStep("Which server:", "\n".join(where) + "\n"),
        SetupStep(
            "A KV engine, version 2, if there is none yet:",
            f"{tool} secrets enable -path={address.mount} -version=2 kv\n",
        ),
        SetupStep(
            f"The policy {policy_name}, which lets the store do its work and nothing else:",
            f"{tool} policy write {policy_name} - <<'POLICY'\n{policy}POLICY\n",
        ),
        SetupStep("A login with this policy:", _login(address, tool, policy_name)),
    ]


def _setting(text: str) -> SetupStep:
    what = "And the setting of every node, with where its credentials are (docs/operations.md):"
    return SetupStep(what, f"vault = {json.dumps(text)}\n")


def _login(address: VaultAddress, tool: str, policy_name: str) -> str:
    login = Login(address.option("login", Login.TOKEN))
    mount, role = address.option("auth_mount", login), address.option("role", "doxstore")
    given = f"token_policies={policy_name} token_no_default_policy=true"
    if login is Login.TOKEN:
        given = f"-policy={policy_name} -no-default-policy"
        return f"{tool} token create {given} -period=24h -field=token\n"
    if login is Login.APPROLE:
        return (
            f"{tool} write auth/{mount}/role/doxstore {given}\n"
            f"{tool} read -field=role_id auth/{mount}/role/doxstore/role-id\n"
            f"{tool} write -f -field=secret_id auth/{mount}/role/doxstore/secret-id\n"
        )
    if login is Login.KUBERNETES:
        return (
            f"{tool} write auth/{mount}/role/{role} {given} \\\n"
            "  bound_service_account_names=doxstore bound_service_account_namespaces=NAMESPACE\n"
        )
    return (
        f"{tool} write auth/{mount}/role/{role} role_type=jwt {given} \\\n"
        "  user_claim=sub bound_audiences=AUDIENCE bound_subject=SUBJECT\n"
    )


def _address(kind: str, text: str) -> VaultAddress:
    address = parse_vault(text)
    if address.kind != kind:
        raise ConfigurationError(
            "bad_setting", f"{address.name} is an address of {address.kind}, not of {kind}."
        )
    return address
