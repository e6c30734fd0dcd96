"""`MaskKeys` with a real store: what a program writes about its keys does not show them."""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import re
import urllib.parse
from collections.abc import Iterator

import pytest
from tests.functional.running import RunningStore

from dox_core_store import KeyClient, SyncKeyClient
from dox_core_store.integrations.logging import MaskKeys
from dox_core_store.value_forms import forms_of

VALUE = 'pa ss/"wörd"+=\n4711'
ADDRESS = "postgresql://app:p%40ss-of-app@db.example/app"


@pytest.fixture(scope="module")
def token(shared_store: RunningStore) -> str:
    shared_store.put("logging.odd", VALUE, environment="production")
    shared_store.put("logging.address", ADDRESS, environment="production")
    shared_store.put("logging.short", "abc", environment="production")
    shared_store.put("logging.turned", "value-before", environment="production")
    return shared_store.issue("logging-reader", "logging.*")


@pytest.fixture
def client(shared_store: RunningStore, token: str) -> Iterator[SyncKeyClient]:
    with SyncKeyClient("logging-reader", token, shared_store.url, follow=False) as made:
        yield made


class Log:
    """A logger of its own, and what its handler has written."""

    def __init__(self, mask: MaskKeys, form: str = "%(message)s") -> None:
        self.written = io.StringIO()
        handler = logging.StreamHandler(self.written)
        handler.setFormatter(logging.Formatter(form))
        handler.addFilter(mask)
        self.logger = logging.Logger("tests.masking")  # noqa: LOG001 - nobody else writes to it
        self.logger.addHandler(handler)

    @property
    def text(self) -> str:
        return self.written.getvalue()


@pytest.mark.parametrize(
    "shown",
    [
        VALUE,
        repr(VALUE),
        ascii(VALUE).replace("'", ""),
        json.dumps({"password": VALUE}),
        urllib.parse.quote(VALUE),
        re.sub("%..", lambda found: found[0].lower(), urllib.parse.quote(VALUE, safe="")),
        urllib.parse.urlencode({"password": VALUE}),
        base64.b64encode(VALUE.encode()).decode(),
        base64.urlsafe_b64encode(VALUE.encode()).decode(),
        base64.b64encode(f"u:{VALUE}".encode()).decode(),
        base64.b64encode(f"user:{VALUE}".encode()).decode(),
        base64.b64encode(f"users:{VALUE}!!".encode()).decode(),
    ],
)
def test_a_value_is_hidden_in_each_of_its_forms(client: SyncKeyClient, shown: str) -> None:
    log = Log(MaskKeys(client))
    value = client.get_key("logging.odd").value
    log.logger.warning("before %s after", shown)
    assert log.text.startswith("before ")
    assert log.text.endswith(" after\n")
    assert "[hidden]" in log.text
    for part in (value, "wörd", urllib.parse.quote("wörd"), shown[8:-6]):
        assert part
        assert part not in log.text


def test_the_password_of_an_address_is_hidden_alone(client: SyncKeyClient) -> None:
    log = Log(MaskKeys(client))
    client.get_key("logging.address")
    log.logger.warning("connecting as %s", {"user": "app", "password": "p@ss-of-app"})
    assert log.text == "connecting as {'user': 'app', 'password': '[hidden]'}\n"


def test_arguments_tracebacks_stacks_and_extras_are_hidden(client: SyncKeyClient) -> None:
    mask = MaskKeys(client)
    log = Log(mask, "%(message)s %(plain)s %(nested)s %(number)d")
    key = client.get_key("logging.odd")
    try:
        int(f"bad password {key.value}")
    except ValueError:
        log.logger.exception(
            "with %s and %r",
            key.value,
            {"p": key.value},
            stack_info=True,
            extra={"plain": key.value, "nested": [key.value], "number": 3},
        )
    assert "wörd" not in log.text
    assert "ValueError: invalid literal for int() with base 10: 'bad password [hidden]'" in log.text
    assert log.text.startswith("with [hidden] and {'p': '[hidden]'} [hidden] ['[hidden]'] 3\n")
    assert "Stack (most recent call last)" in log.text


def test_a_formatter_that_takes_the_record_apart_finds_no_value(client: SyncKeyClient) -> None:
    value = client.get_key("logging.odd").value
    record = logging.makeLogRecord({"msg": "%.2s", "args": (value,)})
    assert MaskKeys(client).filter(record)
    assert "wörd" not in repr(vars(record))


def test_arguments_that_do_not_fit_their_message_are_hidden(client: SyncKeyClient) -> None:
    log = Log(MaskKeys(client))
    value = client.get_key("logging.odd").value
    log.logger.warning("no place for it", value)  # noqa: PLE1205 - that is what is tested
    assert log.text == "no place for it ('[hidden]',)\n"


def test_a_record_without_values_is_left_as_it_is(client: SyncKeyClient) -> None:
    client.get_key("logging.odd")
    record = logging.makeLogRecord({"msg": "%s of %d", "args": ("one", 2), "more": ["extra"]})
    before = dict(vars(record))
    assert MaskKeys(client).filter(record)
    assert vars(record) == before


def test_what_was_handed_out_before_is_known_and_each_new_version_too(
    client: SyncKeyClient, shared_store: RunningStore
) -> None:
    before = client.get_key("logging.turned").value
    mask = MaskKeys(client)
    shared_store.put("logging.turned", "value-after", environment="production")
    after = client.get_key("logging.turned", cache_ttl=0).value
    assert before != after
    assert mask.masked(f"{before} {after}") == "[hidden] [hidden]"
    client.clear_cache()
    assert mask.masked(f"{before} {after}") == "[hidden] [hidden]"


def test_a_value_is_forgotten_when_it_was_not_seen_for_long(client: SyncKeyClient) -> None:
    now = [0.0]
    mask = MaskKeys(client, keep_seconds=3600, monotonic=lambda: now[0])
    value = client.get_key("logging.odd").value
    now[0] = 3599
    assert value not in mask.masked(value)
    client.get_key("logging.odd", cache_ttl=0)
    now[0] = 2 * 3599
    assert value not in mask.masked(value)
    now[0] = 2 * 3600 + 60
    assert mask.masked(value) == value
    client.get_key("logging.odd", cache_ttl=0)
    assert value not in mask.masked(value)


def test_a_short_value_hides_nothing(client: SyncKeyClient) -> None:
    mask = MaskKeys(client)
    assert client.get_key("logging.short").value == "abc"
    assert mask.masked("abc") == "abc"


async def _read(url: str, token: str) -> str:
    async with KeyClient("logging-reader", token, url) as client:
        mask = MaskKeys(client)
        return mask.masked((await client.get_key("logging.odd")).value)


def test_it_hears_of_an_asynchronous_client(shared_store: RunningStore, token: str) -> None:
    import asyncio

    assert asyncio.run(_read(shared_store.url, token)) == "[hidden]"


def test_it_works_in_a_child_that_was_forked_amid_a_change(client: SyncKeyClient) -> None:
    mask = MaskKeys(client)
    value = client.get_key("logging.odd").value
    with mask._changing:
        child = os.fork()
        if child == 0:
            os._exit(0 if mask.masked(value) == "[hidden]" else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize(
    "value", ["ascii-only", "ümläut", "\ud800 lone", "://", "http://[", "a:b@"]
)
def test_no_form_is_short(value: str) -> None:
    assert min(len(form) for form in forms_of(value * 3)) >= 4
    assert value * 3 in forms_of(value * 3)
