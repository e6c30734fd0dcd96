from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
import resource
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from scripted_store import token

from dox_core_store.client.credential import Credential, Token, claims_of
from dox_core_store.client.exchanged import ExchangedCredential
from dox_core_store.client.outage import OutageFiles
from dox_core_store.client.outage_store import outage_store_from
from dox_core_store.errors import ConfigurationError
from dox_core_store.sensitive import Sensitive
from dox_core_store.wire import KeyValue

T0 = 1_900_000_000.0
GRACE = 3600
JULES = "service_keys.jules_api"
CANARY = "canary-value-of-jules"
TOKEN = token(jti="one", exp=None)


class Clock:
    def __init__(self) -> None:
        self.now = T0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "outage"


@pytest.fixture
def process(folder: Path, clock: Clock) -> Callable[..., OutageFiles]:
    """A process of a service that has ``text`` as its token, and that folder."""

    def begin(
        text: str = TOKEN, *, service: str = "jules-mcp", at: Path = folder, **environ: str
    ) -> OutageFiles:
        credential = Credential(Sensitive(text), wall=clock, service_name=service, environ=environ)
        return store_of(credential, at, clock, service, **environ)

    return begin


def store_of(
    credential: Any, at: Path, clock: Clock, service: str = "jules-mcp", **environ: str
) -> OutageFiles:
    store = outage_store_from(environ, at, credential=credential, service_name=service, wall=clock)
    assert store is not None
    return store


def answer(path: str = JULES, environment: str = "production", **changed: Any) -> KeyValue:
    fields: dict[str, Any] = {
        "key_path": path,
        "environment": environment,
        "version": 1,
        "version_id": "01" * 16,
        "state": "current",
        "value": Sensitive(CANARY),
        "expires_at": None,
        "cache_ttl_ceiling_seconds": 3600,
        "outage_grace_seconds": GRACE,
    }
    return KeyValue(**{**fields, **changed})


def sealed(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.sealed"))


def only(folder: Path) -> Path:
    (found,) = sealed(folder)
    return found


def service_key() -> str:
    return (
        generate_private_key(SECP256R1())
        .private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        .decode()
    )


# --- what is kept is found ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"value": Sensitive("")},
        {"value": Sensitive("ä\n\0\u2028 " * 100)},
        {"value": Sensitive("\1" * 65_536)},
        {"expires_at": datetime(2031, 1, 1, 0, 0, 0, 250_000, tzinfo=UTC)},
        {"version": 12, "state": "current", "cache_ttl_ceiling_seconds": 0},
    ],
    ids=["plain", "empty", "any text", "the longest", "expiring", "other numbers"],
)
def test_what_was_kept_is_found_by_another_process(
    process: Callable[..., OutageFiles], clock: Clock, changed: dict[str, Any]
) -> None:
    kept = answer(**changed)
    process().keep(JULES, kept, T0 - 1.5)
    clock.now += 100
    other = process()
    for spelling in (JULES, f"{JULES}.production"):
        assert other.find(spelling) == (kept, T0 - 1.5)
    for spelling in (f"{JULES}.staging", "service_keys", "jules_api", "", "production", "x.y"):
        assert other.find(spelling) is None


def test_a_bare_path_is_the_key_in_the_token_s_environment(
    process: Callable[..., OutageFiles],
) -> None:
    store = process()
    store.keep(f"{JULES}.staging", answer(environment="staging"), T0)
    assert store.find(JULES) is None
    store.keep(f"{JULES}.production", answer(environment="production"), T0)
    found = store.find(JULES)
    assert found is not None
    assert found[0].environment == "production"


def test_the_folder_may_come_from_the_environment(folder: Path, clock: Clock) -> None:
    credential = Credential(Sensitive(TOKEN), wall=clock)
    named = {"KEY_SERVICE_OUTAGE_DIR": str(folder)}
    assert outage_store_from(named, None, credential=credential, service_name="jules-mcp")
    assert folder.is_dir()
    assert outage_store_from({}, None, credential=credential, service_name="jules-mcp") is None
    named = {"KEY_SERVICE_OUTAGE_DIR": ""}
    assert outage_store_from(named, "", credential=credential, service_name="jules-mcp") is None


