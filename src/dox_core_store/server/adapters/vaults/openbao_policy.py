"""What the store needs in OpenBao: a KV engine of version 2, and a policy for just what it does.

The policy lets the store do its work below its prefix and nowhere else. It does not let it delete a
key with its history: metadata are deleted for what waits for promotion only. Who may log in with
the policy is for the people who run the vault to say.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dox_core_store.errors import error_for
from dox_core_store.server.adapters.vaults.openbao_connection import (
    Answer,
    BaoConnection,
    Deadline,
    said,
    vault_refused,
)

__all__ = ["PENDING", "is_versioned", "needed_capabilities", "policy_text", "set_up"]

PENDING = ".pending"
"""Folder below the prefix of what waits for promotion; no environment has a name with a dot."""

_READ_WRITE = ("create", "read", "update")
_RULES = (
    ("data", "*", _READ_WRITE),
    ("metadata", "*", ("create", "list", "patch", "read", "update")),
    ("metadata", f"{PENDING}/*", ("delete", "patch")),
    ("delete", "*", ("update",)),
    ("destroy", "*", ("update",)),
)
_OWN_TOKEN = (
    ("auth/token/lookup-self", ("read",)),
    ("auth/token/renew-self", ("update",)),
    ("sys/capabilities-self", ("update",)),
)
_OK, _NO_CONTENT = 200, 204


def policy_text(mount: str, prefix: str) -> str:
    """The policy for a store whose vault is ``prefix`` (may be empty) in the engine ``mount``."""
    rules = [
        (f"{mount}/{act}/{_below(prefix)}{rest}", capabilities)
        for act, rest, capabilities in _RULES
    ]
    return "".join(_rule(path, capabilities) for path, capabilities in (*rules, *_OWN_TOKEN))


def needed_capabilities(mount: str, prefix: str) -> dict[str, frozenset[str]]:
    """What a token has to be able to, by examples of paths."""
    return {
        f"{mount}/{act}/{_below(prefix)}{rest.replace('*', 'example')}": frozenset(capabilities)
        for act, rest, capabilities in _RULES
    }


def set_up(
    connection: BaoConnection,
    *,
    token: str,
    mount: str,
    prefix: str,
    policy_name: str,
    timeout_seconds: float,
) -> Iterator[str]:
    """Enable the engine if it is missing, write the policy; says what was done, step by step.

    ``token`` is an administrator's. Done again, nothing changes. Raises ``vault_conflict`` where
    something else is mounted, ``vault_refused`` and ``vault_unavailable``.
    """
    deadline = Deadline(timeout_seconds)
    there = connection.ask(deadline, "GET", f"sys/mounts/{mount}", token=token)
    if there.status == _OK:
        if not is_versioned(there):
            raise error_for("vault_conflict", f"At {mount} is another engine than KV, version 2.")
        yield f"A KV engine, version 2, is at {mount} already."
    else:
        wanted = {"type": "kv", "options": {"version": "2"}}
        _done(connection.ask(deadline, "POST", f"sys/mounts/{mount}", token=token, body=wanted))
        yield f"A KV engine, version 2, was enabled at {mount}."
    path, policy = f"sys/policies/acl/{policy_name}", policy_text(mount, prefix)
    _done(connection.ask(deadline, "PUT", path, token=token, body={"policy": policy}))
    yield f"The policy {policy_name} was written."


def is_versioned(answer: Answer) -> bool:
    """Whether what the server says of a mount is that of KV, version 2."""
    data = answer.body.get("data")
    options = data.get("options") if isinstance(data, dict) else None
    return (
        isinstance(data, dict)
        and data.get("type") == "kv"
        and isinstance(options, dict)
        and options.get("version") == "2"
    )


def _below(prefix: str) -> str:
    return f"{prefix}/" if prefix else ""


def _rule(path: str, capabilities: Iterable[str]) -> str:
    listed = ", ".join(f'"{each}"' for each in capabilities)
    return f'path "{path}" {{\n  capabilities = [{listed}]\n}}\n'


def _done(answer: Answer) -> None:
    if answer.status not in (_OK, _NO_CONTENT):
        raise vault_refused(f"The vault refuses: {said(answer)}.")
