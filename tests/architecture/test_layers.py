"""The dependency rule: arrows point down only. ``.importlinter`` holds the contracts."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dox_core_store

PACKAGE = Path(dox_core_store.__file__).parent
REPOSITORY = Path(__file__).parents[2]


def test_every_import_keeps_the_contracts() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [linter, "--no-cache"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def imports_at_load(nodes: list[ast.stmt]) -> Iterator[str]:
    """Names of the modules that are imported when the file is, not when a function runs."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif not runs_later(node):
            yield from imports_at_load(bodies(node))


def bodies(node: ast.AST) -> list[ast.stmt]:
    """The statements directly inside, those of ``except`` and ``case`` clauses included."""
    found = []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            found.append(child)
        elif isinstance(child, (ast.ExceptHandler, ast.match_case)):
            found.extend(bodies(child))
    return found


def runs_later(node: ast.stmt) -> bool:
    """Whether the body is for a call, or for type checkers, and not for the moment of import."""
    if isinstance(node, ast.If):
        return ast.unparse(node.test) == "TYPE_CHECKING"
    return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))


def test_the_cli_loads_server_code_inside_functions_only() -> None:
    # An operator's machine has the `cli` extra without `server`; every command that talks to a
    # store over HTTP has to work there.
    early = [
        f"{path.relative_to(PACKAGE)} loads {name}"
        for path in sorted((PACKAGE / "cli").rglob("*.py"))
        for name in imports_at_load(ast.parse(path.read_text(encoding="utf-8")).body)
        if name.startswith("dox_core_store.server")
    ]
    assert early == []


def test_the_client_loads_no_library_of_the_server() -> None:
    script = (
        "import importlib, pkgutil, sys; import dox_core_store.client as client\n"
        "for each in pkgutil.walk_packages(client.__path__, 'dox_core_store.client.'):\n"
        "    importlib.import_module(each.name)\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert "httpx2" in loaded or "msgspec" in loaded
    assert not loaded & {
        "alembic",
        "granian",
        "jinja2",
        "joserfc",
        "litestar",
        "prometheus_client",
        "rich",
        "sqlalchemy",
        "structlog",
        "typer",
        "yaml",
    }