def test_a_later_answer_takes_the_place_of_an_earlier_one_and_never_the_other_way_round(
    process: Callable[..., OutageFiles], folder: Path
) -> None:
    one, other = process(), process()
    one.keep(JULES, answer(version=1), T0 - 20)
    other.keep(JULES, answer(version=2), T0 - 10)
    one.keep(JULES, answer(version=1), T0 - 20)  # it has not heard of the new version yet
    found = one.find(JULES)
    assert found is not None
    assert (found[0].version, found[1]) == (2, T0 - 10)
    assert len(sealed(folder)) == 1


def test_an_answer_without_grace_removes_what_was_kept_before(
    process: Callable[..., OutageFiles], folder: Path
) -> None:
    store = process()
    store.keep(JULES, answer(), T0)
    store.keep(JULES, answer(outage_grace_seconds=0), T0)
    assert sealed(folder) == []


# --- times --------------------------------------------------------------------------------------


def test_the_grace_is_over_at_the_second(
    process: Callable[..., OutageFiles], clock: Clock, folder: Path
) -> None:
    store = process()
    store.keep(JULES, answer(), T0 - 10)
    clock.now = T0 - 10 + GRACE - 0.001
    assert store.find(JULES) is not None
    clock.now = T0 - 10 + GRACE
    assert store.find(JULES) is None
    assert sealed(folder) == [], "what is over is removed"


def test_nothing_is_found_past_its_own_expiry(
    process: Callable[..., OutageFiles], clock: Clock, folder: Path
) -> None:
    store = process()
    store.keep(JULES, answer(expires_at=datetime.fromtimestamp(T0 + 60, UTC)), T0)
    clock.now = T0 + 59.999
    assert store.find(JULES) is not None
    clock.now = T0 + 60
    assert store.find(JULES) is None
    assert sealed(folder) == []


@pytest.mark.parametrize("back", [0.001, GRACE, 10 * 365 * 86_400])
def test_a_clock_before_a_record_voids_it_for_good(
    process: Callable[..., OutageFiles], clock: Clock, folder: Path, back: float
) -> None:
    store = process()
    store.keep(JULES, answer(), T0 - 100)
    clock.now = T0 - back
    assert store.find(JULES) is None
    clock.now = T0 + 1
    assert store.find(JULES) is None, "it was erased"
    assert sealed(folder) == []


def test_what_is_over_is_removed_at_the_start_without_being_opened(
    process: Callable[..., OutageFiles], clock: Clock, folder: Path
) -> None:
    process(token(jti="an earlier one")).keep(JULES, answer(), T0)
    process().keep("a.b", answer("a.b", outage_grace_seconds=2 * GRACE), T0)
    (folder / "notes.txt").write_text("not ours")
    os.utime(folder / "notes.txt", (T0 - 9e6, T0 - 9e6))
    clock.now = T0 + GRACE - 1
    process()
    assert len(sealed(folder)) == 2
    clock.now = T0 + GRACE
    store = process()
    assert len(sealed(folder)) == 1
    assert store.find("a.b") is not None
    assert (folder / "notes.txt").exists()


def test_left_over_temporary_files_go_at_the_start_and_those_being_written_stay(
    process: Callable[..., OutageFiles], folder: Path
) -> None:
    process()
    old, fresh, foreign = (
        folder / name for name in (f".{'a' * 16}.tmp", f".{'b' * 16}.tmp", ".vim.tmp")
    )
    for each in (old, fresh, foreign):
        each.touch()
    for each in (old, foreign):
        os.utime(each, (1, 1))
    process()
    assert [each.exists() for each in (old, fresh, foreign)] == [False, True, True]


# --- whose it is --------------------------------------------------------------------------------


def test_another_token_opens_nothing_and_takes_the_place(
    process: Callable[..., OutageFiles], folder: Path
) -> None:
    earlier = process()
    earlier.keep(JULES, answer(version=1), T0)
    other = process(token(jti="two"))
    assert other.find(JULES) is None
    assert earlier.find(JULES) is not None, "what does not open is left to whom it belongs"
    other.keep(JULES, answer(version=2), T0)
    assert other.find(JULES) is not None
    assert earlier.find(JULES) is None
    assert len(sealed(folder)) == 1


def test_with_a_key_of_the_service_the_token_may_change(
    process: Callable[..., OutageFiles], tmp_path: Path
) -> None:
    pem = service_key()
    process(SERVICE_KEY=pem).keep(JULES, answer(), T0)
    assert process(token(jti="two"), SERVICE_KEY=pem).find(JULES) is not None
    file = tmp_path / "service.key"
    file.write_text(pem)
    file.chmod(0o600)
    assert process(token(jti="three"), SERVICE_KEY_FILE=str(file)).find(JULES) is not None
    assert process(SERVICE_KEY=service_key()).find(JULES) is None
    assert process().find(JULES) is None


