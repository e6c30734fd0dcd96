"""Public names: what a module gives away is written in its ``__all__``, and nowhere else."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import dox_core_store

PACKAGE = Path(dox_core_store.__file__).parent
MAX_LINES = 350
LONGER_BECAUSE = {
    "errors.py": "one table: every code of the product with its remedy, kept in one place",
    "server/adapters/sql/tables.py": "one page: the whole schema, which the migrations build",
    "server/ports.py": "one page: every seam of the server",
    "server/usecases/key_import.py": "one automaton: staging, flip, settling and clearing",
    "wire.py": "one page: every body of the API, read by client and server side by side",
}


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


# Alembic runs its migrations by path, inside a migration; they are not modules to import.
SOURCES = {
    name_of(path): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if "migrations" not in path.relative_to(PACKAGE).parts
}


def as_sorted(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions: the order that ruff's RUF022 keeps."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


def defined_publicly(tree: ast.Module) -> set[str]:
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return {
        node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")
    }


def imported_names(tree: ast.Module) -> set[tuple[str, str]]:
    """Every ``from dox_core_store.x import y`` as ``("dox_core_store.x", "y")``."""
    return {
        (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dox_core_store")
        for alias in node.names
        if node.module is not None
    }


@pytest.mark.parametrize("name", SOURCES)
def test_every_exported_name_is_there_and_the_list_is_sorted(name: str) -> None:
    module = importlib.import_module(name)
    exported = list(getattr(module, "__all__", []))
    assert exported == sorted(set(exported), key=as_sorted)
    missing = [each for each in exported if not hasattr(module, each)]
    assert missing == []


@pytest.mark.parametrize("name", SOURCES)
def test_a_module_that_defines_public_names_says_which_it_exports(name: str) -> None:
    tree = ast.parse(SOURCES[name].read_text(encoding="utf-8"))
    if defined_publicly(tree):
        assert hasattr(importlib.import_module(name), "__all__")


def test_nothing_is_imported_that_its_module_does_not_export() -> None:
    hidden = [
        f"{importer} imports {home}.{wanted}"
        for importer, path in SOURCES.items()
        for home, wanted in sorted(imported_names(ast.parse(path.read_text(encoding="utf-8"))))
        if f"{home}.{wanted}" not in SOURCES  # a submodule is not a name of its package
        and wanted not in getattr(importlib.import_module(home), "__all__", ())
    ]
    assert hidden == []


@pytest.mark.parametrize("name", SOURCES)
def test_a_module_says_what_it_is_and_stays_readable(name: str) -> None:
    text = SOURCES[name].read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text))
    lines = len(text.splitlines())
    path = SOURCES[name].relative_to(PACKAGE).as_posix()
    if path in LONGER_BECAUSE:
        assert lines > MAX_LINES, f"{path} needs no exception any more"
    else:
        assert lines <= MAX_LINES, "look for the second noun"


def test_importing_the_package_imports_nothing_else() -> None:
    script = (
        "import sys; before = set(sys.modules); import dox_core_store;"
        "print(*sorted(m for m in set(sys.modules) - before if m.split('.')[0] not in"
        " sys.stdlib_module_names))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["dox_core_store"]
