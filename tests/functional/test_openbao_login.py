"""Logging in to a real OpenBao, each way that there is, and staying logged in.

Kubernetes has no cluster here: OpenBao's own plugin asks a stand-in for the TokenReview API, so the
exchange with OpenBao is real and what a cluster says is not.
"""

from __future__ import annotations

import contextlib
import time
import urllib.error
from pathlib import Path

import pytest
from tests.functional.issuers import Issuer
from tests.functional.openbao_site import BaoSite, leases, promoted, reviewing

from dox_core_store.errors import ConfigurationError, DoxStoreError
from dox_core_store.testing.vault_conformance import VaultConformance, refused_as

new = VaultConformance().binding


@pytest.fixture(scope="module")
def site(openbao, tmp_path_factory):
    return BaoSite(openbao, tmp_path_factory.mktemp("login"))


def _revoke(site, vault):
    site.call("POST", "auth/token/revoke", {"token": vault._login._held.token})


def _is_dead(site, token):
    try:
        site.call("POST", "auth/token/lookup", {"token": token})
    except urllib.error.HTTPError as error:
        error.close()
        return True
    return False


def _mount(options):
    return options.partition("auth_mount=")[2].partition("&")[0]


def _works(vault):
    binding = new()
    place = promoted(vault, binding, b"one", 1)
    return vault.open(binding, place) == (b"one", False)


@pytest.fixture
def role(site):
    """Options of a login by a role of its own."""
    return site.approle(token_ttl="1h")


@pytest.fixture
def vault(site, role):
    with contextlib.closing(site.vault(role)) as made:
        made.check()
        yield made


class TestToken:
    def test_by_a_file_that_is_read_again_once_its_token_is_dead(self, site):
        file = site.file("token", site.token(ttl="1h"))
        vault = site.vault(f"token_file={file}")
        assert _works(vault)
        _revoke(site, vault)
        with refused_as("vault_refused"):
            vault.check()
        file.write_text(site.token(ttl="1h"), encoding="ascii")
        assert _works(vault)
        vault.close()

    @pytest.mark.parametrize("name", ["BAO_TOKEN", "VAULT_TOKEN"])
    def test_by_the_environment(self, site, monkeypatch, name):
        monkeypatch.delenv("BAO_TOKEN", raising=False)
        vault = site.vault("login=token")
        with refused_as("vault_refused"):
            vault.check()
        monkeypatch.setenv(name, site.token())
        assert _works(vault)
        vault.close()

    def test_one_of_the_environment_is_not_sent_along_with_another_login(
        self, site, role, monkeypatch
    ):
        monkeypatch.setenv("VAULT_TOKEN", "hvac-would-take-this")
        vault = site.vault(role)
        assert _works(vault)
        vault.close()

    def test_a_file_that_is_not_there_or_holds_none_is_a_refusal(self, site, tmp_path):
        (tmp_path / "empty").write_text("\n", encoding="ascii")
        (tmp_path / "odd").write_bytes(b"\xff\xfe")
        (tmp_path / "two").write_text("line\nline", encoding="ascii")
        for name in ("none", "empty", "odd", "two"):
            vault = site.vault(f"token_file={tmp_path / name}")
            with refused_as("vault_refused"):
                vault.check()
            vault.close()


class TestAppRole:
    def test_a_new_secret_id_is_read_from_its_file(self, site, role):
        secret_file = Path(role.partition("secret_id_file=")[2])
        vault = site.vault(role)
        assert _works(vault)
        used = secret_file.read_text(encoding="ascii").strip()
        site.call("POST", f"auth/{_mount(role)}/role/store/secret-id/destroy", {"secret_id": used})
        _revoke(site, vault)
        with pytest.raises(DoxStoreError) as raised:
            vault.check()
        assert raised.value.code == "vault_refused"
        assert used not in str(raised.value)
        secret_file.write_text(site.secret_id(_mount(role)), encoding="ascii")
        assert _works(vault)
        vault.close()

    def test_a_role_without_secret_ids_needs_no_file(self, site):
        role = site.approle(bind_secret_id=False, token_bound_cidrs=["127.0.0.1/32"])
        vault = site.vault(role)
        assert _works(vault)
        vault.close()


class TestJwt:
    def test_a_token_of_an_issuer_is_exchanged_and_read_again(self, site):
        issuer = Issuer("https://issuer.example.com", Path("none"))
        mount = site.auth("jwt")
        pem = issuer.keys["rsa"].as_pem(private=False).decode()
        site.call("POST", f"auth/{mount}/config", {"jwt_validation_pubkeys": [pem]})
        site.call(
            "POST",
            f"auth/{mount}/role/store",
            {
                "role_type": "jwt",
                "user_claim": "sub",
                "bound_audiences": [issuer.audience],
                "token_policies": [site.policy],
                "token_no_default_policy": True,
            },
        )
        file = site.file("jwt", issuer.token())
        vault = site.vault(f"login=jwt&auth_mount={mount}&role=store&jwt_file={file}")
        assert _works(vault)
        expired = issuer.token(issuer.claims(exp=int(time.time()) - 3600, nbf=None, iat=None))
        file.write_text(expired, encoding="ascii")
        assert _works(vault), "the token of OpenBao lives"
        _revoke(site, vault)
        with pytest.raises(DoxStoreError) as raised:
            vault.check()
        assert raised.value.code == "vault_refused"
        assert expired not in str(raised.value)
        file.write_text(issuer.token(), encoding="ascii")
        assert _works(vault)
        vault.close()


