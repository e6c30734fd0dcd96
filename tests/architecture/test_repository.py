"""What a stranger finds after cloning: locks, targets, documents that lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
LOCKS = sorted((REPOSITORY / "requirements").glob("*.txt"))
PIN = re.compile(r"^([a-z0-9][a-z0-9-]*)==(\S+)", re.MULTILINE)
KINDS = {"added", "changed", "deprecated", "fixed", "removed", "security"}
MADE_HERE = {".venv", ".git", "build", "dist", "node_modules"}
DOCUMENTS = [
    path
    for path in sorted(REPOSITORY.rglob("*.md"))
    if not MADE_HERE & set(path.relative_to(REPOSITORY).parts)
]
LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\(([^)\s]+)\)")


def pins(path: Path) -> set[tuple[str, str]]:
    return set(PIN.findall(path.read_text(encoding="utf-8")))


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def test_there_is_a_lock_for_each_way_to_install() -> None:
    names = {path.stem for path in LOCKS}
    assert names == {"base", "base-test", "dev", "image", "lock", "runtime"}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_a_lock_has_hashes_for_every_package_and_names_no_host_and_no_path(lock: Path) -> None:
    text = lock.read_text(encoding="utf-8")
    assert "/" not in text
    assert "--index" not in text
    blocks = re.split(r"\n(?=\S)", text.strip())
    assert [block for block in blocks if "--hash=sha256:" not in block] == []
    assert all(PIN.match(block) for block in blocks)


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_every_lock_agrees_with_the_one_for_development(lock: Path) -> None:
    # Otherwise `make test` would test other versions than `make run` installs.
    assert pins(lock) <= pins(REPOSITORY / "requirements" / "dev.txt")


@pytest.mark.parametrize("name", ["runtime", "image", "dev"])
def test_the_build_backend_is_locked_too(name: str) -> None:
    locked = dict(pins(REPOSITORY / "requirements" / f"{name}.txt"))
    assert {"hatchling", "editables"} <= locked.keys()


def test_every_declared_dependency_is_locked() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    declared = [*project["project"]["dependencies"], *extras["server"], *extras["cli"]]
    declared += [each for each in project["dependency-groups"]["dev"] if isinstance(each, str)]
    names = {re.split(r"[^A-Za-z0-9_.-]", each, maxsplit=1)[0].lower() for each in declared}
    assert names <= dict(pins(REPOSITORY / "requirements" / "dev.txt")).keys()


@pytest.mark.parametrize("target", ["install", "run", "test", "check", "bench", "lock", "clean"])
def test_make_knows_the_target_and_says_what_it_does(target: str) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    shown = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.search(rf"^  make {target} +\w", shown.stdout, re.MULTILINE)


def test_continuous_integration_runs_what_a_person_runs() -> None:
    script = REPOSITORY / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text(encoding="utf-8").rstrip().endswith("\nmake test")


def test_every_change_note_is_named_by_its_kind() -> None:
    notes = [each for each in (REPOSITORY / "changelog.d").iterdir() if each.name != "README.md"]
    assert notes
    for note in notes:
        assert re.fullmatch(r"[a-z0-9-]+\.[a-z]+\.md", note.name), note.name
        assert note.name.split(".")[1] in KINDS
        assert note.read_text(encoding="utf-8").strip()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_of_a_document_leads_somewhere(document: Path) -> None:
    dead = []
    for target in LINK.findall(document.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        page = document.parent / name if name else document
        if not page.exists():
            dead.append(target)
        elif anchor and page.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
            if anchor not in {slug(each) for each in headings}:
                dead.append(target)
    assert dead == []
