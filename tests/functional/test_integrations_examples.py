"""What is shown of the integrations is run as it stands: each section of the document as a program,
and the example in each module's docstring."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.functional.app_database import AppDatabase
from tests.functional.postgres import Postgres
from tests.functional.running import RunningStore, clean_environment
from tests.functional.test_documents import BLOCK, RUN_IN_A_LOOP

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "integrations.md").read_text(encoding="utf-8")
MODULES = [
    "django", "fastapi", "logging", "opentelemetry", "psycopg", "pydantic_settings", "sqlalchemy",
]  # fmt: skip
SECTIONS = {
    title: [body for _language, body in blocks]
    for title, _, text in (part.partition("\n") for part in DOCUMENT.split("\n## ")[1:])
    if (blocks := BLOCK.findall(text))
}

# What the application would do next, where the example only says how it is made.
THEN = {
    "django": """
import sys
import django
sys.modules["project_settings"] = sys.modules["__main__"]
django.setup()
from django.core import signing
from django.db import connection
assert signing.loads(signing.dumps("hello")) == "hello"
with connection.cursor() as cursor:
    cursor.execute("SELECT current_user")
    assert cursor.fetchone() == ("app",)
""",
    "fastapi": """
from tests.functional.test_integrations_fastapi import Asgi
asgi = Asgi(app)
await asgi.start()
assert await asgi.get("/version") == b"1"
await asgi.stop()
""",
}


@pytest.fixture(scope="module")
def database(postgres: Postgres, shared_store: RunningStore) -> Iterator[AppDatabase]:
    made = AppDatabase(postgres, shared_store, role="app")
    postgres.run("postgres", "CREATE DATABASE app")
    made.change("password-of-app")
    yield made
    postgres.run("postgres", "DROP DATABASE app WITH (FORCE)")
    made.drop()


@pytest.fixture(scope="module")
def environment(shared_store: RunningStore, database: AppDatabase) -> dict[str, str]:
    granted = ["service_keys.jules_api", "service_keys.maps", "django.secret_key"]
    for path in granted:
        shared_store.put(path, f"value-of-{path}" * 3, environment="production")
    token = shared_store.issue("jules-mcp", *granted, database.path, database.url_path)
    return clean_environment(
        KEY_SERVICE_URL=shared_store.url,
        SERVICE_TOKEN=token,
        DATABASE_URL=database.address.replace("postgresql:", "postgresql+psycopg:", 1),
        CONNINFO=database.address,
        DATABASE_HOST="127.0.0.1",
        DATABASE_PORT=str(database.port),
        DJANGO_SETTINGS_MODULE="project_settings",
        PYTHONPATH=str(ROOT),
    )


def run(blocks: list[str], environment: dict[str, str]) -> str:
    """Run ``blocks`` as one program with a loop, or as a module if none of them waits."""
    joined = "\n".join(blocks)
    tree = compile(joined, "example", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST)
    waits = any(isinstance(each, (ast.Await, ast.AsyncWith)) for each in top_level(tree))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUN_IN_A_LOOP if waits else joined],
        input=joined if waits else "",
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def top_level(tree: ast.AST) -> Iterator[ast.AST]:
    """What runs when the module does."""
    for node in ast.iter_child_nodes(tree):
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from top_level(node)


def example_of(name: str) -> str:
    """The code after ``::`` in the docstring of a module."""
    module = importlib.import_module(f"dox_core_store.integrations.{name}")
    found = re.search(r"^::\n\n((?:    .*\n|\n)+)", module.__doc__ or "", re.MULTILINE)
    assert found, f"{name} shows no example"
    return textwrap.dedent(found[1])


@pytest.mark.parametrize("name", MODULES)
def test_the_example_of_each_module_runs(name: str, environment: dict[str, str]) -> None:
    run([example_of(name), THEN.get(name, "")], environment)


@pytest.mark.parametrize("title", SECTIONS)
def test_each_section_of_the_document_runs(title: str, environment: dict[str, str]) -> None:
    said = run([*SECTIONS[title], THEN.get(title.lower(), "")], environment)
    assert "value-of-" not in said


def test_every_module_is_in_the_document() -> None:
    folder = ROOT / "src" / "dox_core_store" / "integrations"
    modules = {path.stem for path in folder.iterdir() if not path.stem.startswith("__")}
    assert modules - {"database_login"} == set(MODULES)
    shown = set(re.findall(r"^\| [^|]+ \| `(\w+)` \| `", DOCUMENT, re.MULTILINE))
    assert shown == set(MODULES)
    assert len(SECTIONS) == len(MODULES)


def test_the_line_that_is_logged_is_the_one_that_is_shown(environment: dict[str, str]) -> None:
    assert run(SECTIONS["Logs"], environment) == "calling with [hidden]\n"