class TestKubernetes:
    def test_a_service_account_is_reviewed_and_logged_in(self, site):
        issuer = Issuer("https://kubernetes.default.svc", Path("none"))
        claims = issuer.claims(
            aud=[issuer.audience],
            sub="system:serviceaccount:doxstore:store",
            **{
                "kubernetes.io": {
                    "namespace": "doxstore",
                    "serviceaccount": {
                        "name": "store",
                        "uid": "0c3a8a0e-7f3b-4d1c-9a55-d6d1f2f2b0aa",
                    },
                }
            },
        )
        token = issuer.token(claims)
        mount = site.auth("kubernetes")
        with reviewing({token: ("doxstore", "store")}) as (url, authority):
            site.call(
                "POST",
                f"auth/{mount}/config",
                {
                    "kubernetes_host": url,
                    "kubernetes_ca_cert": authority,
                    "token_reviewer_jwt": token,
                    "disable_local_ca_jwt": True,
                },
            )
            site.call(
                "POST",
                f"auth/{mount}/role/store",
                {
                    "bound_service_account_names": ["store"],
                    "bound_service_account_namespaces": ["doxstore"],
                    "audience": issuer.audience,
                    "token_policies": [site.policy],
                    "token_no_default_policy": True,
                },
            )
            file = site.file("jwt", token)
            options = f"login=kubernetes&auth_mount={mount}&role=store&jwt_file={file}"
            vault = site.vault(options)
            assert _works(vault)
            vault.close()
            file.write_text(issuer.token({**claims, "sub": "another"}), encoding="ascii")
            vault = site.vault(options)
            with refused_as("vault_refused"):
                vault.check()
            vault.close()


class TestStayingLoggedIn:
    def test_a_revoked_token_costs_one_login(self, site, role, vault):
        for _ in range(2):
            _revoke(site, vault)
            assert _works(vault)
        assert leases(site, _mount(role)) == 1

    def test_an_expired_token_is_replaced(self, site):
        role = site.approle(token_ttl="1s", token_max_ttl="1s")
        vault = site.vault(role)
        assert _works(vault)
        token = vault._login._held.token
        deadline = time.monotonic() + 30
        while not _is_dead(site, token):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert _works(vault)
        assert vault._login._held.token != token
        vault.close()

    def test_a_token_is_renewed_at_two_thirds_of_its_time(self, site, role, vault):
        login = vault._login
        held = login._held
        assert held.renew_at - held.since == pytest.approx((held.expires_at - held.since) * 2 / 3)
        login._held = held._replace(renew_at=held.since)
        vault.check()
        assert login._held.token == held.token
        found = site.call("POST", "auth/token/lookup", {"token": held.token})
        assert found["data"]["last_renewal_time"]
        assert login._held.expires_at > held.expires_at
        assert leases(site, _mount(role)) == 1

    @pytest.mark.parametrize("why", ["batch", "revoked", "at its end"])
    def test_where_it_cannot_be_renewed_one_logs_in_anew(self, site, why):
        settings = {
            "batch": {"token_type": "batch", "token_ttl": "1h"},
            "revoked": {"token_ttl": "1h"},
            "at its end": {"token_ttl": "3s", "token_max_ttl": "3s"},
        }[why]
        vault = site.vault(site.approle(**settings))
        vault.check()
        login = vault._login
        held = login._held
        if why == "revoked":
            _revoke(site, vault)
        login._held = held._replace(renew_at=held.since, expires_at=held.since + 3600)
        vault.check()
        assert login._held.token != held.token
        vault.close()

    def test_a_renewal_that_cannot_be_had_now_leaves_the_token(self, openbao, site, vault):
        login = vault._login
        held = login._held
        login._held = held._replace(renew_at=held.since)
        openbao.seal()
        try:
            with refused_as("vault_unavailable"):
                vault.check()
        finally:
            openbao.unseal()
        assert login._held.token == held.token
        assert login._held.renew_at > held.since
        assert _works(vault)

    def test_a_policy_that_does_not_suffice_makes_nobody_log_in_again(self, site):
        allowed = 'path "auth/token/lookup-self" { capabilities = ["read"] }'
        site.call("PUT", "sys/policies/acl/nothing", {"policy": allowed})
        role = site.approle(token_policies=["nothing"])
        vault = site.vault(role)
        for _ in range(5):
            with refused_as("vault_refused"):
                vault.head(new(), None)
        assert leases(site, _mount(role)) == 1
        vault.close()

    def test_new_policies_of_a_role_are_had_by_an_old_token_that_is_refused(self, site):
        allowed = 'path "auth/token/lookup-self" { capabilities = ["read"] }'
        site.call("PUT", "sys/policies/acl/nothing", {"policy": allowed})
        role = site.approle(token_policies=["nothing"])
        vault = site.vault(role)
        with refused_as("vault_refused"):
            vault.head(new(), None)
        site.call(
            "POST",
            f"auth/{_mount(role)}/role/store",
            {"token_policies": [site.policy], "token_no_default_policy": True},
        )
        login = vault._login
        login._held = login._held._replace(since=login._held.since - 61)
        assert _works(vault)
        vault.close()


@pytest.mark.parametrize(
    "options",
    [
        "login=approle",
        "login=kubernetes",
        "login=jwt&role=store",
        "login=jwt&jwt_file=x",
        "ca_file=/nowhere.pem",
    ],
)
def test_an_address_that_lacks_what_its_login_needs_is_a_wrong_setting(site, options):
    with pytest.raises(ConfigurationError) as raised:
        site.vault(options)
    assert raised.value.code == "bad_setting"
