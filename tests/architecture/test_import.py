"""What importing loads: start-up time that every service pays, and libraries that it may not have.

Times are in the bench and not judged here, for a busy machine would fail the test.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

FRAMEWORKS = {"django", "fastapi", "opentelemetry", "psycopg", "pydantic_settings", "sqlalchemy"}
NEEDS = {
    "": set(),
    "database_login": set(),
    "django": {"django"},
    "django.postgresql": {"django"},
    "django.postgresql.base": {"django", "psycopg"},
    "fastapi": {"fastapi"},
    "logging": set(),
    "opentelemetry": {"opentelemetry"},
    "psycopg": {"psycopg"},
    "pydantic_settings": {"pydantic_settings"},
    "sqlalchemy": {"sqlalchemy"},
}


def loaded(code: str) -> set[str]:
    """The packages that are there once ``code`` has run, other than the standard library's."""
    script = f"{code}\nimport sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split()) - set(sys.stdlib_module_names)


def test_the_clients_load_one_library_before_the_first_call() -> None:
    # typing_extensions is msgspec's, where it is installed.
    extra = loaded("from dox_core_store import KeyClient, SyncKeyClient") - loaded("")
    assert extra <= {"dox_core_store", "msgspec", "typing_extensions"}
    assert "msgspec" in extra


def test_a_client_that_was_made_has_not_loaded_the_http_library() -> None:
    made = (
        "SyncKeyClient('jules-mcp', 'e30.eyJzdWIiOiJqdWxlcy1tY3AifQ.c2ln', 'https://keys.example')"
    )
    extra = loaded(f"from dox_core_store import SyncKeyClient\nclient = {made}")
    assert not extra & {"cryptography", "httpx2", *FRAMEWORKS}


@pytest.mark.parametrize("name", NEEDS)
def test_an_integration_loads_the_framework_that_it_is_for(name: str) -> None:
    module = f"dox_core_store.integrations.{name}".rstrip(".")
    extra = loaded(f"import {module}")
    # FastAPI looks for OpenTelemetry by itself.
    needed = loaded("".join(f"import {each}\n" for each in NEEDS[name]))
    assert extra & FRAMEWORKS == needed & FRAMEWORKS
    assert "httpx2" not in extra


def test_every_integration_is_looked_at() -> None:
    script = (
        "import pkgutil, dox_core_store.integrations as i;"
        "print(*(m.name for m in pkgutil.walk_packages(i.__path__, i.__name__ + '.')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    names = {each.removeprefix("dox_core_store.integrations.") for each in done.stdout.split()}
    assert names == NEEDS.keys() - {""}
