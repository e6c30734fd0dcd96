"""A Django project in a process of its own, with a real store and a real PostgreSQL."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.functional.app_database import AppDatabase
from tests.functional.postgres import Postgres
from tests.functional.running import RunningStore, clean_environment, free_port

SECRET = "a-secret-of-django-that-is-long-enough-for-its-own-checks-0123456789"
SETTINGS = """
import os

from dox_core_store import SyncKeyClient
from dox_core_store.integrations.django import key

KEY_CLIENT = SyncKeyClient("django-app")
SECRET_KEY = key("django.secret_key")
EMAIL_HOST_PASSWORD = key("django.mail")
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sessions"]
ROOT_URLCONF = "project_settings"
urlpatterns = []
USE_TZ = True
DATABASES = {
    "default": {
        "ENGINE": "dox_core_store.integrations.django.postgresql",
        "NAME": "postgres",
        "USER": os.environ["ROLE"],
        "PASSWORD": key(f"database_passwords.{os.environ['ROLE']}"),
        "HOST": "127.0.0.1",
        "PORT": os.environ["DATABASE_PORT"],
    }
}
"""
BEGIN = """
import django
from django.conf import settings
django.setup()
"""


@pytest.fixture(scope="module")
def database(postgres: Postgres, shared_store: RunningStore) -> Iterator[AppDatabase]:
    made = AppDatabase(postgres, shared_store, role="app_django")
    made.change("at-first")
    yield made
    made.drop()


@pytest.fixture(scope="module")
def token(shared_store: RunningStore, database: AppDatabase) -> str:
    shared_store.put("django.secret_key", SECRET, environment="production")
    shared_store.put("django.mail", "value-of-mail", environment="production")
    return shared_store.issue("django-app", "django.*", database.path)


class Project:
    """The folder of a project, and how its programs are run."""

    def __init__(self, folder: Path, **environment: str) -> None:
        folder.joinpath("project_settings.py").write_text(SETTINGS, encoding="utf-8")
        self._folder = folder
        self._environment = {"DJANGO_SETTINGS_MODULE": "project_settings", **environment}

    def run(self, program: str, *, given: str = "", **environment: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", BEGIN + program],
            cwd=self._folder,
            env=clean_environment(**{**self._environment, **environment}),
            input=given,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def project(
    tmp_path: Path, shared_store: RunningStore, database: AppDatabase, token: str
) -> Project:
    return Project(
        tmp_path,
        KEY_SERVICE_URL=shared_store.url,
        SERVICE_TOKEN=token,
        ROLE=database.role,
        DATABASE_PORT=str(database.port),
    )


def test_settings_are_texts_that_come_from_the_store(project: Project) -> None:
    said = project.run(
        """
from django.core import signing
from django.utils.encoding import force_bytes, force_str

assert signing.loads(signing.dumps("hello")) == "hello"
value = str(settings.SECRET_KEY)
assert force_bytes(settings.SECRET_KEY) == value.encode()
assert force_str(settings.EMAIL_HOST_PASSWORD) == "value-of-mail"
assert settings.EMAIL_HOST_PASSWORD == "value-of-mail" != settings.SECRET_KEY
assert len(settings.SECRET_KEY) == len(value) and settings.SECRET_KEY.startswith("a-secret")
assert settings.EMAIL_HOST_PASSWORD[:5] + "!" == "value!" and "of" in settings.EMAIL_HOST_PASSWORD
assert "a " + settings.EMAIL_HOST_PASSWORD + "!" == "a value-of-mail!"
assert f"{settings.EMAIL_HOST_PASSWORD}" == "".join(settings.EMAIL_HOST_PASSWORD)
print(value)
"""
    )
    assert said.strip() == SECRET


def test_a_setting_follows_a_change(project: Project, shared_store: RunningStore) -> None:
    said = project.run(
        f"""
import http.client, json
before = str(settings.EMAIL_HOST_PASSWORD)
connection = http.client.HTTPConnection({shared_store.host!r}, {shared_store.port})
body = json.dumps({{"value": "another", "environment": "production"}})
import os
connection.request("PUT", "/v1/keys/django.mail", body,
                   {{"Authorization": "Bearer " + os.environ["OPERATOR"]}})
