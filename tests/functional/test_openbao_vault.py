"""OpenBao as the vault: a real server, and never more rights than the policy that is printed."""

from __future__ import annotations

import contextlib
import itertools
import json
import ssl
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import pytest
import trustme
from tests.functional.openbao_site import (
    BaoSite,
    BaoTools,
    answering,
    current_path,
    dripping,
    leases,
    promoted,
    silent,
    tls_before,
)

from dox_core_store.errors import DoxStoreError
from dox_core_store.server.adapters.vaults.openbao_policy import policy_text
from dox_core_store.server.ports import Erasure, Home
from dox_core_store.testing.vault_conformance import (
    VaultConformance,
    about,
    next_version,
    refused_as,
)

CANARY = b"canary-7f3a91"


@pytest.fixture(scope="module")
def site(openbao, tmp_path_factory):
    return BaoSite(openbao, tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def login(site):
    return site.approle()


@pytest.fixture
def vault(site, login):
    with contextlib.closing(site.vault(login)) as made:
        yield made


@pytest.fixture
def tools(site):
    return BaoTools(site)


class _KilledError(BaseException):
    """What nothing catches, as a process that is gone catches nothing."""


def _killed_after(vault, requests, *, answered):
    """From now on the process that has ``vault`` dies at its request number ``requests``: before
    it is sent, or when the server has done it and the answer is on its way."""
    ask, count = vault._connection.ask, itertools.count()

    def counting(*args, **kwargs):
        last = next(count) == requests
        if last and not answered:
            raise _KilledError
        answer = ask(*args, **kwargs)
        if last:
            raise _KilledError
        return answer

    vault._connection.ask = counting


class TestOpenBaoVault(VaultConformance):
    """All that every vault has to do."""


class TestWithoutPrefix(VaultConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def site(cls, openbao, tmp_path_factory):
        return BaoSite(openbao, tmp_path_factory.mktemp("bare"), prefix="")

    @pytest.fixture(scope="class")
    @classmethod
    def login(cls, site):
        return site.approle()


class TestInNamespace(VaultConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def site(cls, openbao, tmp_path_factory):
        openbao.call("POST", "sys/namespaces/payments", {})
        return BaoSite(openbao, tmp_path_factory.mktemp("inside"), namespace="payments/")

    @pytest.fixture(scope="class")
    @classmethod
    def login(cls, site):
        return site.approle()


class TestLayout:
    new = VaultConformance().binding

    def test_the_vaults_own_tools_can_tell_what_a_key_is(self, site, vault, tools):
        binding = self.new()
        promoted(vault, binding, b"one", 1)
        known = site.data(current_path(binding), "metadata")
        assert known["max_versions"] == 100
        custom = known["custom_metadata"]
        assert custom == {
            "managed_by": "dox-core-store",
            "doxstore_store": binding.store_id,
            "doxstore_key": binding.key_path,
            "doxstore_environment": "production",
            "doxstore_number": "1",
            "doxstore_version_id": binding.version_id,
            "doxstore_version_1": f"1 {binding.version_id}",
            "owner": "payments",
            "usage": "charges cards",
        }
        assert tools.fields(current_path(binding)) == {"value": "one"}

    def test_what_waits_says_so_and_is_gone_oncepromoted(self, site, vault):
        binding = self.new()
        place = vault.store(binding, b"one", about(1))
        path = f".pending/{binding.version_id}"
        assert site.data(path)["data"] == {"value": "one"}
        assert site.data(path, "metadata")["custom_metadata"]["doxstore_key"] == binding.key_path
        vault.promote(binding, place, about(1))
        assert site.data(path, "metadata") is None

    def test_claims_do_not_outgrow_what_the_engine_takes(self, site, vault):
        binding = self.new()
        places = []
        for number in range(1, 46):
            binding = next_version(binding)
            places.append((binding, promoted(vault, binding, f"v{number}".encode(), number)))
        custom = site.data(current_path(binding), "metadata")["custom_metadata"]
        assert len([name for name in custom if name.startswith("doxstore_version_")]) == 41
        for number, (each, place) in enumerate(places, start=1):
            assert vault.open(each, place) == (f"v{number}".encode(), False)

    def test_an_owner_that_the_engine_would_not_take_is_made_to_fit(self, vault):
        binding = self.new()
        odd = about(1)._replace(owner="\x00\n", usage="\U0001f511" * 1000)
        place = vault.promote(binding, vault.store(binding, b"one", odd), odd)
        assert vault.open(binding, place).value == b"one"

    def test_other_fields_of_an_adopted_entry_stay(self, vault, tools):
        binding, path = self.new(), "team/two-fields"
        tools.put(path, {"token": "old", "note": "keep me"})
        promoted(vault, binding, b"new", 1, Home(path, "token", shared=False))
        assert tools.fields(path) == {"token": "new", "note": "keep me"}

    def test_reading_what_is_current_is_one_request(self, vault):
        binding = self.new()
        place = promoted(vault, binding, b"one", 1)
        asked, ask = [], vault._connection.ask

        def counting(deadline, method, path, **kwargs):
            asked.append(method)
            return ask(deadline, method, path, **kwargs)

        vault._connection.ask = counting
        assert vault.open(binding, place) == (b"one", False)
        assert asked == ["GET"]

    def test_an_entry_of_another_store_is_not_ours(self, vault, tools):
        binding = self.new()
        promoted(vault, binding._replace(store_id="sto_other"), b"theirs", 1)
        with refused_as("vault_conflict"):
            promoted(vault, next_version(binding), b"ours", 1)
        assert tools.shows(binding) == b"theirs"

    def test_a_number_in_an_entry_is_its_json(self, site, vault):
        site.call("POST", site.at("data", "team/port"), {"data": {"port": 5432}})
        head = vault.head(self.new(), Home("team/port", "port", shared=True))
        assert head.value == b"5432"

    def test_made_anew_with_the_same_number_is_damage(self, vault, tools):
        binding = self.new()
        place = promoted(vault, binding, b"ours", 1)
        tools.recreate(binding, b"theirs")
        with refused_as("value_damaged"):
            vault.open(binding, place)
        vault.erase(binding, place)
        assert tools.shows(binding) == b"theirs", "what is not ours is not destroyed"

    def test_withdrawn_is_hidden_and_erased_is_destroyed(self, site, vault, tools):
        binding = self.new()
        place = promoted(vault, binding, b"one", 1)
        vault.withdraw(binding, place)
        assert tools.shows(binding) is None
        versions = site.data(current_path(binding), "metadata")["versions"]
        assert not versions["1"]["destroyed"]
        assert vault.erase(binding, place) is Erasure.ERASED
        assert site.data(current_path(binding), "metadata")["versions"]["1"]["destroyed"]

    def test_destroyed_there_is_missing_here(self, site, vault):
        binding = self.new()
        place = promoted(vault, binding, b"one", 1)
        site.call("PUT", site.at("destroy", current_path(binding)), {"versions": [1]})
        with refused_as("vault_value_missing"):
            vault.open(binding, place)


class TestInterrupted:
    new = VaultConformance().binding

    @pytest.mark.parametrize("answered", [False, True])
    def test_killed_at_any_request_it_is_done_again(self, site, login, tools, answered):
        for requests in itertools.count():
            first = self.new()
            with contextlib.closing(site.vault(login)) as setting:
                old = promoted(setting, first, b"one", 1)
            second = next_version(first)
            with contextlib.closing(site.vault(login)) as dying:
                dying.check()  # it is logged in
                _killed_after(dying, requests, answered=answered)
                try:
                    promoted(dying, second, b"two", 2)
                    finished = True
                except _KilledError:
                    finished = False
            with contextlib.closing(site.vault(login)) as vault:
                assert vault.open(first, old) == (b"one", False)
                new = (
                    promoted(vault, second, b"two", 2)
                    if not finished
                    else vault.head(second, None).place
                )
                assert tools.shows(second) == b"two"
                assert vault.open(second, new) == (b"two", False)
                assert vault.open(first, old) == (b"one", False)
            assert len(site.data(current_path(first), "metadata")["versions"]) == 2
            assert second.version_id not in site.waiting()
            if finished:
                break
        assert requests >= 6, "there were requests to be killed at"

    def test_killed_while_erasing_it_is_erased_again(self, site, login):
        for requests in itertools.count():
            binding = self.new()
            with contextlib.closing(site.vault(login)) as dying:
                stored = dying.store(binding, b"one", about(1))
                place = dying.promote(binding, stored, about(1))
                _killed_after(dying, requests, answered=True)
                try:
                    dying.erase(binding, place)
                    finished = True
                except _KilledError:
                    finished = False
            with contextlib.closing(site.vault(login)) as vault:
                assert vault.erase(binding, place) is Erasure.ERASED
                for each in (stored, place):
                    with refused_as("vault_value_missing"):
                        vault.open(binding, each)
            if finished:
                break
        assert requests >= 2


class TestTogether:
    new = VaultConformance().binding

    def test_two_nodes_that_promote_two_versions_end_with_the_higher(self, site, login, tools):
        nodes = [site.vault(login) for _ in range(2)]
        with ThreadPoolExecutor(2) as pool:
            for _ in range(10):
                base = self.new()
                promoted(nodes[0], base, b"v1", 1)
                bindings = [next_version(base), next_version(base)]
                stored = [
                    node.store(binding, f"v{number}".encode(), about(number))
                    for node, binding, number in zip(nodes, bindings, (2, 3), strict=True)
                ]
                places = list(
                    pool.map(
                        lambda node, binding, place, number: node.promote(
                            binding, place, about(number)
                        ),
                        nodes,
                        bindings,
                        stored,
                        (2, 3),
                    )
                )
                assert tools.shows(base) == b"v3"
                for binding, place, value in zip(bindings, places, (b"v2", b"v3"), strict=True):
                    assert nodes[0].open(binding, place) == (value, False)
                for binding, place, value in zip(bindings, stored, (b"v2", b"v3"), strict=True):
                    assert nodes[1].open(binding, place).value == value
        for node in nodes:
            node.close()

    def test_somebody_who_writes_in_between_is_written_over_and_kept(self, site, vault, tools):
        first = self.new()
        promoted(vault, first, b"one", 1)
        second = next_version(first)
        stored = vault.store(second, b"two", about(2))
        ask, changes = vault._connection.ask, iter([b"theirs"])

        def meddled(deadline, method, path, **kwargs):
            if method == "POST" and f"/data/{site.prefix}/production" in path:
                for value in changes:
                    tools.change(first, value)
            return ask(deadline, method, path, **kwargs)

        vault._connection.ask = meddled
        place = vault.promote(second, stored, about(2))
        assert tools.shows(first) == b"two"
        assert vault.open(second, place) == (b"two", False)
        assert site.data(current_path(first), version="2")["data"] == {"value": "theirs"}

    def test_sixteen_threads_log_in_once(self, site):
        options = site.approle()
        mount = options.partition("auth_mount=")[2].partition("&")[0]
        vault = site.vault(options)
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda _: vault.check(), range(32)))
        assert leases(site, mount) == 1
        vault.close()


class TestOutOfOrder:
    """Not there, slow, sealed, throttled, in a way that nobody has thought of."""

    new = VaultConformance().binding

    def test_sealed_is_unavailable_and_recovers(self, openbao, vault):
        binding = self.new()
        place = promoted(vault, binding, b"one", 1)
        openbao.seal()
        try:
            with refused_as("vault_unavailable"):
                vault.open(binding, place)
            with refused_as("vault_unavailable"):
                vault.check()
        finally:
            openbao.unseal()
        assert vault.open(binding, place).value == b"one"

    def test_what_never_answers_costs_no_more_than_the_timeout(self, site, tmp_path):
        with silent() as url:
            token = site.file("token", "tok-made-up")
            vault = site.vault(f"token_file={token}", origin=url, timeout_seconds=0.3)
            for act in _acts(vault, self.new()):
                began = time.monotonic()
                with refused_as("vault_unavailable"):
                    act()
                assert time.monotonic() - began < 1.5

    def test_nobody_there_is_unavailable(self, site):
        with silent() as url:
            pass
        vault = site.vault(f"token_file={site.file('token', 'x')}", origin=url)
        with refused_as("vault_unavailable"):
            vault.check()

    @pytest.mark.parametrize(
        ("status", "body", "code"),
        [
            *((status, b"{}", "vault_unavailable") for status in (429, 500, 503)),
            *((status, b"{}", "vault_unavailable") for status in (307, 418)),
            (200, b"<html>", "vault_unavailable"),
            (200, b"[1]", None),
            (200, b'{"data": {"metadata": {"version": "one"}}}', "vault_refused"),
            (200, b'{"data": {"data": {}, "metadata": []}}', "vault_refused"),
            (400, b'{"errors": ["no"]}', "vault_refused"),
            (403, b'{"errors": ["permission denied"]}', "vault_refused"),
            (404, b'{"errors": ["no handler for route"]}', "vault_refused"),
        ],
    )
    def test_any_answer_is_one_of_our_errors(self, site, status, body, code):
        token = "tok-secret-5d1c"
        with answering([(200, b'{"data": {"ttl": 0}}'), (status, body)]) as (url, asked):
            options = f"token_file={site.file('token', token)}"
            vault = site.vault(options, origin=url, timeout_seconds=2)
            codes = set()
            for act in _acts(vault, self.new()):
                try:
                    act()
                except DoxStoreError as error:
                    codes.add(error.code)
                    told = "".join(traceback.format_exception(error))
                    assert token not in told
                    assert CANARY.decode() not in told
            vault.close()
        assert code is None or code in codes
        assert codes <= {"vault_unavailable", "vault_refused", "vault_value_missing"}
        assert not any("elsewhere" in each for each in asked), "a redirect was followed"

    def test_what_is_busy_is_asked_once_more(self, site):
        good = (
            b'{"data": {"data": {"value": "v"}, "metadata": {"version": 1, "created_time": "t"}}}'
        )
        answers = [(200, b'{"data": {"ttl": 0}}'), (503, b"{}"), (200, good), (429, b"{}")]
        with answering(answers) as (url, asked):
            vault = site.vault(f"token_file={site.file('token', 'x')}", origin=url)
            assert vault.head(self.new(), None).value == b"v"
            assert len(asked) == 3
            with refused_as("vault_unavailable"):
                vault.head(self.new(), None)
            assert len(asked) == 5
            vault.close()

    def test_an_answer_that_comes_byte_by_byte_is_cut_off(self, site):
        with dripping() as url:
            token = site.file("token", "x")
            vault = site.vault(f"token_file={token}", origin=url, timeout_seconds=0.5)
            began = time.monotonic()
            with refused_as("vault_unavailable"):
                vault.check()
            assert time.monotonic() - began < 2
            vault.close()

    def test_one_connection_serves_one_request_after_the_other(self, site):
        with answering([(200, b'{"data": {"ttl": 0}}'), (404, b'{"errors": []}')]) as (url, asked):
            vault = site.vault(f"token_file={site.file('token', 'x')}", origin=url)
            for _ in range(5):
                assert vault.head(self.new(), None) is None
            vault.close()
        assert len({each.partition(" from ")[2] for each in asked}) == 1

    def test_a_real_quota_is_unavailable_until_it_is_lifted(self, openbao, site, vault):
        vault.check()
        quota = {"path": site.mount, "rate": 0.001, "interval": "1h"}
        openbao.call("POST", "sys/quotas/rate-limit/tight", quota)
        try:
            with refused_as("vault_unavailable"):
                for _ in range(5):
                    vault.head(self.new(), None)
        finally:
            openbao.call("DELETE", "sys/quotas/rate-limit/tight")
        assert vault.head(self.new(), None) is None

    def test_nothing_shows_a_credential_or_a_value(self, site, vault):
        vault.check()
        held = vault._login._held
        assert held.token not in f"{vault!r}{vault._login!r}{held!r}{vault._connection!r}"
        binding = self.new()
        place = promoted(vault, binding, CANARY, 1)
        answer = vault._engine().read(current_path(binding))
        assert CANARY.decode() not in f"{answer!r}{place!r}"


class TestTls:
    new = VaultConformance().binding

    def test_only_the_named_authority_is_believed_and_no_proxy_used(
        self, openbao, site, login, tmp_path, monkeypatch
    ):
        for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        authority, other = trustme.CA(), trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        good, bad = tmp_path / "good.pem", tmp_path / "bad.pem"
        authority.cert_pem.write_to_path(good)
        other.cert_pem.write_to_path(bad)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(good))
        monkeypatch.setenv("VAULT_CACERT", str(good))
        with tls_before(openbao, context) as url:
            vault = site.vault(f"{login}&ca_file={good}", origin=url)
            vault.check()
            vault.close()
            for options in (f"{login}&ca_file={bad}", login):
                vault = site.vault(options, origin=url, timeout_seconds=2)
                with refused_as("vault_unavailable"):
                    vault.check()
                vault.close()


