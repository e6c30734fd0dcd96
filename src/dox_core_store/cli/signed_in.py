"""Where `doxstore login` keeps a token until it expires, for the commands that follow.

One file for each store, named after its address, readable by its owner alone (0600, in a folder
0700), under ``$XDG_STATE_HOME/doxstore`` or ``~/.local/state/doxstore``, written by rename. One
that somebody else could read is refused: its token may be known to them.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from datetime import datetime
from pathlib import Path

import msgspec

from dox_core_store import wire
from dox_core_store.errors import ConfigurationError
from dox_core_store.sensitive import Sensitive

__all__ = ["SignedIn", "forget", "keep", "kept", "token_of"]


class SignedIn(msgspec.Struct, frozen=True):
    """Who is signed in where, and until when."""

    url: str
    operator: str
    token_id: str
    token: Sensitive
    expires_at: datetime


def keep(signed_in: SignedIn) -> None:
    """Keep it, in the place of the one before."""
    path = _path(signed_in.url)
    draft = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, flags, 0o600), "wb") as file:
            file.write(wire.encode(signed_in))
        draft.replace(path)
    except OSError as error:
        raise ConfigurationError(
            "bad_setting", f"{path} cannot be written: {error.strerror}."
        ) from error


def kept(url: str) -> SignedIn | None:
    """Who is signed in at ``url``; None if nobody is, or not any more."""
    path = _path(url)
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
                raise ConfigurationError(
                    "bad_setting", f"{path} can be read by others: remove it and sign in again."
                )
            signed_in = wire.decode(SignedIn, file.read())
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    is_it = signed_in.url == url and signed_in.expires_at.timestamp() > time.time()
    return signed_in if is_it else None


def forget(url: str) -> None:
    """Remove what is kept for ``url``."""
    _path(url).unlink(missing_ok=True)


def token_of(url: str) -> str | None:
    """The token of whoever is signed in at ``url``, to be sent."""
    signed_in = kept(url)
    return None if signed_in is None else signed_in.token.reveal()


def _path(url: str) -> Path:
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    name = hashlib.sha256(url.encode()).hexdigest()[:32]
    return Path(state).expanduser() / "doxstore" / f"sign-in-{name}.json"
