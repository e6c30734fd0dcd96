"""`Keeper`: lets an agent's folder follow what the store says of its keys.

A key's file is written when the key has a value, and removed when the store hands it out no more
(403, 404, 410), or when it cannot be asked and the grace is over. A token that the store refuses
(401) removes nothing at once: it may have just been replaced. But a file for which the store has
not vouched for an hour goes in any case, also where an agent starts while the store is away.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from dox_core_store.cli.agent_files import AgentFolder
from dox_core_store.cli.output import note
from dox_core_store.cli.run_map import KeyMap
from dox_core_store.cli.run_watch import REFUSALS
from dox_core_store.cli.service_client import is_borne
from dox_core_store.errors import ConfigurationError, DoxStoreError

if TYPE_CHECKING:
    from dox_core_store.client import Key

__all__ = ["Done", "Keeper"]

_GRACE_SECONDS = 3600.0
"""The store's own default. What a standard forbids to outlive an outage goes earlier: the client
has no value for it then."""


class Done(NamedTuple):
    """Names of files by what was done; ``failed`` has the key's error."""

    written: list[str]
    unchanged: list[str]
    removed: list[str]
    failed: dict[str, DoxStoreError]


class Keeper:
    """``folder`` is open."""

    def __init__(self, folder: AgentFolder) -> None:
        self._folder = folder
        self._map = KeyMap({}, {})
        self._vouched: set[str] = set()
        self.is_changed = False
        """Whether a file became another one; for the owner to reset."""

    @property
    def files(self) -> Mapping[str, str]:
        """Key paths by the names of their files."""
        return self._map.files

    @property
    def key_paths(self) -> list[str]:
        return list(dict.fromkeys(self._map.files.values()))

    def use(self, key_map: KeyMap) -> list[str]:
        """Keep the files of ``key_map`` from now on; the names of those that left.
        Raises ``bad_setting``, and then goes on as before."""
        self._folder.check(key_map.files)
        self._map = key_map
        left = [name for name in self._folder.names if name not in key_map.files]
        return [name for name in left if self._remove(name)]

    def take_all(self, found: Mapping[str, Key | DoxStoreError], removed: list[str]) -> Done:
        """Let every file be what ``found`` says of its key; ``removed`` was done before."""
        done = Done([], [], removed, {})
        for name, path in self._map.files.items():
            outcome = found[path]
            if not isinstance(outcome, DoxStoreError):
                (done.written if self._write(name, outcome) else done.unchanged).append(name)
            else:
                done.failed[name] = outcome
                if self._is_over(path, outcome) and self._remove(name):
                    done.removed.append(name)
        done.removed.extend(self.let_go())
        self._folder.save()
        return done

    def take(self, key_path: str, outcome: Key | DoxStoreError) -> None:
        """The same for one key, with a note of what is out of the ordinary."""
        is_over = isinstance(outcome, DoxStoreError) and self._is_over(key_path, outcome)
        if isinstance(outcome, DoxStoreError):
            what = "its files are removed" if is_over else "its files stay"
            note(f"doxstore: {key_path} cannot be had ({outcome.code}); {what}.")
        for name, path in self._map.files.items():
            if path != key_path:
                continue
            if not isinstance(outcome, DoxStoreError):
                self._write(name, outcome)
            elif is_over:
                self._remove(name)
        self._folder.save()

    def confirm(self, found: Mapping[str, Key | DoxStoreError]) -> None:
        """From time to time: ``found`` is what the store says now, as far as it can be asked."""
        for name, path in self._map.files.items():
            outcome = found.get(path)
            if outcome is None or isinstance(outcome, DoxStoreError):
                continue
            if outcome.source != "outage":
                self._folder.confirm(name)
        for name in self.let_go():
            note(f"doxstore: {name} is removed: the store has not vouched for it for an hour.")
        self._folder.save()

    def let_go(self) -> list[str]:
        """Remove what nobody has vouched for, for too long."""
        return [name for name in self._folder.outlived(_GRACE_SECONDS) if self._remove(name)]

    def clean(self) -> None:
        """Remove everything."""
        for name in self._folder.names:
            self._remove(name)

    def _is_over(self, key_path: str, error: DoxStoreError) -> bool:
        # The client has no value any more of a key that it had: the grace is over.
        return isinstance(error, REFUSALS) or (is_borne(error) and key_path in self._vouched)

    def _write(self, name: str, key: Key) -> bool:
        self._vouched.add(self._map.files[name])
        is_new = self._folder.write(
            name, key.value, key_path=self._map.files[name], version=key.version
        )
        self.is_changed |= is_new
        return is_new

    def _remove(self, name: str) -> bool:
        try:
            was_there = self._folder.remove(name)
        except ConfigurationError as error:
            note(f"doxstore: {error}")
            return False
        self.is_changed |= was_there
        return was_there
