"""Wherever a store keeps its catalog and its values, it answers alike: the shipped suite on each
combination, and one row of random operations on all of them.

A failed row names its seed; ``DOXSTORE_PLAY_SEED`` plays that one again.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import zip_longest
from operator import eq

import pytest
from tests.functional.every_combination import COMBINATIONS, Combination, running_combinations
from tests.functional.postgres import Postgres
from tests.functional.real_servers import Moto, OpenBao
from tests.functional.running import RunningStore

from dox_core_store.testing.store_case import PREFIX, until
from dox_core_store.testing.store_conformance import StoreConformance
from dox_core_store.testing.store_play import (
    Operation,
    Played,
    current_values,
    operations,
    played,
    recorded,
)

OPERATIONS = 200
REFERENCE = COMBINATIONS[0]

Record = list[list[tuple[object, ...]]]


@pytest.fixture(scope="module")
def combinations(
    tmp_path_factory: pytest.TempPathFactory,
    made_store: RunningStore,
    postgres: Postgres,
    openbao: OpenBao,
    moto: Moto,
) -> Iterator[Mapping[str, Combination]]:
    folder = tmp_path_factory.mktemp("combinations")
    with running_combinations(
        folder, made_store, postgres=postgres, openbao=openbao, moto=moto
    ) as running:
        yield running


@pytest.mark.parametrize("name", [each for each in dir(StoreConformance) if each[:5] == "test_"])
def test_every_store_conforms(name: str, combinations: Mapping[str, Combination]) -> None:
    """The shipped suite, on all of them at once: what takes something away waits in each."""
    with ThreadPoolExecutor(len(combinations)) as pool:
        runs = {
            each.name: pool.submit(getattr(StoreConformance(), name), each.asked)
            for each in combinations.values()
        }
    for combination, run in runs.items():
        if (error := run.exception()) is not None:
            error.add_note(f"on {combination}")
            raise error


def test_random_operations_have_the_same_answers_everywhere(
    combinations: Mapping[str, Combination], capsys: pytest.CaptureFixture[str]
) -> None:
    seed = int(os.environ.get("DOXSTORE_PLAY_SEED") or secrets.randbelow(1_000_000))
    root = f"{PREFIX}.play{secrets.token_hex(4)}"
    row = operations(seed, OPERATIONS, root)
    with capsys.disabled():
        print(f"\n{len(row)} operations on {len(combinations)} stores, seed {seed}")
    began = time.monotonic()
    with ThreadPoolExecutor(len(combinations)) as pool:
        found = pool.map(lambda each: played(each.asked, row), combinations.values())
        results = dict(zip(combinations, found, strict=True))
    with capsys.disabled():
        print(f"answered in {time.monotonic() - began:.1f} s: {_tally(results[REFERENCE])}")
    for name, result in results.items():
        _answers_are_equal(seed, row, name, result, results[REFERENCE])
    expected = _settled_record(combinations[REFERENCE], results[REFERENCE])
    for name, result in results.items():
        for number, (mine, other) in enumerate(
            zip(_settled_record(combinations[name], result, expected), expected, strict=True)
        ):
            assert mine == other, f"seed {seed}, ledger of {name}, {number}: {row[number]}"
    values = current_values(combinations[REFERENCE].asked, root)
    assert values
    for name, combination in combinations.items():
        assert current_values(combination.asked, root) == values, f"seed {seed}, {name}"
        _vault_agrees(seed, combination, values)


def _settled_record(
    combination: Combination, result: Played, expected: Record | None = None
) -> Record:
    """What the ledger has: refusals come to be there a moment later, all at the latest when a
    request that came after them is there."""

    def is_whole(record: Record) -> bool:
        if expected is not None:
            return record == expected
        return all(
            entries or status < 400
            for entries, (status, _, _) in zip(record, result.answers, strict=True)
        )

    return until(lambda: recorded(combination.asked.export(), result.request_ids), is_whole)


def _tally(result: Played) -> dict[int, int]:
    statuses = [status for status, _, _ in result.answers]
    return {status: statuses.count(status) for status in sorted(set(statuses))}


def _answers_are_equal(
    seed: int, row: list[Operation], name: str, mine: Played, other: Played
) -> None:
    for number, (answer, expected) in enumerate(zip_longest(mine.answers, other.answers)):
        before = "\n".join(f"  {each}: {row[each]}" for each in range(max(0, number - 3), number))
        where = f"seed {seed}, {name} and {REFERENCE}, at {number}: {row[number]}"
        assert answer == expected, f"{where}, after\n{before}"


def _vault_agrees(
    seed: int, combination: Combination, values: Mapping[tuple[str, str], str | None]
) -> None:
    """Once what was left over is done, the vault's own tools show what is current."""
    if combination.shown is None:
        return
    for where, value in values.items():
        shown = until(partial(combination.shown, *where), partial(eq, value))
        assert shown == value, f"seed {seed}: {combination.name} at {where}"