assert connection.getresponse().status in (200, 201)
settings.KEY_CLIENT.clear_cache()
print(before, settings.EMAIL_HOST_PASSWORD)
""",
        OPERATOR=shared_store.admin_token,
    )
    shared_store.put("django.mail", "value-of-mail", environment="production")
    assert said.split() == ["value-of-mail", "another"]


def test_settings_are_read_without_a_store(project: Project) -> None:
    said = project.run(
        "print(repr(settings.SECRET_KEY), settings.DATABASES['default']['PASSWORD'].__class__)",
        KEY_SERVICE_URL=f"http://127.0.0.1:{free_port()}",
    )
    assert said.startswith("<key django.secret_key value=[hidden]> ")


def test_the_page_for_errors_shows_no_value(project: Project) -> None:
    said = project.run(
        """
from django.test import RequestFactory
from django.views.debug import ExceptionReporter

settings.DEBUG = True
settings.OTHER_NAME = settings.EMAIL_HOST_PASSWORD  # a name that Django does not cleanse
settings.ALLOWED_HOSTS = ["*"]
try:
    str(settings.SECRET_KEY), str(settings.EMAIL_HOST_PASSWORD)
    local = settings.SECRET_KEY
    1 / 0
except ZeroDivisionError:
    import sys
    print(ExceptionReporter(RequestFactory().get("/"), *sys.exc_info()).get_traceback_html())
"""
    )
    assert "OTHER_NAME" in said
    assert "[hidden]" in said
    assert SECRET not in said
    assert "value-of-mail" not in said


def test_the_checks_of_a_deployment_find_a_good_secret_key(project: Project) -> None:
    project.run(
        """
from django.core.management import call_command
from django.core.checks.security.base import check_secret_key
assert check_secret_key(None) == []
call_command("check")
"""
    )


def test_each_new_connection_has_the_password_of_the_moment(
    project: Project, database: AppDatabase
) -> None:
    # The program logs in, waits until the password was changed, logs in again.
    program = subprocess.Popen(
        [
            sys.executable,
            "-c",
            BEGIN
            + """
from django.db import connection
def user():
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_user")
        return cursor.fetchone()[0]
print(user(), flush=True)
for word in iter(input, "end"):
    connection.close()
    print(user(), flush=True)
""",
        ],
        cwd=project._folder,
        env=clean_environment(**project._environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdin is not None
    assert program.stdout is not None
    try:
        assert program.stdout.readline().strip() == database.role
        for change in (database.change, database.store, database.alter, database.change):
            change(f"password-{change.__name__}")
            if change == database.store:
                database_password = f"password-{change.__name__}"
            elif change == database.alter:
                database.alter(database_password)
            program.stdin.write("again\n")
            program.stdin.flush()
            assert program.stdout.readline().strip() == database.role
        program.stdin.write("end\n")
        program.stdin.close()
        assert program.wait(30) == 0
    finally:
        program.kill()
        program.wait()


def test_migrations_run_on_it_and_a_plain_password_still_works(
    project: Project, database: AppDatabase, postgres: Postgres
) -> None:
    postgres.run("postgres", f"CREATE SCHEMA django_app AUTHORIZATION {database.role}")
    postgres.run("postgres", f"ALTER ROLE {database.role} SET search_path = django_app")
    database.change("for-migrations")
    project.run(
        """
import copy
from django.core.management import call_command
from django.contrib.auth.models import User
from django.db import connections
call_command("migrate", verbosity=0)
User.objects.create_user("somebody", password="x")
assert User.objects.get().check_password("x")
alias = connections["default"].copy()
with alias.cursor() as cursor:
    cursor.execute("SELECT 1")
alias.close()
plain = copy.deepcopy(connections["default"].settings_dict) | {"PASSWORD": "for-migrations"}
connections.databases["plain"] = plain
with connections["plain"].cursor() as cursor:
    cursor.execute("SELECT 1")
"""
    )
    postgres.run("postgres", "DROP SCHEMA django_app CASCADE")


def test_a_pool_with_one_password_is_refused(project: Project) -> None:
    project.run(
        """
from django.core.exceptions import ImproperlyConfigured
from django.db import connection
connection.settings_dict["OPTIONS"] = {"pool": True}
try:
    connection.get_connection_params()
except ImproperlyConfigured as error:
    assert "CONN_MAX_AGE" in str(error)
else:
    raise SystemExit("it was taken")
"""
    )


def test_a_project_without_a_client_is_told(project: Project) -> None:
    project.run(
        """
from django.core.exceptions import ImproperlyConfigured
secret = settings.SECRET_KEY
settings.KEY_CLIENT = None
try:
    str(secret)
except ImproperlyConfigured as error:
    assert "KEY_CLIENT has to be a SyncKeyClient" in str(error)
else:
    raise SystemExit("there was a value")
"""
    )