class TestRights:
    def test_set_up_again_changes_nothing(self, site):
        assert site.done == [
            f"A KV engine, version 2, was enabled at {site.mount}.",
            f"The policy {site.policy} was written.",
        ]
        assert site.set_up()[0] == f"A KV engine, version 2, is at {site.mount} already."

    def test_another_engine_in_its_place_is_a_conflict(self, openbao, tmp_path):
        site = BaoSite.__new__(BaoSite)
        site.bao, site.mount, site.prefix, site.namespace = openbao, "transit", "", ""
        site.policy = "none"
        with refused_as("vault_conflict"):
            site.set_up()

    @pytest.mark.parametrize("missing", range(5))
    def test_a_policy_that_lacks_a_rule_is_named_by_the_check(self, site, missing):
        rules = policy_text(site.mount, site.prefix).split("path ")[1:]
        dropped = rules.pop(missing)
        name = f"short-{missing}-{site.mount}"
        policy = "".join(f"path {rule}" for rule in rules)
        site.call("PUT", f"sys/policies/acl/{name}", {"policy": policy})
        token = site.file("token", site.token(policies=[name]))
        vault = site.vault(f"token_file={token}")
        with pytest.raises(DoxStoreError) as raised:
            vault.check()
        assert raised.value.code == "vault_refused"
        path = dropped.partition('"')[2].partition("*")[0]
        assert path in raised.value.detail or missing == 0
        vault.close()

    def test_the_policy_reaches_nothing_else(self, site, login, vault):
        vault.check()
        token = vault._login._held.token
        site.call("POST", f"{site.mount}/data/elsewhere", {"data": {"a": "b"}})
        for method, path in (
            ("GET", f"{site.mount}/data/elsewhere"),
            ("DELETE", site.at("metadata", "production/any")),
            ("DELETE", site.at("data", "production/any")),
            ("GET", "sys/mounts"),
            ("LIST", f"{site.mount}/metadata/"),
        ):
            deadline = vault._engine().deadline
            answer = vault._connection.ask(deadline, method, path, token=token)
            assert answer.status == 403, f"{method} {path}"

    def test_an_engine_that_is_not_there_is_said_to_be_missing(self, openbao, site, tmp_path):
        other = BaoSite(openbao, tmp_path)
        options = other.approle()
        other.call("DELETE", f"sys/mounts/{other.mount}")
        vault = other.vault(options)
        for act in (vault.check, lambda: vault.head(VaultConformance().binding(), None)):
            with refused_as("vault_refused"):
                act()
        vault.close()

    def test_the_first_version_of_the_engine_is_refused(self, openbao, tmp_path):
        site = BaoSite(openbao, tmp_path)
        options = site.approle()
        site.call("DELETE", f"sys/mounts/{site.mount}")
        site.call("POST", f"sys/mounts/{site.mount}", {"type": "kv", "options": {"version": "1"}})
        vault = site.vault(options)
        with refused_as("vault_refused"):
            vault.check()
        with refused_as("vault_refused"):
            vault.store(VaultConformance().binding(), CANARY, about(1))
        vault.close()


def _acts(vault, binding):
    place = json.dumps(
        {"path": "a", "version": 1, "field": "value", "created": "t", "digest": "0" * 64}
    ).encode()
    return (
        vault.check,
        lambda: vault.store(binding, CANARY, about(1)),
        lambda: vault.find(binding),
        lambda: vault.open(binding, place),
        lambda: vault.superseded(binding, place),
        lambda: vault.promote(binding, place, about(1)),
        lambda: vault.withdraw(binding, place),
        lambda: vault.erase(binding, place),
        lambda: vault.head(binding, None),
        lambda: list(vault.entries()),
    )
