"""The image's recipe: linted, pinned, nobody's secrets in it. No image is built here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
CONTAINERFILE = REPOSITORY / "deploy" / "Containerfile"
RECIPE = re.sub(r"\\\n\s*", "", CONTAINERFILE.read_text(encoding="utf-8"))
STEPS = [line for line in RECIPE.splitlines() if line and not line.startswith("#")]
LOCK = REPOSITORY / "requirements" / "image.txt"


def steps(kind: str) -> list[str]:
    return [line.removeprefix(f"{kind} ") for line in STEPS if line.startswith(f"{kind} ")]


def test_the_linter_finds_nothing() -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    linter = shutil.which("hadolint", path=path)
    assert linter
    found = subprocess.run([linter, CONTAINERFILE], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


def test_every_stage_begins_with_the_one_pinned_image() -> None:
    (image,) = steps("ARG")
    assert re.fullmatch(
        r"PYTHON_IMAGE=\S+/python:\d+\.\d+\.\d+-slim-\w+@sha256:[0-9a-f]{64}", image
    )
    assert [each.split()[0] for each in steps("FROM")] == ["${PYTHON_IMAGE}"] * 2


def test_packages_come_from_the_lock_with_their_hashes_and_nothing_beside_it() -> None:
    installs = [part for step in steps("RUN") for part in step.split("&&") if "pip install" in part]
    assert len(installs) == 2
    assert "--require-hashes --no-deps" in installs[0]
    assert LOCK.relative_to(REPOSITORY).as_posix() in installs[0]
    assert "--no-index --no-build-isolation --no-deps" in installs[1]


def test_the_program_runs_as_the_user_that_the_chart_names() -> None:
    assert steps("USER") == ["10001:10001"]
    assert steps("ENTRYPOINT") == ['["doxstore"]']


def test_what_is_copied_is_there_and_is_all_that_is_sent_to_be_built() -> None:
    sources = [name for step in steps("COPY") if "--from" not in step for name in step.split()[:-1]]
    assert [name for name in sources if not (REPOSITORY / name).exists()] == []
    ignored = (REPOSITORY / "deploy" / "Containerfile.dockerignore").read_text(encoding="utf-8")
    rules = [line for line in ignored.splitlines() if not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule.removeprefix("!") for rule in rules if rule.startswith("!")} == set(sources)


def test_nothing_of_it_is_a_secret() -> None:
    words = re.compile("password|secret|token", re.IGNORECASE)
    assert [step for step in STEPS if words.search(step)] == []


@pytest.mark.parametrize("package", ["boto3", "hvac", "psycopg", "psycopg-binary"])
def test_the_image_can_do_what_settings_ask_for(package: str) -> None:
    assert re.search(rf"^{package}==", LOCK.read_text(encoding="utf-8"), re.MULTILINE)