def test_a_key_that_cannot_be_used_is_told_at_the_start(
    process: Callable[..., OutageFiles],
) -> None:
    with pytest.raises(ConfigurationError, match="private key on P-256"):
        process(SERVICE_KEY="rubbish")


@pytest.mark.parametrize("with_key", [False, True], ids=["token", "service key"])
@pytest.mark.parametrize("changed", ["iss", "sub", "env"])
def test_another_store_service_or_environment_opens_nothing(
    process: Callable[..., OutageFiles], folder: Path, changed: str, *, with_key: bool
) -> None:
    environ = {"SERVICE_KEY": service_key()} if with_key else {}
    process(**environ).keep(JULES, answer(), T0)
    claims = {"sub": "jules-mcp", changed: "staging"}
    other = process(token(**claims), service=claims["sub"], **environ)
    for spelling in (JULES, f"{JULES}.production"):
        assert other.find(spelling) is None
    # Not by the name alone either: under the name that the other would give it.
    other.keep(JULES, answer(), T0)
    names = sealed(folder)
    theirs = names[0].read_bytes()
    for each in names:
        each.write_bytes(theirs)
        os.utime(each, (T0 + GRACE, T0 + GRACE))
    found = [process(**environ).find(JULES), other.find(JULES)]
    assert None in found


def test_a_changed_token_file_still_finds_what_was_sealed_before_and_seals_anew(
    tmp_path: Path, folder: Path, clock: Clock, process: Callable[..., OutageFiles]
) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    store = store_of(Credential(file, wall=clock), folder, clock)
    store.keep(JULES, answer(), T0)
    store.keep("a.b", answer("a.b"), T0)
    renewed = token(jti="a longer one")
    file.write_text(renewed)
    assert store.find(JULES) is not None
    assert process(renewed).find(JULES) is None
    store.keep(JULES, answer(), T0 + 0.5)
    clock.now += 1
    assert process(renewed).find(JULES) is not None
    assert process(TOKEN).find(JULES) is None
    assert store.find("a.b") is not None
    file.write_text(token(env="staging", jti="somebody else's"))
    assert store.find("a.b.production") is None, "what another principal learnt does not hold"
    file.write_text("rubbish")
    store.keep("c.d", answer("c.d"), T0)
    assert store.find("c.d.production") is not None, "the token in hand stays in use"


def test_of_many_tokens_the_newest_are_remembered(
    tmp_path: Path, folder: Path, clock: Clock
) -> None:
    file = tmp_path / "token"
    file.write_text(token(jti="a0"))
    store = store_of(Credential(file, wall=clock), folder, clock)
    for number in range(7):
        file.write_text(token(jti="a" * (number + 2)))
        store.keep(f"k.n{number}", answer(f"k.n{number}"), T0)
    found = [store.find(f"k.n{number}") is not None for number in range(7)]
    assert found == [False] * 3 + [True] * 4


class Exchanged:
    """What a process has by exchange: a token, or none yet."""

    def __init__(self, text: str | None) -> None:
        self.credential = ExchangedCredential(
            cast("Any", None),
            wall=lambda: T0,
            monotonic=lambda: 0.0,
            service_name="jules-mcp",
            on_new_principal=lambda: None,
        )
        if text is not None:
            claims = claims_of(Sensitive(text))
            assert claims is not None
            self.credential._token = Token(Sensitive(text), claims)


def test_an_exchanged_token_alone_is_no_lasting_secret(folder: Path, clock: Clock) -> None:
    with pytest.raises(ConfigurationError, match="set SERVICE_KEY_FILE") as raised:
        store_of(Exchanged(TOKEN).credential, folder, clock)
    assert raised.value.code == "bad_setting"


