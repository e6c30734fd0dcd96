"""Opening a connection with a password that the store keeps, and that may change at any moment.

The password is asked for at each connection; from the client's cache that takes no time. When it
changes, a database and the store say different things for a moment, whichever is changed first. So
where the database refuses it, the store is told (`Key.rejected`) and gives the current version if
it is another one by now, else the one before, and the connection is tried again with that. By then
the database may have been told, so after a second refusal the store is asked once more.

Whoever changes a password therefore stores the new one first and then tells the database: up to
that moment the old one is still to be had. No driver is imported here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from dox_core_store.client import Key, SyncKey
from dox_core_store.client.reader import DEFAULT_CACHE_TTL_SECONDS
from dox_core_store.errors import DoxStoreError

__all__ = ["REASON", "is_refused", "logged_in", "logged_in_async"]

C = TypeVar("C")
K = TypeVar("K", Key, SyncKey)

REASON = "the database refused the password"

_MOST_REFUSALS = 5
"""A change may come between any two steps: the new one too early, the old one too late, and so on.
More than that is a wrong password."""

_SQLSTATE = "28P01"
"""invalid_password, in PostgreSQL's appendix A."""

_MYSQL_ACCESS_DENIED = 1045

# libpq tells no SQLSTATE of a connection that was never made. The second is what a rotation by two
# roles looks like from the one that is out of use.
_WORDS = ("password authentication failed for user", "is not permitted to log in")


def is_refused(error: BaseException) -> bool:
    """Whether a driver's ``error`` says that user and password were not accepted, and nothing else
    is wrong. PostgreSQL's text has to be English (``lc_messages``)."""
    return (
        getattr(error, "sqlstate", None) == _SQLSTATE
        or error.args[:1] == (_MYSQL_ACCESS_DENIED,)
        or any(words in str(error) for words in _WORDS)
    )


def logged_in(
    get_key: Callable[[float], K], connect: Callable[[K], C], rejected: Callable[[K], K]
) -> C:
    """What ``connect`` makes of the key that ``get_key`` gives for a ``cache_ttl``, or of another
    one instead of one that is refused. Raises what they do; where there is no other, the
    refusal."""
    key = get_key(DEFAULT_CACHE_TTL_SECONDS)
    for refusal in range(_MOST_REFUSALS):
        try:
            return connect(key)
        except Exception as error:
            if not is_refused(error):
                raise
            try:
                newest = get_key(0) if refusal else key
                key = newest if newest.version_id != key.version_id else rejected(key)
            except DoxStoreError as nothing:
                _say(error, nothing)
                raise error from None
    return connect(key)


async def logged_in_async(
    get_key: Callable[[float], Awaitable[Key]], connect: Callable[[Key], Awaitable[C]]
) -> C:
    """The same, where both have to be waited for."""
    key = await get_key(DEFAULT_CACHE_TTL_SECONDS)
    for refusal in range(_MOST_REFUSALS):
        try:
            return await connect(key)
        except Exception as error:
            if not is_refused(error):
                raise
            try:
                newest = await get_key(0) if refusal else key
                is_other = newest.version_id != key.version_id
                key = newest if is_other else await key.rejected(REASON)
            except DoxStoreError as nothing:
                _say(error, nothing)
                raise error from None
    return await connect(key)


def _say(error: Exception, nothing: DoxStoreError) -> None:
    error.add_note(f"The store has no other value to try ({nothing.code}): {nothing.detail}")
