"""Random operations on a real embedded store, against a dict that says what must be true.

The store is the one of `asking`. Imports are tidied up by the node's own sweeper, at moments that
the machine does not choose: nobody may notice, but for a version that retention ends, which may be
there until then.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.unit.server.asking import KEPT, Asking, MovedClock, Told

KEYS = ("one", "one.below")
values = st.sampled_from(["", "a", "b", "\N{GRINNING FACE}\n"])
names = st.sampled_from(KEYS)
picks = st.none() | st.sampled_from(
    ["pending", "previous", "retired", "revoked", "destroyed", 1, 2, 3, 4, -1, 0, 9]
)
"""A version by number, or the oldest one in a state."""

histories = st.lists(st.sampled_from(["put", "put", "propose", "revoke"]), max_size=7)
guesses = st.sampled_from([None, None, None, None, 0, 1, 2, 3])
lives = st.sampled_from([None, 7])

STEP_MINUTES = 5
MOST_STEPS = 8
"""So that no open import is ever given up as idle."""

ENDS = {
    "retire": ("retired", ("previous", "retired")),
    "revoke": ("revoked", ("pending", "current", "previous", "retired", "revoked")),
    "destroy": ("destroyed", ("pending", "previous", "retired", "revoked", "destroyed")),
}
"""What ends a version: to which state, and from which."""

Pick = str | int | None


class Version:
    """``lately`` is what a reader may still be told, until the sweeper has come by."""

    def __init__(self, value: str, state: str, expires: int | None) -> None:
        self.value = value
        self.state = state
        self.expires = expires
        self.lately: str | None = None

    def supersede(self) -> None:
        self.state = {"previous": "retired", "current": "previous"}.get(self.state, self.state)

    def read(self, reader: str) -> str:
        """The value, or the code of the refusal."""
        if self.state in ("revoked", "destroyed"):
            return f"version_{self.state}"
        if self.state == "pending" or (self.state == "retired" and reader == "service"):
            return "version_unavailable"
        return "key_expired" if self.has_expired else self.value

    @property
    def has_expired(self) -> bool:
        return self.expires is not None and self.expires <= MovedClock.ahead_minutes


class Model:
    """What one key must be like: its versions by number, its head, the last number given out, how
    many it keeps, and what an import has staged for it (which one, and the value)."""

    def __init__(self) -> None:
        self.versions: dict[int, Version] = {}
        self.head = 0
        self.last = 0
        self.keep: int | None = None
        self.stage: tuple[str, str] | None = None

    def in_state(self, *states: str) -> list[int]:
        """The numbers of versions in one of ``states``, highest first."""
        found = [n for n, version in self.versions.items() if version.state in states]
        return sorted(found, reverse=True)

    def add(self, value: str, state: str, life: int | None) -> int:
        self.last += 1
        expires = None if life is None else MovedClock.ahead_minutes + life
        self.versions[self.last] = Version(value, state, expires)
        return self.last

    def promote(self, number: int) -> None:
        for version in self.versions.values():
            version.supersede()
        self.versions[number].state = "current"
        self.head = number
        self.prune()

    def prune(self) -> None:
        keep = KEPT if self.keep is None else self.keep
        for number in self.in_state("retired", "revoked")[keep:] if keep else []:
            if number != self.head:
                self.versions[number].state = "destroyed"

    def unstage(self) -> None:
        """What was staged is gone; its number stays given out, if the key was there at all."""
        self.stage = None
        self.last = self.last if self.versions else 0

    def settled(self) -> None:
        for version in self.versions.values():
            version.lately = None

    @property
    def listed_state(self) -> str | None:
        if self.head:
            return self.versions[self.head].state
        return "pending" if self.in_state("pending") else None

    def read(self, number: int | None, reader: str) -> set[str]:
        """What a reader may be told."""
        version = self.versions.get(self.head if number is None else number)
        if version is None:
            return {"key_not_found" if number is None else "version_not_found"}
        return {version.read(reader), version.lately or version.read(reader)}


class StoreMachine(RuleBasedStateMachine):
    """Every rule does one thing to the store and to the model, and compares the answers."""

    asking: ClassVar[Asking]
    folders: ClassVar[Iterator[int]] = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self.prefix = f"m{next(self.folders)}"
        self.models = {name: Model() for name in KEYS}
        self.imports: dict[str, bool] = {}
        """The open ones, and whether each is in conflict."""
        self.slices: dict[str, int] = {}
        self.counts: dict[str, dict[str, int]] = {}
        self.steps = 0
        self.touched: set[str] = set()
        """Keys of which every version is read after this step, and not only listed."""

    def ask(self, name: str, act: str, **body: Any) -> Told:
        self.touched.add(name)
        given = {field: value for field, value in body.items() if value is not None}
        return self.asking("POST", f"/v1/keys/{self.prefix}.{name}/{act}", given)

    def until(self, life: int | None) -> str | None:
        """A life in minutes as the time of its end."""
        if life is None:
            return None
        return (MovedClock().now() + timedelta(minutes=life)).isoformat()

    def changed(self, name: str) -> None:
        """A change of a key takes it from the import that has staged it, and settles it."""
        model = self.models[name]
        model.settled()
        if model.stage is not None:
            self.imports[model.stage[0]] = True
            model.unstage()

    def refused(self, told: Told, name: str, number: int | None, *, of_head: bool) -> bool:
        """Whether there is no such version, as the answer must then say."""
        model = self.models[name]
        if not model.versions or (number is None and of_head and not model.head):
            assert told.code == "key_not_found"
        elif number is not None and number not in model.versions:
            assert told.code == "version_not_found"
        else:
            return False
        return True

    def conflicts(self, told: Told, name: str, guess: int | None) -> bool:
        """Whether the caller guessed the current version wrongly."""
        actual = self.models[name].head
        if guess in (None, actual):
            return False
        assert (told.status, told.code) == (409, "version_conflict")
        assert told.json["actual_version"] == actual
        return True

    def picked(self, name: str, pick: Pick) -> int | None:
        """The number of a version: one that there is not, if none is in the picked state."""
        if not isinstance(pick, str):
            return pick
        return next(reversed(self.models[name].in_state(pick)), 99)

    @initialize(told=st.fixed_dictionaries(dict.fromkeys(KEYS, histories)))
    def grow(self, told: dict[str, list[str]]) -> None:
        """Begin with keys that have been there for a while."""
        for name, history in told.items():
            for at, what in enumerate(history):
                if what == "put":
                    self.put(name, f"v{at}", None, None)
                elif what == "propose":
                    self.propose(name, f"v{at}", None)
                else:
                    self.end(name, "revoke", None)

    @rule(name=names, value=values, guess=guesses, life=lives)
    def put(self, name: str, value: str, guess: int | None, life: int | None) -> None:
        model = self.models[name]
        self.touched.add(name)
        body = {"value": value, "if_version": guess, "expires_at": self.until(life)}
        told = self.asking("PUT", f"/v1/keys/{self.prefix}.{name}", body)
        if self.conflicts(told, name, guess):
            return
        self.changed(name)
        is_first = not model.head
        model.promote(model.add(value, "current", life))
        assert told.status == (201 if is_first else 200)
        assert (told.json["version"], told.json["state"]) == (model.last, "current")

    @rule(name=names, value=values, life=lives)
    def propose(self, name: str, value: str, life: int | None) -> None:
        told = self.ask(name, "propose", value=value, expires_at=self.until(life))
        self.changed(name)
        number = self.models[name].add(value, "pending", life)
        assert (told.status, told.json["version"], told.json["state"]) == (200, number, "pending")

    @rule(name=names, pick=picks, guess=guesses)
    def promote(self, name: str, pick: Pick, guess: int | None) -> None:
        model, number = self.models[name], self.picked(name, pick)
        told = self.ask(name, "promote", version=number, if_version=guess)
        pending = model.in_state("pending")
        head = model.versions.get(model.head)
        if not model.versions:
            assert told.code == "key_not_found"
            return
        if self.conflicts(told, name, guess):
            return
        if number is None and len(pending) != 1:
            assert told.code == ("illegal_transition" if pending else "version_not_found")
            assert all(str(each) in told.json["detail"] for each in pending)
            return
        target = pending[0] if number is None else number
        if self.refused(told, name, target, of_head=False):
            return
        if target not in pending:
            assert told.code == "illegal_transition"
        elif head is not None and head.state == "current" and model.head > target:
            assert (told.code, told.json["actual_version"]) == ("version_conflict", model.head)
        elif model.versions[target].has_expired:
            assert told.code == "illegal_transition"
        else:
            self.changed(name)
            model.promote(target)
            assert (told.status, told.json["version"]) == (200, target)
            assert told.json["state"] == "current"

    @rule(name=names, pick=picks, guess=guesses)
    def rollback(self, name: str, pick: Pick, guess: int | None) -> None:
        model, number = self.models[name], self.picked(name, pick)
        told = self.ask(name, "rollback", to_version=number, if_version=guess)
        earlier = model.in_state("previous") + model.in_state("retired")
        if not model.versions:
            assert told.code == "key_not_found"
        elif self.conflicts(told, name, guess) or self.refused(told, name, number, of_head=True):
            pass
        elif number is None and not earlier:
            assert told.code == "version_not_found"
        elif number is not None and number not in earlier:
            assert told.code == "illegal_transition"
        else:
            target = earlier[0] if number is None else number
            self.changed(name)
            model.promote(model.add(model.versions[target].value, "current", None))
            assert (told.status, told.json["version"]) == (200, model.last)
            assert told.json["rolled_back_from"] == target

    @rule(name=names, act=st.sampled_from(list(ENDS)), pick=picks)
    def end(self, name: str, act: str, pick: Pick) -> None:
        model, number = self.models[name], self.picked(name, pick)
        state, legal = ENDS[act]
        told = self.ask(name, act, version=number)
        if model.versions and number is None and act == "retire":
            number = next(iter(model.in_state("previous")), 0)
        if self.refused(told, name, number, of_head=True):
            return
        target = model.head if number is None else number
        if model.versions[target].state not in legal:
            assert told.code == "illegal_transition"
            return
        self.changed(name)
        model.versions[target].state = state
        assert (told.status, told.json["version"], told.json["state"]) == (200, target, state)

    @rule(name=names, life=st.none() | st.integers(6, 12))
    def expire_or_extend(self, name: str, life: int | None) -> None:
        model = self.models[name]
        if life is None:
            told = self.ask(name, "expire")
        else:
            told = self.ask(name, "extend", expires_at=self.until(life))
        if self.refused(told, name, None, of_head=True):
            return
        head = model.versions[model.head]
        if head.state != "current":
            assert told.code == "illegal_transition"
            return
        self.changed(name)
        if life is not None:
            head.expires = MovedClock.ahead_minutes + life
        elif not head.has_expired:
            head.expires = MovedClock.ahead_minutes
        assert (told.status, told.json["version"]) == (200, model.head)

    @rule(name=names, keep=st.sampled_from([0, 1, 3, "default"]))
    def describe(self, name: str, keep: int | str) -> None:
        self.tidied_up()  # how many are kept is asked when a version is promoted, not afterwards
        model = self.models[name]
        told = self.ask(name, "describe", keep_versions=keep, owner="ada")
        if self.refused(told, name, None, of_head=False):
            return
        model.keep = keep if isinstance(keep, int) else None
        model.prune()
        assert (told.status, told.json["keep_versions"]) == (200, model.keep)
        assert told.json["version"] == (model.head or None)
        assert told.json["owner"] == "ada"

    @precondition(lambda self: self.steps < MOST_STEPS)
    @rule()
    def time_passes(self) -> None:
        self.steps += 1
        MovedClock.ahead_minutes += STEP_MINUTES
        self.touched.update(KEYS)

    @rule()
    def tidied_up(self) -> None:
        self.asking.sweep()
        for model in self.models.values():
            model.settled()

    @precondition(lambda self: len(self.imports) < 2)
    @rule()
    def open_import(self) -> None:
        self.imports[self.asking("POST", "/v1/imports").json["import_id"]] = False

    @precondition(lambda self: self.imports)
    @rule(data=st.data(), entries=st.dictionaries(names, values, min_size=1))
    def stage(self, data: st.DataObject, entries: dict[str, str]) -> None:
        import_id = data.draw(st.sampled_from(list(self.imports)))
        slice_ = [
            {"key_path": f"{self.prefix}.{name}", "environment": "production", "value": value}
            for name, value in entries.items()
        ]
        told = self.asking(
            "POST",
            f"/v1/imports/{import_id}/entries",
            {"sequence": self.slices.get(import_id, 0), "entries": slice_},
        )
        staged = {name: self.models[name].stage for name in entries}
        if any(
            there is not None and there[0] == import_id and there[1] != entries[name]
            for name, there in staged.items()
        ):
            assert told.code == "malformed_import"
            return
        self.slices[import_id] = self.slices.get(import_id, 0) + 1
        counts = self.counts.setdefault(import_id, {"created": 0, "replaced": 0, "unchanged": 0})
        for name, value in entries.items():
            counts[self.staged(name, import_id, value)] += 1
        assert (told.status, {each: told.json[each] for each in counts}) == (200, counts)

    def staged(self, name: str, import_id: str, value: str) -> str:
        """What an import says of an entry."""
        self.touched.add(name)
        model = self.models[name]
        if model.stage == (import_id, value):
            return "unchanged"
        if model.stage is not None:
            self.changed(name)
        head = model.versions.get(model.head)
        if head is not None and head.state == "current" and head.value == value:
            return "unchanged"
        model.settled()
        model.last += 1
        model.stage = (import_id, value)
        return "created" if head is None else "replaced"

    @precondition(lambda self: self.imports)
    @rule(data=st.data(), commit=st.booleans(), tidy=st.booleans())
    def end_import(self, data: st.DataObject, *, commit: bool, tidy: bool) -> None:
        import_id = data.draw(st.sampled_from(list(self.imports)))
        told = self.asking("POST", f"/v1/imports/{import_id}/{'commit' if commit else 'abort'}", {})
        if commit and self.imports[import_id]:
            assert told.code == "version_conflict"
            return
        assert told.status == 200
        del self.imports[import_id]
        self.touched.update(KEYS)
        for model in self.models.values():
            if model.stage is None or model.stage[0] != import_id:
                continue
            if not commit:
                model.unstage()
                continue
            before = {n: version.read("maintainer") for n, version in model.versions.items()}
            model.versions[model.last] = Version(model.stage[1], "pending", None)
            model.stage = None
            model.promote(model.last)
            for number, said in before.items():
                if said != "version_destroyed" == model.versions[number].read("maintainer"):
                    model.versions[number].lately = said
        if tidy:
            self.tidied_up()

    def teardown(self) -> None:
        for import_id in self.imports:
            self.asking("POST", f"/v1/imports/{import_id}/abort", {})

    @invariant()
    def everything_reads_as_the_model_says(self) -> None:
        for name, model in self.models.items():
            numbers = range(1, model.last + 2) if name in self.touched else ()
            for number in (None, *numbers):
                query = "" if number is None else f"?version={number}"
                for reader in ("service", "maintainer"):
                    told = self.asking(
                        "GET",
                        f"/v1/keys/{self.prefix}.{name}{query}",
                        token=getattr(self.asking, reader),
                    )
                    said = told.json["value"] if told.status == 200 else told.code
                    assert said in model.read(number, reader), (name, number, reader)
        self.touched = set()

    @invariant()
    def the_list_shows_what_there_is(self) -> None:
        page = self.asking("GET", f"/v1/keys?prefix={self.prefix}").json["items"]
        assert {
            row["key_path"].removeprefix(f"{self.prefix}."): (row["version"], row["state"])
            for row in page
        } == {
            name: (model.head or None, model.listed_state)
            for name, model in self.models.items()
            if model.versions
        }

    @invariant()
    def every_version_is_told(self) -> None:
        for name, model in self.models.items():
            told = self.asking("GET", f"/v1/keys/{self.prefix}.{name}/versions")
            if not model.versions:
                assert told.code == "key_not_found"
                continue
            states = {row["version"]: row["state"] for row in told.json["items"]}
            assert states.keys() == model.versions.keys()
            for number, version in model.versions.items():
                assert version.lately is not None or states[number] == version.state


def test_a_store_does_what_a_dict_says(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StoreMachine, "asking", asking, raising=False)
    run_state_machine_as_test(
        StoreMachine,
        settings=settings(
            max_examples=25,
            stateful_step_count=30,
            deadline=None,
            # A failing walk is told as it was met: making it shorter takes longer than a test may.
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