def test_with_an_exchanged_token_a_key_of_the_service_opens_before_there_is_a_token(
    folder: Path, clock: Clock
) -> None:
    pem = service_key()
    first = store_of(Exchanged(None).credential, folder, clock, SERVICE_KEY=pem)
    assert first.find(JULES) is None
    first.keep(JULES, answer(), T0)
    assert sealed(folder) == [], "nobody knows yet for whom"
    store_of(Exchanged(TOKEN).credential, folder, clock, SERVICE_KEY=pem).keep(JULES, answer(), T0)
    clock.now += 1
    assert first.find(JULES) is not None
    later = store_of(Exchanged(None).credential, folder, clock, SERVICE_KEY=pem)
    assert later.find(JULES) is not None
    others = Exchanged(TOKEN).credential  # another service with the same key, in the same folder
    store_of(others, folder, clock, "other", SERVICE_KEY=pem).keep("a.b", answer("a.b"), T0)
    assert "other" in (folder / "principal").read_text()
    assert later.find("a.b") is None
    again = store_of(Exchanged(None).credential, folder, clock, SERVICE_KEY=pem)
    assert (again.find("a.b"), again.find(JULES)) == (None, None)
    (folder / "principal").write_text('["st_other", "jules-mcp", "production"]')
    assert store_of(Exchanged(None).credential, folder, clock, SERVICE_KEY=pem).find(JULES) is None
    for rubbish in ("", "[", '["st_scripted", "other", "production"]', "[" * 1000, "x" * 5000):
        (folder / "principal").write_text(rubbish)
        again = store_of(Exchanged(None).credential, folder, clock, SERVICE_KEY=pem)
        assert again.find(JULES) is None
    now = store_of(Exchanged(token(jti="new")).credential, folder, clock, SERVICE_KEY=pem)
    assert now.find(JULES) is not None


# --- what is wrong with a file ------------------------------------------------------------------


def test_a_file_under_another_name_does_not_open(
    process: Callable[..., OutageFiles], folder: Path
) -> None:
    store = process()
    store.keep(JULES, answer(), T0)
    mine = only(folder).read_bytes()
    store.keep("a.b", answer("a.b"), T0)
    for each in sealed(folder):
        each.write_bytes(mine)
    assert store.find("a.b") is None
    assert store.find(JULES) is not None
    only_name = [each for each in sealed(folder) if store.find("a.b") is None]
    assert len(only_name) == 2, "and is left alone"


def test_no_changed_byte_opens(process: Callable[..., OutageFiles], folder: Path) -> None:
    store = process()
    store.keep(JULES, answer(), T0)
    file = only(folder)
    whole = file.read_bytes()
    length = len(whole)
    assert length == 1 + 12 + 1024 + 16
    regions = {0, 1, 6, 12, 13, 14, 200, 600, length - 17, length - 16, length - 8, length - 1}
    for place in sorted(regions):
        for bit in (0, 7):
            changed = bytearray(whole)
            changed[place] ^= 1 << bit
            file.write_bytes(changed)
            assert store.find(JULES) is None, place
    file.write_bytes(whole)
    assert store.find(JULES) is not None


@pytest.mark.parametrize(
    "make",
    [
        lambda whole: whole[:0],
        lambda whole: whole[:1],
        lambda whole: whole[:13],
        lambda whole: whole[:-1],
        lambda whole: whole + b"\0",
        lambda whole: whole + whole,
        lambda whole: whole + bytes(1024),
        lambda whole: bytes(len(whole)),
        lambda whole: whole.ljust(2**21, b"\0"),
    ],
    ids=["empty", "1", "13", "cut", "longer", "twice", "a size", "zeros", "oversized"],
)
def test_what_is_truncated_or_too_long_is_ignored_and_replaced(
    process: Callable[..., OutageFiles], folder: Path, make: Callable[[bytes], bytes]
) -> None:
    store = process()
    store.keep(JULES, answer(), T0)
    file = only(folder)
    file.write_bytes(make(file.read_bytes()))
    assert store.find(JULES) is None
    store.keep(JULES, answer(version=2), T0)
    assert store.find(JULES) is not None


def test_a_link_a_pipe_and_a_folder_in_a_file_s_place(
    process: Callable[..., OutageFiles],
    folder: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = process()
    store.keep(JULES, answer(), T0)
    file = only(folder)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(file.read_bytes())
    file.unlink()
    file.symlink_to(elsewhere)
    assert store.find(JULES) is None
    store.keep(JULES, answer(version=2), T0)
    assert not file.is_symlink()
    assert store.find(JULES) is not None
    assert elsewhere.exists()
    file.unlink()
    os.mkfifo(file)
    assert store.find(JULES) is None  # and does not wait for a writer
    file.unlink()
    file.mkdir()
    assert store.find(JULES) is None
    process()  # at a start neither
    caplog.clear()
    for _ in range(3):
        store.keep(JULES, answer(), T0)
    (told,) = caplog.records
    assert (told.name, told.levelno) == ("dox_core_store.client", logging.WARNING)
    assert str(folder) in told.getMessage()
    assert "jules" not in told.getMessage().replace(str(folder), "")


def test_a_damaged_salt_is_made_anew_at_the_next_start(
    process: Callable[..., OutageFiles], folder: Path
) -> None:
    process().keep(JULES, answer(), T0)
    (folder / "salt").write_bytes(b"short")
    store = process()
    assert store.find(JULES) is None
    store.keep(JULES, answer(), T0)
    assert process().find(JULES) is not None
    (folder / "salt").write_bytes(b"short")
    assert store.find(JULES) is None
    store.erase(JULES)  # cannot be done
    (folder / "salt").write_bytes(hashlib.sha256().digest())
    store.keep(JULES, answer(), T0)


# --- erasing ------------------------------------------------------------------------------------


def test_a_bare_path_is_erased_in_each_environment_and_a_full_one_in_its_own(
    process: Callable[..., OutageFiles], folder: Path
) -> None:
    store, other = process(), process()

    def keep_all() -> None:
        for environment in ("production", "staging", "an-own-one"):
            store.keep(JULES, answer(environment=environment), T0)
        store.keep("service_keys.jules_api_2", answer("service_keys.jules_api_2"), T0)

    def found() -> list[str]:
        return [
            environment
            for environment in ("production", "staging", "an-own-one")
            if other.find(f"{JULES}.{environment}") is not None
        ]

    keep_all()
    store.erase(f"{JULES}.staging")
    assert found() == ["production", "an-own-one"]
    keep_all()
    store.erase(JULES)
    assert found() == []
    assert other.find("service_keys.jules_api_2") is not None
    store.erase_all()
    assert other.find("service_keys.jules_api_2") is None
    assert sealed(folder) == []
    store.erase("nothing.of.the.kind")


def test_what_an_earlier_token_sealed_is_erased_too(
    process: Callable[..., OutageFiles], folder: Path
) -> None:
    earlier = process()
    for environment in ("production", "staging"):
        earlier.keep(JULES, answer(environment=environment), T0)
    earlier.keep("a.b", answer("a.b"), T0)
    process(token(jti="two")).erase(JULES)
    assert earlier.find(JULES) is None
    assert earlier.find(f"{JULES}.staging") is None
    assert earlier.find("a.b") is not None
    process(token(jti="two")).erase_all()
    assert sealed(folder) == []


def test_erasing_everything_leaves_what_is_not_ours(
    process: Callable[..., OutageFiles], folder: Path
) -> None:
    store = process()
    store.keep(JULES, answer(), T0)
    names = ["notes.txt", f"{'a' * 63}.sealed", f"{'A' * 64}.sealed", f"{'a' * 64}.sealed.bak"]
    for name in names:
        (folder / name).touch()
    store.erase_all()
    assert sorted(each.name for each in folder.iterdir()) == sorted([*names, "salt"])


@pytest.mark.parametrize("everything", [False, True])
def test_what_cannot_be_erased_is_not_found_either(
    process: Callable[..., OutageFiles],
    folder: Path,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    *,
    everything: bool,
) -> None:
    store = process()
    store.keep(JULES, answer(), T0)
    aside = folder.rename(folder.with_name("aside"))  # for a moment it is away, as a mount may be
    store.erase_all() if everything else store.erase(JULES)
    aside.rename(folder)
    assert len(sealed(folder)) == 1
    assert store.find(JULES) is None
    assert "cannot be erased" in caplog.text
    clock.now += 1
    store.keep(JULES, answer(), T0 + 1)
    assert store.find(JULES) is not None, "what was written since is found"


# --- the folder ---------------------------------------------------------------------------------


def test_the_folder_is_made_for_us_alone_and_so_are_the_files(
    process: Callable[..., OutageFiles], tmp_path: Path
) -> None:
    at = tmp_path / "deeper" / "outage"
    mask = os.umask(0)
    try:
        process(at=at).keep(JULES, answer(), T0)
    finally:
        os.umask(mask)
    assert stat.S_IMODE(at.stat().st_mode) == 0o700
    modes = {each.name[-7:]: stat.S_IMODE(each.stat().st_mode) for each in at.iterdir()}
    assert modes == {".sealed": 0o600, "salt": 0o600}


@pytest.mark.parametrize("mode", [0o701, 0o710, 0o704, 0o740, 0o770, 0o777, 0o755])
def test_a_folder_that_others_have_access_to_is_refused(
    process: Callable[..., OutageFiles], folder: Path, mode: int
) -> None:
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(ConfigurationError, match="`chmod 700` it") as raised:
        process()
    assert raised.value.code == "bad_setting"
    assert list(folder.iterdir()) == []


def test_what_is_no_folder_is_refused(process: Callable[..., OutageFiles], folder: Path) -> None:
    folder.write_text("")
    with pytest.raises(ConfigurationError, match="is not a folder"):
        process()
    with pytest.raises(ConfigurationError, match="cannot be used: Not a directory"):
        process(at=folder / "below")


def test_somebody_else_s_folder_is_refused(
    process: Callable[..., OutageFiles], folder: Path
) -> None:
    folder.mkdir(0o700)
    if os.geteuid() == 0:
        os.chown(folder, 12_345, -1)
    with pytest.raises(ConfigurationError, match="belongs to another user"):
        process(at=folder if os.geteuid() == 0 else Path("/"))


def test_nothing_in_the_folder_tells_a_value_or_a_name(
    process: Callable[..., OutageFiles], folder: Path
) -> None:
    store = process()
    store.keep(JULES, answer(), T0)
    store.keep(f"{JULES}.staging", answer(environment="staging"), T0)
    there = b"".join(each.name.encode() + each.read_bytes() for each in folder.iterdir())
    secrets = [CANARY, JULES, "jules", "service_keys", "production", "staging", "current", TOKEN]
    for text in secrets:
        raw = text.encode()
        for shape in (raw, base64.b64encode(raw)[:-4] or raw, raw.hex().encode()):
            assert shape not in there, text
    # Equal records are sealed differently each time, under names that do not follow from a hash.
    first = {each.name: each.read_bytes() for each in sealed(folder)}
    store.keep(JULES, answer(), T0)
    assert {each.name for each in sealed(folder)} == set(first)
    assert [each for each in sealed(folder) if first[each.name] == each.read_bytes()] != sealed(
        folder
    )
    assert hashlib.sha256(JULES.encode()).hexdigest()[:32] not in there.decode("latin-1")


def test_lengths_tell_little(process: Callable[..., OutageFiles], folder: Path) -> None:
    store = process()
    sizes = []
    for length in (0, 1, 64, 500, 1000, 5000, 65_536):
        store.keep(JULES, answer(value=Sensitive("x" * length)), T0)
        sizes.append(only(folder).stat().st_size - 29)
    assert sizes == [1024, 1024, 1024, 1024, 2048, 8192, 131_072]


# --- trouble, and others beside us ----------------------------------------------------------------


def test_a_full_disk_leaves_the_old_record_and_is_told_once(
    process: Callable[..., OutageFiles], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = process()
    store.keep(JULES, answer(version=1), T0 - 2)
    before = sorted(each.name for each in folder.iterdir())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, hard))
    try:
        for _ in range(3):
            store.keep(JULES, answer(version=2), T0 - 1)
            store.keep("a.b", answer("a.b"), T0 - 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(each.name for each in folder.iterdir()) == before
    found = store.find(JULES)
    assert found is not None
    assert (found[0].version, found[1]) == (1, T0 - 2)
    (told,) = caplog.records
    assert told.levelno == logging.WARNING
    assert (
        told.getMessage()
        == f"A key in the folder for outages {folder} cannot be written: File too large"
    )
    assert CANARY not in caplog.text


def test_no_method_raises_whatever_becomes_of_the_folder_or_the_token(
    tmp_path: Path, folder: Path, clock: Clock
) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    credential = Credential(file, wall=clock, service_name="jules-mcp")
    store = store_of(credential, folder, clock)

    def use() -> None:
        store.keep(JULES, answer(), T0)
        assert store.find(JULES) is None
        store.erase(JULES)
        store.erase_all()

    folder.rename(folder.with_name("aside"))
    use()
    folder.write_text("a file")
    use()
    folder.unlink()
    folder.mkdir(0o700)
    file.write_text(token("another-service"))  # `service_mismatch`, from now on
    use()


HAMMER = """
import sys, os
from dox_core_store.client.credential import Credential
from dox_core_store.client.outage_store import outage_store_from
from dox_core_store.sensitive import Sensitive
from dox_core_store.wire import KeyValue
folder, token, who = sys.argv[1:]
now = lambda: 1.9e9
credential = Credential(Sensitive(token), wall=now)
store = outage_store_from({}, folder, credential=credential, service_name="jules-mcp", wall=now)
def answer(path, version):
    return KeyValue(key_path=path, environment="production", version=version, version_id="0" * 32,
        state="current", value=Sensitive(f"{path} {version} " * 99), expires_at=None,
        cache_ttl_ceiling_seconds=1, outage_grace_seconds=3600)
print("ready", flush=True)
sys.stdin.readline()
found = 0
for turn in range(150):
    for path in ("a.b", "c.d", "e.f"):
        store.keep(path, answer(path, turn), 1.9e9 - 1000 + turn)
        got = store.find(path)
        if got is not None:
            key, true_at = got
            found += 1
            assert key.key_path == path and true_at == 1.9e9 - 1000 + key.version
            assert key.value.reveal() == f"{path} {key.version} " * 99
    if who == "erases" and turn % 10 == 9:
        store.erase("a.b")
    if who == "erases" and turn % 50 == 49:
        store.erase_all()
for path in ("a.b", "c.d", "e.f"):
    store.keep(path, answer(path, 200), 1.9e9 - 800)
assert found > 100, found
"""


def test_two_processes_at_once_never_see_half_a_record(
    folder: Path, process: Callable[..., OutageFiles], caplog: pytest.LogCaptureFixture
) -> None:
    both = [
        subprocess.Popen(
            [sys.executable, "-c", HAMMER, str(folder), TOKEN, who],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for who in ("keeps", "erases")
    ]
    for each in both:
        assert each.stdout is not None
        assert each.stdout.readline() == "ready\n"
    for each in both:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.flush()
    for each in both:
        _, errors = each.communicate(timeout=60)
        assert (each.returncode, errors) == (0, ""), "no warning either"
    for path in ("a.b", "c.d", "e.f"):
        found = process().find(path)
        assert found is not None
        assert found[0].version == 200
    assert len(sealed(folder)) == 3
    assert [each.name for each in folder.iterdir() if each.suffix == ".tmp"] == []


def test_a_forked_child_goes_on(process: Callable[..., OutageFiles], folder: Path) -> None:
    store = process()
    store.keep(JULES, answer(), T0)
    child = os.fork()
    if child == 0:
        good = store.find(JULES) is not None
        store.keep("a.b", answer("a.b"), T0)
        os._exit(0 if good and store.find("a.b") is not None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.find("a.b") is not None


def test_threads_may_share_it(process: Callable[..., OutageFiles]) -> None:
    store = process()
    wrong: list[str] = []

    def use(path: str) -> None:
        for turn in range(50):
            store.keep(path, answer(path, version=turn), T0)
            found = store.find(path)
            if found is None or found[0].version != turn:
                wrong.append(path)

    threads = [threading.Thread(target=use, args=(f"k.n{number}",)) for number in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert wrong == []


def test_making_one_loads_no_cryptography(folder: Path) -> None:
    code = (
        "import sys; from dox_core_store import KeyClient;"
        f"KeyClient('jules-mcp', {TOKEN!r}, 'https://keys.example', outage_dir={str(folder)!r});"
        "sys.exit('cryptography' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_record_s_shape_is_the_specified_one(
    process: Callable[..., OutageFiles], folder: Path
) -> None:
    from dox_core_store.client.outage_seal import OutageRecord, open_record
    from dox_core_store.client.outage_secret import Principal
    from dox_core_store.wire import encode

    process().keep(JULES, answer(), T0 - 1)
    file = only(folder)
    record = open_record(
        TOKEN.encode(),
        Principal("st_scripted", "jules-mcp", "production"),
        file.stem,
        file.read_bytes(),
    )
    assert record == OutageRecord(key=answer(), true_at=T0 - 1, written_at=T0)
    for other in (
        Principal("st_other", "jules-mcp", "production"),
        Principal("st_scripted", "other", "production"),
        Principal("st_scripted", "jules-mcp", "staging"),
    ):
        assert open_record(TOKEN.encode(), other, file.stem, file.read_bytes()) is None
    assert set(json.loads(encode(record))) == {"key", "true_at", "written_at"}
    assert file.stat().st_mtime == T0 - 1 + GRACE
